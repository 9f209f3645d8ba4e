"""State to bytes and back: LangGraph's serializer in strict mode, with a short way for messages.

A conversation is read back message by message, and most of that time goes into validating again what was valid when it
was written. LangChain's own message classes are therefore constructed without validation, from the very fields that
their `model_dump` wrote; every other type takes LangGraph's way, allow-list included.
"""

from __future__ import annotations

from typing import Any

import ormsgpack
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import EXT_PYDANTIC_V2, JsonPlusSerializer

_MESSAGES: dict[tuple[str, str], type[BaseMessage]] = {
    (cls.__module__, cls.__name__): cls for cls in (AIMessage, HumanMessage, SystemMessage, ToolMessage)
}


class StateSerializer(JsonPlusSerializer):
    """Reads the types that a graph's state declares (`with_msgpack_allowlist`) and messages; nothing else."""

    def __init__(self) -> None:
        super().__init__(allowed_msgpack_modules=None)

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
