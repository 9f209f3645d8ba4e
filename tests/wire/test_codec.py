from __future__ import annotations

import asyncio
import enum
import json
import re
import uuid
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.errors import GraphRecursionError, InvalidUpdateError
from langgraph.types import Command, Interrupt, Send
from pydantic import BaseModel, SecretStr, field_serializer

from holdfast.errors import Conflict, DatabaseError, UnserializableValue
from holdfast.wire.codec import MAX_BODY_DEPTH, MAX_DEPTH, dumps, error_body, for_jsonb, loads, written

Point = namedtuple("Point", "x y")
INVALID = "Invalid JSON in request body"


class Colour(enum.Enum):
    RED = "red"


class Model(BaseModel):
    name: str
    secret: SecretStr


class OwnMessage(HumanMessage):
    mood: str

    @field_serializer("mood")
    def shout(self, mood: str) -> str:
        return mood.upper()


class Array:
    def tolist(self) -> list[float]:
        return [1.5, 2.5]


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("not even a name")


class BrokenModel(BaseModel):
    def model_dump(self, **_: Any) -> dict[str, Any]:
        raise RuntimeError("broken")

    def __str__(self) -> str:
        return "a broken model"


@dataclass
class Pair:
    left: Any
    right: Any
    _hidden: int = 0


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def through(value: Any) -> Any:
    return json.loads(dumps(value))


MESSAGES = [
    AIMessage("x", id="1", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c"}]),
    AIMessageChunk("x", tool_call_chunks=[{"name": "add", "args": '{"a', "id": "c", "index": 0}]),
    AIMessage(
        [{"type": "text", "text": "x"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        response_metadata={"model_name": "m"},
    ),
    HumanMessage("x", name="ann", additional_kwargs={"k": [1]}),
    HumanMessage("x", example=True, house="extra fields are allowed"),
    SystemMessage("x"),
    ToolMessage("x", tool_call_id="c", artifact={"rows": [1, 2]}, status="error"),
    FunctionMessage("x", name="f"),
    ChatMessage("x", role="judge"),
    RemoveMessage("1"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_its_model_dump(message: Any) -> None:
    assert through([message]) == [json.loads(json.dumps(message.model_dump()))]


def test_a_message_class_of_the_user_keeps_its_own_serialisers() -> None:
    assert through(OwnMessage("x", mood="calm"))["mood"] == "CALM"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Point(1, 2), [1, 2]),
        (deque([1, 2]), [1, 2]),
        ({3}, [3]),
        (frozenset({3}), [3]),
        (range(2), [0, 1]),
        (OrderedDict(a=1).keys(), ["a"]),
        (OrderedDict(a=1).values(), [1]),
        (b"\x00\xff", "AP8="),
        (bytearray(b"a"), "YQ=="),
        (memoryview(b"a"), "YQ=="),
        (Decimal("1.10"), "1.10"),
        (PurePosixPath("/a/b"), "/a/b"),
        (Colour.RED, "red"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02T03:04:05.000006+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4), "03:04:00"),
        (time(3, 4, 5, 10_000), "03:04:05.010000"),
        (time(3, 4, tzinfo=UTC), "03:04:00+00:00"),
        (timedelta(seconds=90), 90.0),
        (re.compile("a+"), "a+"),
        (ip_address("::1"), "::1"),
        (ip_address("10.0.0.1"), "10.0.0.1"),
        (ZoneInfo("Europe/Berlin"), "Europe/Berlin"),
        (float("nan"), None),
        (float("-inf"), None),
        (2**64, 2**64),
        (-(2**200), -(2**200)),
        ("a\x00b", "a\x00b"),
        ("a\\u0000b", "a\\u0000b"),
        ("\\\x00", "\\\x00"),
        ("lone \ud800!", "lone \ufffd!"),
        ("\udc00", "\ufffd"),
        ("pair \ud83d\ude00", "pair \U0001f600"),
        ({2: "a", None: "b", True: "c", 1.5: "d"}, {"2": "a", "null": "b", "true": "c", "1.5": "d"}),
        ({(1, 2): "a"}, {"(1, 2)": "a"}),
        ({2**70: "a", Colour.RED: "b"}, {str(2**70): "a", "red": "b"}),
        ({"k\x00": 1}, {"k\x00": 1}),
        (Array(), [1.5, 2.5]),
        (Pair(1, {2}), {"left": 1, "right": [2]}),
        (Model(name="n", secret=SecretStr("hush")), {"name": "n", "secret": "**********"}),
        (
            Document("text", metadata={"page": 1}),
            {"id": None, "metadata": {"page": 1}, "page_content": "text", "type": "Document"},
        ),
        (Send("node", {"a": (1,)}), {"node": "node", "arg": {"a": [1]}}),
        (
            Command(resume={"a": 1}, goto=[Send("n", 1)]),
            {"graph": None, "update": None, "resume": {"a": 1}, "goto": [{"node": "n", "arg": 1}]},
        ),
        (Interrupt({"q": 1}, id="i"), {"value": {"q": 1}, "id": "i", "response_schema": None}),
        (BrokenModel(), "a broken model"),
        (Hostile(), "<Hostile>"),
        (int, "<class 'int'>"),
    ],
)
def test_a_value_that_json_does_not_know_has_one_spelling(value: Any, expected: Any) -> None:
    assert through(value) == expected
    # A neighbour of more than 64 bits sends the whole document down the exact path.
    assert through([value, 2**65]) == [expected, 2**65]


def test_a_pydantic_v1_model_is_an_object() -> None:
    class Legacy:
        __fields__ = {"a": None}

        def dict(self) -> dict[str, Any]:
            return {"a": 1}

    assert through(Legacy()) == {"a": 1}


def test_a_time_with_an_unusual_zone_is_still_a_time() -> None:
    moment = datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert through([moment]) == ["2026-01-02T00:00:00+05:30"]
    assert through([moment, 2**65]) == ["2026-01-02T00:00:00+05:30", 2**65]


@pytest.mark.parametrize(
    "value", [{"a": [1, "\x00"]}, [HumanMessage("hi"), "plain", AIMessage("ho", extra=1)], {1: 2}, ["\ud800", 10**30]]
)
@pytest.mark.parametrize("beside", [None, 10**30, {2: 3}])
def test_what_was_written_earlier_is_part_of_a_document_as_if_it_were_the_value(value: Any, beside: Any) -> None:
    assert loads(dumps({"v": written(value), "beside": beside})) == loads(dumps({"v": value, "beside": beside}))


def test_what_was_written_shows_the_value_as_it_was() -> None:
    value = [HumanMessage("before")]
    shown = written(value)
    value[0].content = "after"
    value.append(HumanMessage("more"))
    assert dumps([shown]) == dumps([[HumanMessage("before")]])


def test_an_integer_too_long_for_decimal_survives_as_hexadecimal() -> None:
    assert through([2**20_000]) == [hex(2**20_000)]


@pytest.mark.parametrize("extra", [[], [2**65]], ids=["fast path", "exact path"])
def test_nesting_beyond_the_limit_is_refused_with_our_error(extra: list[Any]) -> None:
    assert through([nested(MAX_DEPTH - 1), *extra])
    with pytest.raises(UnserializableValue):
        dumps([nested(MAX_DEPTH + 2), *extra])


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UnserializableValue):
        dumps(loop)


JSON_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**500), 2**500)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
)
JSON_VALUES = st.recursive(
    JSON_SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), inner, max_size=4
        )
    ),
    max_leaves=20,
)
ANY_TEXT = st.text(st.characters() | st.characters(categories=["Cs"]) | st.just("\x00") | st.just("\\"))
ANY_KEYS = ANY_TEXT | st.integers() | st.floats() | st.none() | st.tuples(st.integers()) | st.uuids() | st.dates()
ANY_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | ANY_TEXT
    | st.binary()
    | st.decimals()
    | st.complex_numbers()
    | st.uuids()
    | st.datetimes()
    | st.datetimes(timezones=st.timezones())
    | st.times()
    | st.timedeltas()
    | st.frozensets(st.integers() | ANY_TEXT)
    | st.sampled_from([Hostile(), BrokenModel(), Colour.RED, object(), object, len, ..., Point(1, "\ud800")])
    | ANY_TEXT.map(AIMessage)
    | ANY_TEXT.map(ValueError)
)
ANY_VALUES = st.recursive(
    ANY_SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(ANY_KEYS, inner, max_size=4)
        | st.builds(Pair, inner, inner)
        | st.builds(Send, st.just("n"), inner)
    ),
    max_leaves=20,
)


def test_an_errors_text_is_one_that_jsonb_takes() -> None:
    assert error_body(ValueError("a\x00b \ud800"))["message"] == "a\ufffdb \ufffd"
    assert for_jsonb({"k\x00": ["\\u0000", "\x00"], "n": -0.0}) == {"k\ufffd": ["\\u0000", "\ufffd"], "n": -0.0}


@settings(deadline=None)
@given(JSON_VALUES)
def test_json_values_come_back_as_they_were(value: Any) -> None:
    assert loads(dumps(value)) == value


@settings(deadline=None)
@given(ANY_VALUES)
def test_any_python_value_becomes_one_line_of_valid_json(value: Any) -> None:
    text = dumps(value)
    assert not {0, 10, 13} & set(text)
    json.loads(text.decode())


@settings(deadline=None)
@given(ANY_VALUES.filter(lambda value: isinstance(value, str | dict | list)))
def test_both_paths_write_the_same_meaning(value: Any) -> None:
    assert json.loads(dumps([value, 2**65]))[0] == json.loads(dumps(value))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b"NaN",
        b"[1,]",
        b"{'a':1}",
        b"\xff",
        b'"\\ud800"',
        b"1" * 400,
        b"1e999",
        b"[" * 10_000 + b"]" * 10_000,
        b"[" * 10_000,
        b"[" * (MAX_BODY_DEPTH + 1) + b"]" * (MAX_BODY_DEPTH + 1),
        b'{"a":' * (MAX_BODY_DEPTH + 1) + b"1" + b"}" * (MAX_BODY_DEPTH + 1),
    ],
    ids=lambda body: repr(body[:10]),
)
def test_a_body_that_is_not_json_has_one_message(body: bytes) -> None:
    with pytest.raises(ValueError, match=INVALID):
        loads(body)


def test_a_body_may_be_as_deep_as_the_limit_and_as_wide_as_it_likes() -> None:
    assert loads(dumps(nested(MAX_BODY_DEPTH))) == nested(MAX_BODY_DEPTH)
    assert loads(b"[" + b",".join([b"[]"] * 1_000) + b"]") == [[]] * 1_000


def test_wide_integers_are_not_rounded() -> None:
    assert loads(b'{"id": 12345678901234567890123, "f": 0.1234567890123456789}') == {
        "id": 12345678901234567890123,
        "f": 0.1234567890123456789,
    }


# `wire` does not import the web framework: it knows this class by its name.
HTTPException = type("HTTPException", (Exception,), {})


class PaymentError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        (ValueError("bad"), "ValueError", "bad"),
        (KeyError("k"), "KeyError", "'k'"),
        (GraphRecursionError("limit"), "GraphRecursionError", "limit"),
        (TimeoutError("late"), "TimeoutError", "late"),
        (InvalidUpdateError("twice"), "InvalidUpdateError", "twice"),
        (HTTPException("404: Run not found"), "HTTPException", "404: Run not found"),
        (asyncio.CancelledError("stop"), "CancelledError", "stop"),
        (Conflict("busy"), "Conflict", "busy"),
        (PaymentError("card 4111"), "PaymentError", "An internal error occurred"),
        (DatabaseError("password=x"), "DatabaseError", "An internal error occurred"),
        (OSError("/etc/secret"), "OSError", "An internal error occurred"),
    ],
)
def test_only_the_text_of_known_exceptions_gets_out(error: BaseException, name: str, message: str) -> None:
    assert error_body(error) == {"error": name, "message": message}
    assert through({"error": error}) == {"error": {"error": name, "message": message}}


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-4be1Zz9Kq83LmNpQ",
        "connection to postgresql://app:hunter22@db/prod failed",
        "header Authorization: Bearer abcdefgh12345678 was refused",
        "password=hunter22 is wrong",
    ],
)
def test_an_errors_text_reaches_clients_without_the_secrets_in_it(text: str) -> None:
    message = error_body(ValueError(text))["message"]
    assert message != text
    assert not any(secret in message for secret in ("4be1Zz9", "hunter22", "abcdefgh"))
    assert error_body(ValueError("ada@example.com has no account"))["message"] == "ada@example.com has no account"
