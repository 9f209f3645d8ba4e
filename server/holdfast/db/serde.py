"""State to bytes and back: LangGraph's serializer in strict mode, with short ways for messages.

A conversation is read back message by message, and most of that time goes into validating again what was valid when it
was written. LangChain's own message classes are therefore constructed without validation, from the very fields that
their `model_dump` wrote; every other type takes LangGraph's way, allow-list included.

What cannot be read is an error (`Unreadable`): LangGraph's own reader gives `None` for damaged bytes, and the stored
fields where a class that the graph declares refuses them. A class that the graph does not declare stays plain data.

msgpack ends at 64 bits. A value with a wider integer in it (a model's tool call may well hold one) is packed a second
time, such integers as calls of `int`, which LangGraph's reading code knows how to make.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ormsgpack
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolCall, ToolMessage
from langgraph.checkpoint.serde.jsonplus import (
    EXT_CONSTRUCTOR_SINGLE_ARG,
    EXT_DELTA_SNAPSHOT,
    EXT_NUMPY_ARRAY,
    EXT_PYDANTIC_V2,
    JsonPlusSerializer,
    _msgpack_default,
    _option,
)
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from pydantic import BaseModel

from holdfast.errors import Unreadable

_MESSAGES: dict[tuple[str, str], type[BaseMessage]] = {
    (cls.__module__, cls.__name__): cls for cls in (AIMessage, HumanMessage, SystemMessage, ToolMessage)
}
_FIELDS: dict[type, tuple[str, ...]] = {cls: tuple(cls.model_fields) for cls in _MESSAGES.values()}
_CALL = frozenset(ToolCall.__annotations__)
"""All that LangChain declares of a tool call."""


_INT = ("builtins", "int")


class StateSerializer(JsonPlusSerializer):
    """Reads the types that a graph's state declares (`with_msgpack_allowlist`) and messages; nothing else."""

    def __init__(self) -> None:
        super().__init__(allowed_msgpack_modules=[_INT])

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        try:
            if obj is None or isinstance(obj, bytes | bytearray):
                return super().dumps_typed(obj)
            return "msgpack", ormsgpack.packb(obj, default=_shortly, option=_option)
        except TypeError:
            return "msgpack", _pack_widely(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value.

        Raises:
            Unreadable: the bytes are damaged, of a kind that is not known, or of a class that no longer takes them.
        """
        kind, blob = data
        failures: list[Exception] = []  # ormsgpack tells that a hook failed, not how

        def read(code: int, blob: bytes) -> Any:
            try:
                return self._read(code, blob, read)
            except Exception as error:
                failures.append(error)
                raise

        try:
            return _unpack(blob, read) if kind == "msgpack" else super().loads_typed(data)
        except Exception as error:  # damaged bytes and the project's own classes raise anything
            reason = failures[0] if failures else error
            known = isinstance(reason, Unreadable)
            raise Unreadable(str(reason) if known else f"{type(reason).__name__}: {reason}") from error

    def _read(self, code: int, blob: bytes, read: Callable[[int, bytes], Any]) -> Any:
        if code == EXT_DELTA_SNAPSHOT:
            return _DeltaSnapshot(_unpack(blob, read))
        if code == EXT_PYDANTIC_V2:
            module, name, fields, *_ = _unpack(blob, read)
            if (cls := _MESSAGES.get((module, name))) is not None:
                return _message(cls, fields)
        named = _named(code, blob)
        value = self._unpack_ext_hook(code, blob)
        if named is not None and self._declares(named):
            cls = getattr(importlib.import_module(named[0]), named[1])
            if isinstance(cls, type) and not isinstance(value, cls):
                raise Unreadable(f"{'.'.join(named)} does not take what is stored of it")
        return value

    def _declares(self, named: tuple[str, str]) -> bool:
        allowed = self._allowed_msgpack_modules
        return isinstance(allowed, set) and named in allowed


def _unpack(blob: bytes, read: Callable[[int, bytes], Any]) -> Any:
    return ormsgpack.unpackb(blob, ext_hook=read, option=ormsgpack.OPT_NON_STR_KEYS)


def _message(cls: type[BaseMessage], fields: dict[str, Any]) -> BaseMessage:
    """`cls.model_construct(**fields)`, at a third of its price where there is every field, in order, and nothing else:
    then these are the instance's attributes as they stand."""
    if tuple(fields) != _FIELDS[cls]:
        return cls.model_construct(**fields)
    message = cls.__new__(cls)
    object.__setattr__(message, "__dict__", fields)
    object.__setattr__(message, "__pydantic_fields_set__", set(fields))
    object.__setattr__(message, "__pydantic_extra__", {})
    object.__setattr__(message, "__pydantic_private__", None)
    return message


def _named(code: int, blob: bytes) -> tuple[str, str] | None:
    """Module and name of the class that is stored; whatever is inside is looked at too, since the stock reader gives
    `None` for what is damaged."""
    stored = _unpack(blob, _named)
    if code == EXT_DELTA_SNAPSHOT:
        return None
    if code == EXT_NUMPY_ARRAY:
        importlib.import_module("numpy")
        return None
    if not (0 <= code <= EXT_PYDANTIC_V2 and isinstance(stored, list | tuple) and len(stored) > 2):
        raise Unreadable(f"an extension of msgpack that nobody knows ({code})")
    return stored[0], stored[1]


def _shortly(value: Any) -> Any:
    """What LangGraph's serializer makes of a value; of a message that holds nothing but what msgpack knows, without
    `model_dump`, which copies it, and leaves out what LangChain does not declare of calls and usage."""
    kind = type(value)
    if (names := _FIELDS.get(kind)) is not None and not value.__pydantic_extra__:
        fields = value.__dict__
        if tuple(fields) == names and _is_declared(fields):
            named = (kind.__module__, kind.__name__, fields, "model_validate_json")
            with suppress(TypeError):
                return ormsgpack.Ext(EXT_PYDANTIC_V2, ormsgpack.packb(named, option=_option))
    return _msgpack_default(value)


def _is_declared(fields: dict[str, Any]) -> bool:
    if fields.get("invalid_tool_calls") or fields.get("usage_metadata"):
        return False
    return all(type(call) is dict and call.keys() <= _CALL for call in fields.get("tool_calls") or ())


def _pack_widely(value: Any) -> bytes:
    return ormsgpack.packb(value, default=_widely, option=_option | ormsgpack.OPT_PASSTHROUGH_BIG_INT)


def _widely(value: Any) -> Any:
    if isinstance(value, int):
        return ormsgpack.Ext(EXT_CONSTRUCTOR_SINGLE_ARG, ormsgpack.packb((*_INT, str(value))))
    if isinstance(value, _DeltaSnapshot):
        return ormsgpack.Ext(EXT_DELTA_SNAPSHOT, _pack_widely(value.value))
    if isinstance(value, BaseModel):
        fields = value.model_dump()
        named = (type(value).__module__, type(value).__name__, fields, "model_validate_json")
        return ormsgpack.Ext(EXT_PYDANTIC_V2, _pack_widely(named))
    return _msgpack_default(value)
