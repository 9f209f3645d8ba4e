"""Large bodies come as fast as others can bear: an owner's share, and nobody else's."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.api.reading import LARGE_BYTES_PER_SECOND, Paces
from holdfast.rules.caller import Caller

pytestmark = pytest.mark.anyio


async def test_the_bodies_of_an_owner_share_a_pace() -> None:
    paces, loop = Paces(), asyncio.get_running_loop()
    one, two = paces.of(Caller("ada")), paces.of(Caller("ada"))
    began = loop.time()
    await asyncio.gather(*(pace.take(LARGE_BYTES_PER_SECOND // 10) for pace in (one, two)))
    assert loop.time() - began > 0.19


async def test_nobody_waits_for_another() -> None:
    paces = Paces()
    mallory = asyncio.create_task(paces.of(Caller("mallory")).take(3600 * LARGE_BYTES_PER_SECOND))
    unknown = asyncio.create_task(paces.of(None).take(3600 * LARGE_BYTES_PER_SECOND))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await paces.of(Caller("ada")).take(1)
        await paces.of(None).take(1)
    assert not any(task.done() for task in (mallory, unknown))
    for task in (mallory, unknown):
        task.cancel()
