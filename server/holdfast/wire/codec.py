"""Values to JSON bytes and back.

The common path is one `orjson.dumps` call. orjson refuses a few things that a graph's state may well hold: dict keys
that are not strings, integers over 64 bits, lone surrogates, exotic time zones. Such a document is written again, first
by orjson with its slower key handling, then by the exact path: `_plain` rebuilds the value from what JSON knows and
`json.dumps` writes it. Both paths know the same types, so which one ran cannot be told from the bytes' meaning.

A run must not fail because of a value: what no rule covers becomes its `str()`. Nesting is the one exception.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import enum
import functools
import json
import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Set, ValuesView
from datetime import date, datetime, time, timedelta
from typing import Any

import orjson
from langchain_core.messages import BaseMessage
from langgraph.errors import EmptyInputError, GraphBubbleUp, InvalidUpdateError, TaskNotFound
from langgraph.types import Send, StateSnapshot
from pydantic import BaseModel

from holdfast.errors import Refusal, UnserializableValue
from holdfast.telemetry.masking import without_secrets
from holdfast.wire.state import thread_state

MAX_DEPTH = 254
"""Levels of nesting that `dumps` writes; orjson stops at the same number."""

MAX_BODY_DEPTH = 200
"""Levels that `loads` accepts: what came in can be sent out again inside a few levels of envelope."""

_OPEN_ERRORS: tuple[type[BaseException], ...] = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    TimeoutError,
    InvalidUpdateError,
    GraphBubbleUp,
    EmptyInputError,
    TaskNotFound,
    asyncio.CancelledError,
    Refusal,
    UnserializableValue,
)
_ATTEMPTS = (orjson.OPT_PASSTHROUGH_DATETIME, orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS)
"""Dates and times are ours to write: orjson 3.13 gives `time(microsecond=10_000)` the fraction `.10000`."""

_REPLACEMENT = "\ufffd"
_NUL_OR_BACKSLASH = re.compile(rb"\\\\|\\u0000")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTAINERS = frozenset({dict, list})
_ZEROED = bytes.maketrans(b"123456789", b"000000000")
_WIDE_NUMBER = b"0" * 19
_PRINTABLE_INT_BITS = 14_000
_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1


def dumps(value: Any) -> bytes:
    """`value` as compact UTF-8 JSON without raw CR, LF or NUL (which is escaped, as JSON has it).

    Raises `UnserializableValue` when it is nested more than `MAX_DEPTH` levels deep, or refers to itself.
    """
    for option in _ATTEMPTS:
        try:
            return orjson.dumps(value, default=_hook, option=option)
        except orjson.JSONEncodeError:
            continue
    return _exact(value)


def written(value: Any) -> orjson.Fragment:
    """`value` as it is now, to be part of what `dumps` writes later, once or many times. Raises as `dumps` does."""
    if type(value) is list:  # long lists of messages: orjson would ask for each of them
        value = [_message(item) if _converter(type(item)) is _message else item for item in value]  # type: ignore[arg-type]
    return orjson.Fragment(dumps(value))


def for_jsonb(value: Any) -> Any:
    """`value` as JSON values that JSONB takes: NUL is U+FFFD. Raises as `dumps` does."""
    text = dumps(value)
    return loads(_without_nul(text) if b"\\u0000" in text else text)


def dumps_exact(value: Any) -> bytes:
    """What `loads` read, written back unchanged, NUL characters and wide integers included."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def loads(body: bytes) -> Any:
    """Strict JSON; integers of up to 308 digits keep their value. Raises `ValueError` for anything else."""
    try:
        value = orjson.loads(body)
        if _WIDE_NUMBER in body.translate(_ZEROED):
            value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("Invalid JSON in request body") from error
    if body.count(b"[") + body.count(b"{") > MAX_BODY_DEPTH and _deeper_than(MAX_BODY_DEPTH, value):
        raise ValueError("Invalid JSON in request body")
    return value


def loads_request(body: bytes) -> Any:
    """What a client sent. Raises `ValueError` also for integers over 64 bits, which no checkpoint can hold."""
    value = loads(body)
    if _WIDE_NUMBER in body.translate(_ZEROED):
        json.loads(body, parse_int=_refuse_wide)
    return value


def _refuse_wide(digits: str) -> int:
    if not _MIN_INT <= (number := int(digits)) <= _MAX_INT:
        raise ValueError("Integers over 64 bits are not supported")
    return number


def error_body(exc: BaseException) -> dict[str, str]:
    """`{"error", "message"}`, ready for JSONB; the text of a class that nobody vouched for stays inside, and
    what looks like a secret in any other."""
    is_open = isinstance(exc, _OPEN_ERRORS) or any(kind.__name__ == "HTTPException" for kind in type(exc).__mro__)
    message = without_secrets(_text(exc)) if is_open else "An internal error occurred"
    body: dict[str, str] = for_jsonb({"error": type(exc).__name__, "message": message})
    return body


def _without_nul(text: bytes) -> bytes:
    replacement = _REPLACEMENT.encode()
    return _NUL_OR_BACKSLASH.sub(lambda m: replacement if m[0] == b"\\u0000" else m[0], text)


def _deeper_than(limit: int, value: Any) -> bool:
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) in _CONTAINERS
        ]
        if not level:
            return False
    return True


def _hook(value: Any) -> Any:
    """What orjson should write instead of a value it does not know."""
    try:
        return _converter(type(value))(value)  # type: ignore[arg-type]  # mypy takes a class for unhashable
    except Exception:  # noqa: BLE001 the value's own methods run here, and a run must survive them
        return _text(value)


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 as in `_hook`
        return f"<{type(value).__name__}>"


@functools.lru_cache(maxsize=1024)
def _converter(kind: type) -> Callable[[Any], Any]:
    if issubclass(kind, BaseMessage) and kind.__module__.startswith("langchain_core."):
        return _message
    for kinds, convert in _CONVERTERS:
        if issubclass(kind, kinds):
            return convert
    if hasattr(kind, "__fields__") and hasattr(kind, "dict"):
        return lambda model: model.dict()
    if hasattr(kind, "tolist"):
        return lambda array: array.tolist()
    return _text


def _message(message: BaseMessage) -> dict[str, Any]:
    """`message.model_dump()` at a fifth of its price: langchain_core's own classes have no custom serialisers."""
    extra = message.__pydantic_extra__
    return {**message.__dict__, **extra} if extra else message.__dict__


def _base64(data: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(data).decode()


_CONVERTERS: tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...] = (
    (BaseModel, lambda model: model.model_dump(warnings=False)),
    (BaseException, error_body),
    (StateSnapshot, thread_state),
    (Send, lambda send: {"node": send.node, "arg": send.arg}),
    ((tuple, deque, range, Set, ValuesView), list),
    (Mapping, dict),
    ((bytes, bytearray, memoryview), _base64),
    (re.Pattern, lambda pattern: pattern.pattern),
    (timedelta, lambda delta: delta.total_seconds()),
    (datetime, datetime.isoformat),
    (date, date.isoformat),
    (time, time.isoformat),
    (float, float),
)
"""First match wins. Decimal, paths, UUIDs, addresses and zones need no rule: their text is their JSON."""


def _exact(value: Any) -> bytes:
    try:
        text = json.dumps(_plain(value, 0), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError as error:
        raise UnserializableValue("The value is nested too deeply for JSON") from error
    return text.encode()


def _plain(value: Any, depth: int) -> Any:
    """`value` rebuilt from str, int, float, bool, None, list and dict alone."""
    if depth > MAX_DEPTH:
        raise UnserializableValue(f"The value is nested more than {MAX_DEPTH} levels deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, orjson.Fragment):
        return json.loads(orjson.dumps(value))
    if isinstance(value, enum.Enum):
        return _plain(value.value, depth)
    if isinstance(value, str | int | float):
        return _scalar(value)
    if isinstance(value, dict):
        return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, orjson.Fragment):
        return _plain(orjson.loads(value.contents), depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(_fields(value), depth)
    return _plain(_hook(value), depth + 1)


def _fields(instance: Any) -> dict[str, Any]:
    names = (field.name for field in dataclasses.fields(instance))
    return {name: getattr(instance, name) for name in names if not name.startswith("_") and hasattr(instance, name)}


def _scalar(value: str | float) -> str | float | None:
    if isinstance(value, str):
        return _scalar_text(value)
    if isinstance(value, int):
        # Python refuses to print integers of more than 4,300 digits in decimal.
        return int(value) if value.bit_length() < _PRINTABLE_INT_BITS else hex(value)
    return float(value) if math.isfinite(value) else None


def _scalar_text(text: str) -> str:
    if _SURROGATE.search(text):
        # UTF-16 joins the two halves of a character that arrived as a surrogate pair.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _key(key: Any) -> str:
    """The spelling that orjson gives a dict key that is not a string."""
    if isinstance(key, enum.Enum):
        return _key(key.value)
    if isinstance(key, str):
        return _scalar_text(key)
    if key is None or isinstance(key, bool | float):
        return orjson.dumps(float(key) if isinstance(key, float) else key).decode()
    if isinstance(key, int):
        return str(_scalar(key))
    if isinstance(key, datetime | date | time):
        return key.isoformat()
    return _scalar_text(_text(key))
