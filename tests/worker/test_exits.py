"""User code that wants to end the process, in every place where a run's code runs."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from holdfast.worker import exits


async def leaves() -> None:
    sys.exit(3)


async def leaves_in_a_task() -> None:
    await asyncio.create_task(leaves())


async def leaves_in_a_thread() -> None:
    await asyncio.to_thread(sys.exit, 3)


async def leaves_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(leaves())


async def is_interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("code", [leaves, leaves_in_a_task, leaves_in_a_thread, leaves_in_a_group, is_interrupted])
def test_code_that_ends_the_process_ends_its_task_with_an_error(
    code: Callable[[], Awaitable[None]], new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def server() -> list[BaseException | None]:
        exits.contain(asyncio.get_running_loop())
        run = exits.task(code(), name="run")
        await asyncio.wait([run])
        return [run.exception()]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        (error,) = runner.run(server())
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, exits.Exited)
    assert "SystemExit(3)" in str(error) or "KeyboardInterrupt" in str(error)


def test_a_task_that_is_cancelled_before_it_begins_leaves_nothing_behind() -> None:
    async def server() -> None:
        exits.contain(asyncio.get_running_loop())
        run = exits.task(leaves(), name="run")
        run.cancel()
        await asyncio.wait([run])
        assert run.cancelled()

    asyncio.run(server())
    gc.collect()  # A coroutine that was never awaited would warn here, and warnings are errors.


def test_outside_of_runs_tasks_are_as_ever() -> None:
    async def server() -> None:
        exits.contain(asyncio.get_running_loop())
        await asyncio.create_task(leaves())

    with pytest.raises(SystemExit):
        asyncio.run(server())
