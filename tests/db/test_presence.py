"""Waiting for a database: for one that is not there yet, and not for one that will never let us in."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.db.presence import wait_for
from holdfast.errors import DatabaseUnavailable
from tests.support.proxy import Proxy
from tests.support.server import free_port

pytestmark = pytest.mark.anyio


async def test_a_database_that_is_there_is_not_waited_for(clean_url: str) -> None:
    absent: list[bool] = []
    await wait_for(clean_url, lambda: absent.append(True))
    assert absent == []


async def test_a_database_that_refuses_connections_is_waited_for_and_announced_once(
    clean_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    absent = asyncio.Event()
    with Proxy(clean_url) as proxy:
        proxy.cut(refuse=True)
        waiting = asyncio.create_task(wait_for(proxy.url, absent.set))
        async with asyncio.timeout(10):
            await absent.wait()
            assert not waiting.done()
            proxy.heal()
            await waiting
    assert [record.message.partition(":")[0] for record in caplog.records if record.name == "holdfast.db.presence"] == [
        "waiting for the database",
        "the database is there",
    ]


async def test_nothing_at_all_is_waited_for() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await wait_for(f"postgresql://127.0.0.1:{free_port()}/nothing", lambda: None)


async def test_what_waiting_cannot_mend_is_told_at_once(clean_url: str) -> None:
    nowhere = clean_url.replace("/test_", "/no_test_")
    for url in (nowhere, "postgresql://?nonsense=1"):
        async with asyncio.timeout(10):
            with pytest.raises(DatabaseUnavailable):
                await wait_for(url, lambda: None)
