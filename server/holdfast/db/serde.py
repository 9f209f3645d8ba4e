"""State to bytes and back: LangGraph's serializer in strict mode, with a short way for messages.

A conversation is read back message by message, and most of that time goes into validating again what was valid when it
was written. LangChain's own message classes are therefore constructed without validation, from the very fields that
their `model_dump` wrote; every other type takes LangGraph's way, allow-list included.

msgpack ends at 64 bits. A value with a wider integer in it (a model's tool call may well hold one) is packed a second
time, such integers as calls of `int`, which LangGraph's reading code knows how to make.
"""

from __future__ import annotations

from typing import Any

import ormsgpack
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import (
    EXT_CONSTRUCTOR_SINGLE_ARG,
    EXT_DELTA_SNAPSHOT,
    EXT_PYDANTIC_V2,
    JsonPlusSerializer,
    _msgpack_default,
    _option,
)
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from pydantic import BaseModel

_MESSAGES: dict[tuple[str, str], type[BaseMessage]] = {
    (cls.__module__, cls.__name__): cls for cls in (AIMessage, HumanMessage, SystemMessage, ToolMessage)
}


_INT = ("builtins", "int")


class StateSerializer(JsonPlusSerializer):
    """Reads the types that a graph's state declares (`with_msgpack_allowlist`) and messages; nothing else."""

    def __init__(self) -> None:
        super().__init__(allowed_msgpack_modules=[_INT])

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        try:
            return super().dumps_typed(obj)
        except TypeError:
            return "msgpack", _pack_widely(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        kind, blob = data
        if kind != "msgpack":
            return super().loads_typed(data)
        return ormsgpack.unpackb(blob, ext_hook=self._read, option=ormsgpack.OPT_NON_STR_KEYS)

    def _read(self, code: int, blob: bytes) -> Any:
        if code == EXT_PYDANTIC_V2:
            module, name, fields, *_ = ormsgpack.unpackb(
                blob, ext_hook=self._unpack_ext_hook, option=ormsgpack.OPT_NON_STR_KEYS
            )
            if (cls := _MESSAGES.get((module, name))) is not None:
                return cls.model_construct(**fields)
        return self._unpack_ext_hook(code, blob)


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
