"""The tables: which failure is which, and where each leads."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import httpx2
import openai
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.exceptions import ContextOverflowError, OutputParserException
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import ToolException
from langgraph.errors import GraphInterrupt, NodeTimeoutError
from langgraph.graph import END

from graph import routing
from graph.errors import (
    POLICIES,
    AnswerCutShortError,
    BusinessRuleError,
    classify,
    describe,
    is_worth_a_quick_retry,
    retry_after,
)

REQUEST = httpx2.Request("POST", "http://model.test/v1/chat/completions")


def answered(status: int, kind: type[openai.APIStatusError], code: str | None = None, **headers: str):
    response = httpx2.Response(status, request=REQUEST, headers=headers)
    return kind("no", response=response, body={"code": code})


def not_a_number() -> pydantic.ValidationError:
    try:
        pydantic.TypeAdapter(int).validate_python("x")
    except pydantic.ValidationError as error:
        return error
    raise AssertionError


CASES = [
    (answered(429, openai.RateLimitError), "rate_limit"),
    (answered(429, openai.RateLimitError, "insufficient_quota"), "auth"),
    (answered(401, openai.AuthenticationError), "auth"),
    (answered(403, openai.PermissionDeniedError), "auth"),
    (answered(400, openai.BadRequestError, "context_length_exceeded"), "context_length"),
    (answered(400, openai.BadRequestError), "system"),
    (answered(404, openai.NotFoundError), "system"),
    (answered(408, openai.APIStatusError), "timeout"),
    (answered(413, openai.APIStatusError), "context_length"),
    (answered(500, openai.InternalServerError), "service_unavailable"),
    (answered(503, openai.InternalServerError), "service_unavailable"),
    (answered(504, openai.InternalServerError), "timeout"),
    (answered(529, openai.InternalServerError), "service_unavailable"),
    (openai.APITimeoutError(REQUEST), "timeout"),
    (openai.APIConnectionError(request=REQUEST), "connection"),
    (openai.APIError("broken off", REQUEST, body=None), "service_unavailable"),
    (httpx.ReadTimeout("slow"), "timeout"),
    (httpx.ConnectError("refused"), "connection"),
    (httpx2.ReadTimeout("slow"), "timeout"),
    (httpx2.RemoteProtocolError("cut"), "connection"),
    (
        httpx.HTTPStatusError("no", request=httpx.Request("GET", "http://a"), response=httpx.Response(503)),
        "service_unavailable",
    ),
    (NodeTimeoutError("agent", 1.0, kind="run", run_timeout=1.0), "timeout"),
    (TimeoutError(), "timeout"),
    (ConnectionResetError(), "connection"),
    (AnswerCutShortError("cut"), "connection"),
    (ContextOverflowError("long"), "context_length"),
    (OutputParserException("what?"), "output_parsing"),
    (json.JSONDecodeError("what?", "x", 0), "output_parsing"),
    (not_a_number(), "output_parsing"),
    (ToolException("no"), "tool_failure"),
    (BusinessRuleError("not on Sundays"), "business_validation"),
    (RuntimeError("rate limit 429 timeout"), "system"),
    (KeyError("auth"), "system"),
    ("RateLimitError('only the text survived a crash')", "service_unavailable"),
]


@pytest.mark.parametrize(("error", "expected"), CASES, ids=lambda value: repr(value)[:60])
def test_a_failure_is_classified_by_its_code_status_or_type(error, expected):
    assert classify(error) == expected


def test_an_interrupt_is_never_a_failure():
    with pytest.raises(GraphInterrupt):
        classify(GraphInterrupt())
    assert not is_worth_a_quick_retry(GraphInterrupt())


def test_only_hiccups_are_retried_within_the_step():
    retried = {expected for error, expected in CASES if isinstance(error, Exception) and is_worth_a_quick_retry(error)}
    assert retried == {"connection", "service_unavailable"}


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({}, None, None),
        ({"retry-after": "7"}, 7, 7),
        ({"retry-after": "0.5"}, 0.5, 0.5),
        ({"retry-after": "-3"}, 0, 0),
        ({"retry-after": format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)}, 3600, 7200),
        ({"retry-after": "soon"}, None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(headers, low, high):
    seconds = retry_after(answered(429, openai.RateLimitError, **headers))
    assert seconds is None if low is None else low <= seconds <= high


def test_the_description_of_a_refused_key_does_not_repeat_the_answer():
    error = openai.AuthenticationError(
        "Incorrect API key provided: sk-secret", response=httpx2.Response(401, request=REQUEST), body=None
    )
    assert describe(error, "auth") == "AuthenticationError (HTTP 401)"


def failed(name: str, count: int, after: float | None = None, *, ask: bool = False) -> dict:
    error = {"class": name, "message": "", "node": "agent", "attempt": count, "retry_after": after, "turn": "t"}
    return {"messages": [], "error": {**error, "next_attempt_at": None, "ask": ask}, "retry_count": count}


@pytest.mark.parametrize("name", POLICIES)
def test_A2_retries_end_where_the_table_says(name):
    policy = POLICIES[name]
    for count in range(1, policy.retries + 1):
        again = "compact" if name == "context_length" else "retry"
        assert routing.after_failure(failed(name, count)) == again
    assert routing.after_failure(failed(name, policy.retries + 1)) == "give_up"
    end = "ask_human" if policy.retries else "give_up"
    assert routing.after_failure(failed(name, policy.retries + 1, ask=True)) == end


def test_A2_a_second_timeout_is_for_a_cheaper_model():
    assert not routing.wants_smaller(failed("timeout", 1))
    assert routing.wants_smaller(failed("timeout", 2))
    assert not routing.wants_smaller(failed("connection", 2))
    assert not routing.wants_smaller({"messages": []})


def test_an_unknown_class_in_an_old_checkpoint_is_given_up():
    assert routing.after_failure(failed("of another version", 1)) == "give_up"


def test_no_failure_on_record_means_go_on():
    assert routing.after_failure({"messages": []}) == "retry"


def test_A3_a_retry_after_beyond_patience_is_not_waited_for():
    assert routing.after_failure(failed("rate_limit", 1, after=59.0)) == "retry"
    assert routing.after_failure(failed("rate_limit", 1, after=61.0)) == "give_up"
    assert routing.after_failure(failed("rate_limit", 1, after=61.0, ask=True)) == "ask_human"


def test_attempts_are_counted_within_one_turn_only():
    state = failed("timeout", 2)
    assert routing.attempt_number(state, "t") == 3
    assert routing.attempt_number(state, "a later message") == 1
    assert routing.attempt_number({"messages": []}, "t") == 1


@given(
    attempt=st.integers(1, 20),
    asked=st.none() | st.floats(0, 60),
    first=st.floats(0.001, 5),
    dice=st.floats(0, 1, exclude_max=True),
)
def test_a_backoff_grows_has_a_cap_and_never_undercuts_the_other_side(attempt, asked, first, dice):
    wait = routing.backoff(attempt, asked, first, dice)
    assert 0 < wait <= routing.LONGEST_RETRY_AFTER
    assert wait >= (asked or 0)
    assert routing.backoff(attempt + 1, asked, first, dice) >= wait


def test_each_call_of_an_answer_becomes_a_task_of_its_own():
    calls = [{"name": "a", "args": {}, "id": "1"}, {"name": "b", "args": {}, "id": "2"}]
    broken = [{"name": "a", "args": "{", "id": "3", "error": None}]
    answer = AIMessage("", tool_calls=calls, invalid_tool_calls=broken)
    sends = routing.after_agent({"messages": [answer]})
    assert [(send.node, send.arg["call"]["id"]) for send in sends] == [("tools", i) for i in "123"]


@pytest.mark.parametrize("messages", [[], [HumanMessage("hi")], [AIMessage("hello")]])
def test_without_calls_the_turn_ends(messages):
    assert routing.after_agent({"messages": messages}) == END
