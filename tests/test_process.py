"""The background tasks of a process, and its door."""

from __future__ import annotations

import asyncio
import socket

import pytest

from holdfast.errors import SettingsError
from holdfast.process import Server, Tasks, listen

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


async def nothing(*_: object) -> None:
    """An application that answers nothing."""


def test_a_door_takes_no_connection_before_it_is_served() -> None:
    with listen("127.0.0.1", 0) as door:
        address = door.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        Server(nothing, door)
        socket.create_connection(address).close()


def test_of_two_that_have_the_same_door_the_second_is_told_so() -> None:
    with listen("127.0.0.1", 0) as door:
        host, port = door.getsockname()
        with listen(host, port) as other:
            Server(nothing, door)
            with pytest.raises(SettingsError, match=f"cannot listen on {host}:{port}"):
                Server(nothing, other)
        with pytest.raises(SettingsError, match=f"cannot listen on {host}:{port}"):
            listen(host, port)
