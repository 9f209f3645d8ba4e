"""The bell wakes other processes, says "look" after a gap, and is not needed for anything to happen."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from holdfast.db import bell as module
from holdfast.db.bell import Bell
from tests.db.stage import Process, Stage, process, until

pytestmark = pytest.mark.anyio


def heard_by(bell: Bell, *tones: module.Tone) -> list[tuple[str, str | None]]:
    """What this bell's listeners are told from now on."""
    heard: list[tuple[str, str | None]] = []

    def listener(tone: str) -> module.Listener:
        return lambda about: heard.append((tone, about))

    for tone in tones:
        bell.on(tone, listener(tone))
    return heard


async def cut_the_bells(stage: Stage) -> int:
    rows = await stage.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'holdfast bell'"
    )
    return len(rows)


async def processes(stack: AsyncExitStack, url: str, count: int = 2) -> list[Process]:
    return [await stack.enter_async_context(process(url)) for _ in range(count)]


async def test_a_ring_wakes_the_listeners_of_every_other_process(clean_url: str) -> None:
    async with AsyncExitStack() as stack:
        here, there, yonder = await processes(stack, clean_url, 3)
        mine = heard_by(here.bell, "run")
        theirs = [heard_by(other.bell, "run", "cancel") for other in (there, yonder)]
        run_id = uuid4()
        here.bell.ring("run", run_id)
        here.bell.ring("cancel", run_id)
        await until(lambda: all(len(heard) == 2 for heard in theirs))
        assert theirs == [[("run", str(run_id)), ("cancel", str(run_id))]] * 2
        assert mine == []


async def test_rings_of_one_moment_go_out_together_and_each_is_heard_once(clean_url: str) -> None:
    async with AsyncExitStack() as stack:
        here, there = await processes(stack, clean_url)
        heard = heard_by(there.bell, "events")
        run_ids = [uuid4() for _ in range(1000)]
        for _ in range(2):
            for run_id in run_ids:
                here.bell.ring("events", run_id)
        await until(lambda: len(heard) >= len(run_ids))
        here.bell.ring("run")
        assert [about for _, about in heard] == [str(run_id) for run_id in run_ids]


async def test_a_lost_connection_is_made_again_and_what_was_missed_is_looked_for(clean_url: str) -> None:
    async with AsyncExitStack() as stack:
        here, there = await processes(stack, clean_url)
        heard = heard_by(there.bell, "run", "events")
        assert await cut_the_bells(here.stage) == 2
        await until(lambda: ("run", None) in heard and ("events", None) in heard, seconds=3)
        here.bell.ring("run", "again")
        await until(lambda: ("run", "again") in heard)


async def test_while_it_is_deaf_it_polls_often(clean_url: str) -> None:
    async with process(clean_url) as here:
        assert here.bell.poll_seconds == module.LISTENING_POLL_SECONDS
        await cut_the_bells(here.stage)
        await until(lambda: here.bell.poll_seconds == module.DEAF_POLL_SECONDS)
        await until(lambda: here.bell.poll_seconds == module.LISTENING_POLL_SECONDS, seconds=3)


async def test_without_a_place_to_listen_it_polls_and_still_rings(clean_url: str) -> None:
    async with process(clean_url, listening=False) as deaf, process(clean_url) as there:
        heard = heard_by(there.bell, "run")
        assert deaf.bell.poll_seconds == module.DEAF_POLL_SECONDS
        await deaf.bell.listen()
        deaf.bell.ring("run", "x")
        await until(lambda: heard == [("run", "x")])


async def test_a_ring_that_cannot_be_sent_harms_nobody(clean_url: str) -> None:
    async with process(clean_url, listening=False) as here:
        await here.stage.database.close()
        here.bell.ring("run", "x")
        async with asyncio.timeout(2):
            await here.bell.close()


async def test_the_last_rings_are_let_out_when_it_closes(clean_url: str) -> None:
    async with process(clean_url) as there:
        heard = heard_by(there.bell, "run")
        async with process(clean_url) as here:
            here.bell.ring("run", "last")
        await until(lambda: heard == [("run", "last")])


@pytest.mark.parametrize("payload", ["", "nonsense", "me\nunknown:1\n\n:::\nrun:x"])
async def test_what_others_say_on_the_channel_is_ignored(clean_url: str, payload: str) -> None:
    async with process(clean_url) as here:
        heard = heard_by(here.bell, "run")
        await here.stage.sql("SELECT pg_notify('holdfast', %s)", payload)
        await here.stage.sql("SELECT pg_notify('holdfast', %s)", "me\nrun:sentinel")
        await until(lambda: ("run", "sentinel") in heard)
        assert heard == ([("run", "x")] if "run:x" in payload else []) + [("run", "sentinel")]
