"""Objects of the project that live as long as the process: what langgraph.json names, or what it makes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from holdfast.worker.factory import Factory
from holdfast.worker.graphs import Graphs

T = TypeVar("T")


@asynccontextmanager
async def opened_object(graphs: Graphs, what: str, path: str, kind: type[T]) -> AsyncIterator[T]:
    """The object of this kind at `path`, or from the function or context manager there.

    Args:
        what: the key of langgraph.json.

    Raises:
        ProjectError: it does not load, or is something else.
    """
    value, place = await asyncio.to_thread(graphs.load_object, what, path)
    if isinstance(value, kind):
        yield value
        return
    if not inspect.isroutine(value):
        wanted = f"neither a {kind.__name__} nor a function that makes one"
        raise graphs.failure(what, path, place, f"{value!r} is {wanted}")
    try:
        manager = Factory(value).made({}, None)
        made = await manager.__aenter__()
    except Exception as error:  # user code may raise anything
        raise graphs.failure(what, path, place, error) from error
    try:
        if not isinstance(made, kind):
            raise graphs.failure(what, path, place, f"what it made is {made!r}, not a {kind.__name__}")
        yield made
    finally:
        await manager.__aexit__(None, None, None)
