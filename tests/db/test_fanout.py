"""What reaches followers through Redis: the same bytes in the same order, for fewer questions; and without it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg.rows import DictRow
from redis import Redis

from holdfast.db.fanout import MAX_MESSAGE, PREFIX, Fanout
from holdfast.db.news import Place
from holdfast.db.saves import Block
from holdfast.errors import SettingsError
from tests.db.speaker import Speaker, heard
from tests.db.stage import Process, process, until
from tests.support.redis import redis_server
from tests.support.server import free_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with redis_server(tmp_path) as url:
        yield url


@pytest.fixture
async def there(clean_url: str, redis_url: str) -> AsyncIterator[Process]:
    """A process that follows."""
    async with process(clean_url, fanout_url=redis_url) as running:
        yield running


def rings(at: Process) -> set[str]:
    """Which logs its followers are told to look into from now on; a subscription that begins is one."""
    rung: set[str] = set()

    def noted(about: str | None) -> None:
        rung.update((about or "").split())
        at.events._news.tell(about)

    fanout_of(at).on_ring(noted)
    return rung


@pytest.fixture
async def speaker(there: Process, clean_url: str, redis_url: str) -> AsyncIterator[Speaker]:
    """A run in another process."""
    async with process(clean_url, fanout_url=redis_url) as here:
        yield Speaker(here, await here.stage.started())


def fanout_of(at: Process) -> Fanout:
    assert at.fanout is not None
    return at.fanout


def places(at: Process, speaker: Speaker) -> list[Place]:
    return list(at.events._news._places.get(speaker.claim.run_id, ()))


async def follower(at: Process, speaker: Speaker) -> asyncio.Task[list[bytes]]:
    """A follower who has read what there is, and whose process hears of what comes."""
    run_id, others, rung = speaker.claim.run_id, len(places(at, speaker)), rings(at)
    task = asyncio.create_task(heard(at.events, run_id))
    await until(lambda: len(places(at, speaker)) > others and (others > 0 or str(run_id) in rung))
    await until(lambda: not any(place._must_look for place in places(at, speaker)))
    return task


async def read_by_all(at: Process, speaker: Speaker) -> None:
    await until(lambda: all(place.after == len(speaker.said) for place in places(at, speaker)))


async def test_blocks_reach_followers_elsewhere_without_a_question(
    there: Process, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    followers = [await follower(there, speaker) for _ in range(3)]
    asked: list[int] = []
    ask = there.events._query

    async def noted(run_id: UUID, after: int) -> list[DictRow]:
        asked.append(after)
        return await ask(run_id, after)

    monkeypatch.setattr(there.events, "_query", noted)
    for word in range(20):
        speaker.say(str(word))
        await speaker.log()
        await read_by_all(there, speaker)
    assert asked == []
    await speaker.end()
    assert [await one for one in followers] == [speaker.said] * 3
    assert set(asked) == {20}


async def test_followers_hear_the_same_bytes_whatever_is_lost_on_the_way(there: Process, speaker: Speaker) -> None:
    dice = random.Random(7)
    bring = there.events._news.bring

    def often(log: UUID, block: DictRow) -> None:
        if dice.random() < 0.7:
            bring(log, block)

    fanout_of(there).on_block(often)
    followers = [await follower(there, speaker) for _ in range(4)]
    for word in range(200):
        speaker.say(*(f"{word}.{part}" for part in range(dice.randrange(4))))
        await speaker.log()
    await speaker.end()
    assert [await one for one in followers] == [speaker.said] * 4


async def test_who_comes_later_hears_the_rest(there: Process, speaker: Speaker) -> None:
    speaker.say("one", "two")
    await speaker.log()
    first = await follower(there, speaker)
    second = asyncio.create_task(heard(there.events, speaker.claim.run_id, 1))
    speaker.say("three")
    await speaker.log()
    await speaker.end()
    assert await first == speaker.said
    assert await second == speaker.said[1:]


async def test_a_block_that_is_too_long_is_read_from_the_log(there: Process, speaker: Speaker) -> None:
    hearing = await follower(there, speaker)
    speaker.say("x" * MAX_MESSAGE)
    await speaker.log()
    speaker.say("after")
    await speaker.end()
    assert await hearing == speaker.said


async def test_only_what_somebody_follows_is_subscribed_to(there: Process, speaker: Speaker, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        channel = f"{PREFIX}{speaker.claim.run_id}"
        hearing = await follower(there, speaker)
        assert client.pubsub_numsub(channel) == [(channel.encode(), 1)]
        await speaker.end()
        await hearing
        await until(lambda: client.pubsub_numsub(channel) == [(channel.encode(), 0)])


@pytest.mark.parametrize("said", [b"", b"stranger\n", b"stranger\na b\nc", b"stranger\n1 2 3\nx", b"\xff\n\xff\n"])
async def test_what_a_stranger_says_in_a_channel_makes_followers_look_and_nothing_worse(
    there: Process, speaker: Speaker, redis_url: str, said: bytes
) -> None:
    hearing = await follower(there, speaker)
    rung = rings(there)
    with Redis.from_url(redis_url) as client:
        client.publish(f"{PREFIX}{speaker.claim.run_id}", said)
    await until(lambda: str(speaker.claim.run_id) in rung)
    speaker.say("one")
    await speaker.log()
    await read_by_all(there, speaker)
    await speaker.end()
    assert await hearing == speaker.said


async def test_a_process_does_not_hear_itself(clean_url: str, redis_url: str) -> None:
    async with process(clean_url, fanout_url=redis_url) as one, process(clean_url, fanout_url=redis_url) as other:
        log = (await one.stage.started()).run_id
        brought: dict[str, list[Any]] = {"one": [], "other": []}
        for name, at in (("one", one), ("other", other)):
            heard_here = brought[name].append
            fanout_of(at).on_block(lambda _, block, append=heard_here: append(block["frames"]))
        rung = [rings(at) for at in (one, other)]
        for at in (one, other):
            fanout_of(at).subscribe(log)
        await until(lambda: all(str(log) in each for each in rung))
        fanout_of(one).publish([], log, Block(1, 1, 1, 1, b"said by one"))
        fanout_of(other).publish([], log, Block(1, 2, 2, 2, b"said by other"))
        await until(lambda: all(brought.values()))
        assert brought == {"one": [b"said by other"], "other": [b"said by one"]}


async def test_while_redis_is_away_the_bell_rings_and_later_blocks_come_again(clean_url: str, tmp_path: Path) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        with redis_server(tmp_path, port) as url:
            here, there = [await stack.enter_async_context(process(clean_url, fanout_url=url)) for _ in range(2)]
            speaker = Speaker(here, await here.stage.started())
            hearing = await follower(there, speaker)
        await until(lambda: fanout_of(there).poll_seconds < 1)
        speaker.say("without")
        await speaker.log()
        await read_by_all(there, speaker)
        rung = rings(there)
        with redis_server(tmp_path, port):
            await until(lambda: str(speaker.claim.run_id) in rung, seconds=10)
            speaker.say("with")
            await speaker.log()
            await read_by_all(there, speaker)
            await speaker.end()
            assert await hearing == speaker.said


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="FANOUT_URL"):
        Fanout("http://somewhere", None)  # type: ignore[arg-type]
