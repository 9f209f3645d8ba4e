"""The background tasks of a process."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.process import Tasks

pytestmark = pytest.mark.anyio


async def test_a_task_that_outlives_a_cancellation_is_cancelled_again() -> None:
    failed, outlived = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            outlived.set()
        await asyncio.sleep(60)

    tasks = Tasks(failed)
    tasks.start("stubborn", stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await tasks.stop()
    assert outlived.is_set()
    assert not failed.is_set()


async def test_a_task_that_ends_by_itself_is_a_failure_of_the_process() -> None:
    failed = asyncio.Event()
    tasks = Tasks(failed)
    tasks.start("short", asyncio.sleep(0))
    tasks.start("allowed", asyncio.sleep(0), may_end=True)
    async with asyncio.timeout(10):
        await failed.wait()
        await tasks.stop()
