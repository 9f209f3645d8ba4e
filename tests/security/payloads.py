"""Stored or sent data that would run code if somebody took it for more than data.

    CVE-2025-64439    LangGraph's JSON serializer called what a checkpoint named (`lc`, `constructor`)
    CVE-2026-28277    its msgpack extensions name a class and call it
    CVE-2025-68664    LangChain took users' dicts with a key `lc` for its own objects
    pickle            runs what it says

Each payload makes a file when it is executed.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde.jsonplus import (
    EXT_CONSTRUCTOR_KW_ARGS,
    EXT_CONSTRUCTOR_POS_ARGS,
    EXT_CONSTRUCTOR_SINGLE_ARG,
    EXT_DELTA_SNAPSHOT,
    EXT_METHOD_SINGLE_ARG,
    EXT_NUMPY_ARRAY,
    EXT_PYDANTIC_V1,
    EXT_PYDANTIC_V2,
)


class _Touches:
    """What a pickle of it does when it is read."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> Any:
        import os

        return os.system, (self._command,)


def stored(trap: Path) -> Iterator[tuple[str, str, bytes]]:
    """Name, type and bytes of values as a checkpoint holds them."""
    command = f"touch {trap}"
    yield "pickle", "pickle", pickle.dumps(_Touches(command))
    yield "json constructor", "json", json.dumps(constructor(command)).encode()
    ways = {
        "constructor of one": (EXT_CONSTRUCTOR_SINGLE_ARG, ("os", "system", command)),
        "constructor of several": (EXT_CONSTRUCTOR_POS_ARGS, ("os", "system", (command,))),
        "constructor by name": (EXT_CONSTRUCTOR_KW_ARGS, ("os", "system", {"command": command})),
        "subprocess": (EXT_CONSTRUCTOR_POS_ARGS, ("subprocess", "Popen", (["touch", str(trap)],))),
        "eval": (EXT_CONSTRUCTOR_SINGLE_ARG, ("builtins", "eval", f"open({str(trap)!r}, 'w').close()")),
        "path": (EXT_METHOD_SINGLE_ARG, ("pathlib", "Path", str(trap), "touch")),
        "method": (EXT_METHOD_SINGLE_ARG, ("os", "environ", command, "system")),
        "pydantic 1": (EXT_PYDANTIC_V1, ("os", "system", {"command": command}, "construct")),
        "pydantic 2": (EXT_PYDANTIC_V2, ("os", "system", {"command": command}, "model_validate_json")),
        "array": (EXT_NUMPY_ARRAY, ("os", "system", (command,), "C", b"")),
    }
    for name, (code, named) in ways.items():
        inner = ormsgpack.Ext(code, ormsgpack.packb(named))
        yield f"msgpack {name}", "msgpack", ormsgpack.packb(inner)
        yield f"msgpack {name}, in a list", "msgpack", ormsgpack.packb([{"a": inner}])
        yield (
            f"msgpack {name}, in a snapshot",
            "msgpack",
            ormsgpack.packb(ormsgpack.Ext(EXT_DELTA_SNAPSHOT, ormsgpack.packb(inner))),
        )


def constructor(command: str) -> dict[str, Any]:
    """What a serializer of LangChain's or LangGraph's once called."""
    return {"lc": 2, "type": "constructor", "id": ["os", "system"], "args": [command], "kwargs": {}}


def data(trap: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a client may say: it is data, and stays it."""
    command = f"touch {trap}"
    yield "constructor", constructor(command)
    yield (
        "of LangChain",
        {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain_core", "prompts", "PromptTemplate"],
            "kwargs": {"template": f"{{{{ ''.__class__.__mro__ }}}} {command}", "template_format": "jinja2"},
        },
    )
    yield "secret", {"lc": 1, "type": "secret", "id": ["PLANTED_SECRET"]}
