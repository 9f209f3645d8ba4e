"""`sys.exit()` in a node is the end of its run, not of the process.

asyncio keeps SystemExit and KeyboardInterrupt in no task: it throws them at whoever runs the loop, and the server with
all its runs would end. So whatever task is made inside a run, by LangGraph or by a node, turns them into an error.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

_in_a_run: ContextVar[bool] = ContextVar("holdfast_in_a_run", default=False)


class Exited(RuntimeError):
    """User code wanted the process to end."""


def task(work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """A task in which user code runs, and may make more tasks."""
    context = copy_context()
    context.run(_in_a_run.set, True)
    return context.run(asyncio.create_task, work, name=name)


def contain(loop: asyncio.AbstractEventLoop) -> None:
    """Let no task of a run end the loop."""
    loop.set_task_factory(_task)


def _task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    if not _in_a_run.get():
        return asyncio.Task(work, loop=loop, **options)
    contained = _RunsTask(_contained(work), loop=loop, **options)
    # A task that is cancelled before its first step never awaits what it was made for.
    contained.add_done_callback(lambda _: work.close())
    return contained


if sys.version_info >= (3, 12):
    _RunsTask = asyncio.Task
else:

    class _RunsTask(asyncio.Task[Any]):
        """Knows its context, as all tasks do from Python 3.12 on: so `telemetry/looplag.py` knows whose it is."""

        def __init__(self, work: Coroutine[Any, Any, Any], *, context: Context | None = None, **options: Any) -> None:
            self._context_of_its_own = context or copy_context()
            super().__init__(work, context=self._context_of_its_own, **options)

        def get_context(self) -> Context:
            return self._context_of_its_own


async def _contained(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise Exited(f"The graph's code ended with {type(error).__name__}({error})") from error
