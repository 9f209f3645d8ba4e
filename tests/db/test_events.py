"""The event log: the same bytes in the same order for every follower, wherever and whenever it follows."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, aclosing

import pytest

from holdfast.db import events as module
from holdfast.db.events import Tape
from holdfast.db.runs import RunEnd
from holdfast.rules.run import RunStatus
from tests.db.speaker import Speaker, heard
from tests.db.stage import ANN, BOB, Process, outcome, process, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def speaker(here: Process) -> Speaker:
    return Speaker(here, await here.stage.started())


async def test_a_live_follower_hears_each_frame_when_it_is_said(here: Process, speaker: Speaker) -> None:
    async with aclosing(here.events.follow(ANN, speaker.claim.run_id, 0)) as following:  # type: ignore[type-var]
        for word in ("one", "two"):
            speaker.say(word)
            assert await anext(following) == speaker.said[-1:]
        await speaker.end()
        assert [frames async for frames in following] == []


async def test_an_ended_run_is_replayed_from_the_log_and_the_replay_ends(here: Process, speaker: Speaker) -> None:
    speaker.say("one", "two")
    await speaker.log()
    speaker.say("three")
    await speaker.end()
    assert await heard(here.events, speaker.claim.run_id) == speaker.said
    for after in range(4):
        assert await heard(here.events, speaker.claim.run_id, after) == speaker.said[after:]


async def test_a_follower_without_a_place_hears_only_what_is_said_from_now_on(
    here: Process, elsewhere: Process, speaker: Speaker
) -> None:
    speaker.say("before")
    await speaker.log()
    live = [asyncio.create_task(heard(at.events, speaker.claim.run_id, None)) for at in (here, elsewhere)]
    await until(lambda: elsewhere.events._news._places and here.events._tapes[speaker.claim.run_id]._waiting)
    speaker.say("after")
    await speaker.end()
    assert [await one for one in live] == [speaker.said[1:]] * 2


async def test_a_follower_in_another_process_hears_what_is_logged_while_it_waits(
    elsewhere: Process, speaker: Speaker
) -> None:
    async with aclosing(elsewhere.events.follow(ANN, speaker.claim.run_id, 0)) as following:  # type: ignore[type-var]
        for word in ("one", "two"):
            waiting = asyncio.create_task(anext(following))
            speaker.say(word)
            await speaker.log()
            async with asyncio.timeout(2):
                assert await waiting == speaker.said[-1:]
        await speaker.end()
        async with asyncio.timeout(2):
            assert [frames async for frames in following] == []


@pytest.mark.parametrize("before", ["one", ""])
async def test_a_follower_that_waits_for_a_pending_run_hears_all_of_it(
    here: Process, elsewhere: Process, before: str
) -> None:
    run_id, _ = await here.stage.admit(await here.stage.thread())
    following = [asyncio.create_task(heard(at.events, run_id)) for at in (here, elsewhere)]
    await until(lambda: here.events._news._places and elsewhere.events._news._places)
    speaker = Speaker(here, await here.stage.claim())
    speaker.say(*before.split())
    here.bell.ring("events", run_id)
    speaker.say("two")
    await speaker.log()
    speaker.say("three")
    await speaker.end()
    assert [await one for one in following] == [speaker.said] * 2


async def test_a_tape_that_was_trimmed_falls_back_to_the_log(
    here: Process, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TAPE_BYTES", 100)
    for n in range(50):
        speaker.say(f"word {n}")
        if n % 5 == 0:
            await speaker.log()
    assert here.events._tapes[speaker.claim.run_id].since(0) is None
    late = asyncio.create_task(heard(here.events, speaker.claim.run_id))
    middle = asyncio.create_task(heard(here.events, speaker.claim.run_id, 7))
    await speaker.log()
    speaker.say("last")
    await speaker.end()
    assert await late == speaker.said
    assert await middle == speaker.said[7:]


async def test_a_run_that_goes_on_elsewhere_is_followed_there(
    here: Process, elsewhere: Process, speaker: Speaker
) -> None:
    following = [asyncio.create_task(heard(at.events, speaker.claim.run_id)) for at in (here, elsewhere)]
    speaker.say("one")
    await speaker.log()
    assert await here.stage.queue.hand_back(speaker.claim)
    here.events.close_tape(speaker.claim.run_id, speaker.claim.thread_id, None, over=False)
    again = await elsewhere.stage.claim()
    second = Speaker(elsewhere, again)
    assert again.event_seq == 1
    second.say("two")
    await second.log()
    second.say("three")
    await second.end()
    assert [await one for one in following] == [speaker.said + second.said] * 2


async def test_runs_of_one_thread_are_numbered_one_after_the_other_and_kept_apart(here: Process) -> None:
    first = Speaker(here, await here.stage.started())
    first.say("one", "two")
    await first.end()
    second = Speaker(here, await here.stage.started(first.claim.thread_id))
    assert second.claim.event_seq == 3, "the end of the first run has a number too"
    second.say("three")
    await second.end()
    assert await heard(here.events, first.claim.run_id) == first.said
    assert await heard(here.events, second.claim.run_id) == second.said
    assert await heard(here.events, second.claim.run_id, 3) == second.said


async def test_an_unlogged_run_is_live_for_its_own_process_and_ends_for_the_others(
    here: Process, elsewhere: Process
) -> None:
    claim = await here.stage.started(logged=False)
    tape = here.events.open_tape(claim.run_id, 1)
    remote = asyncio.create_task(heard(elsewhere.events, claim.run_id))
    local = asyncio.create_task(heard(here.events, claim.run_id))
    await until(lambda: tape._waiting)
    tape.append(b"frame")
    await until(lambda: tape._waiting)
    await here.stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome(), None, None, tape.last))
    here.events.close_tape(claim.run_id, claim.thread_id, b"{}", over=True)
    assert await local == [b"frame"]
    assert await remote == []


async def test_waiting_for_a_result_brings_it_where_it_was_made_and_an_end_where_it_was_not(
    here: Process, elsewhere: Process, speaker: Speaker
) -> None:
    waiting = [asyncio.create_task(at.events.result(ANN, speaker.claim.run_id)) for at in (here, elsewhere)]
    await until(lambda: here.events._tapes[speaker.claim.run_id]._waiting and elsewhere.events._news._places)
    await speaker.end(b'{"x":1}')
    async with asyncio.timeout(5):
        assert [await one for one in waiting] == [b'{"x":1}', None]
        assert await here.events.result(ANN, speaker.claim.run_id) is None


async def test_a_run_that_is_cancelled_before_it_starts_ends_its_followers(here: Process, elsewhere: Process) -> None:
    thread_id = await here.stage.thread()
    run_id, _ = await here.stage.admit(thread_id)
    waiting = [asyncio.create_task(heard(at.events, run_id)) for at in (here, elsewhere)]
    waiting += [asyncio.create_task(at.events.result(ANN, run_id)) for at in (here, elsewhere)]  # type: ignore[list-item]
    await until(lambda: all(len(at.events._news._places.get(run_id, ())) == 2 for at in (here, elsewhere)))
    await here.stage.runs.cancel(ANN, thread_id, run_id, "interrupt")
    here.events.grown(thread_id, run_id)
    async with asyncio.timeout(2):
        assert [await one for one in waiting] == [[], [], None, None]


async def test_nobody_can_wait_for_somebody_elses_run(elsewhere: Process, speaker: Speaker) -> None:
    speaker.say("secret")
    async with asyncio.timeout(2):
        assert await elsewhere.events.result(BOB, speaker.claim.run_id) is None


async def test_followers_that_went_away_leave_nothing_behind(
    here: Process, elsewhere: Process, speaker: Speaker
) -> None:
    waiting = [asyncio.create_task(heard(at.events, speaker.claim.run_id)) for at in (here, elsewhere)]
    tape = here.events._tapes[speaker.claim.run_id]
    await until(lambda: tape._waiting and elsewhere.events._news._places)
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    assert (tape._waiting, elsewhere.events._news._places) == (set(), {})


async def test_expiry_takes_old_blocks_of_ended_runs_and_a_join_after_it_still_ends(here: Process) -> None:
    ended, running = [Speaker(here, await here.stage.started()) for _ in range(2)]
    for speaker in (ended, running):
        speaker.say("old")
        await speaker.log()
    await ended.end()
    await here.stage.sql("UPDATE holdfast.event_blocks SET created_at = holdfast.now() - interval '2 hours'")
    assert await here.events.expire(ttl=3 * 3600, batch=10) == 0
    assert await here.events.expire(ttl=3600, batch=10) == 2, "what was said, and that the run ended"
    assert await heard(here.events, ended.claim.run_id) == []
    await running.end()
    assert await heard(here.events, running.claim.run_id) == running.said


async def test_expiry_goes_in_batches_oldest_first(here: Process) -> None:
    speaker = Speaker(here, await here.stage.started())
    for word in ("one", "two", "three"):
        speaker.say(word)
        await speaker.log()
    await speaker.end()
    await here.stage.sql(
        "UPDATE holdfast.event_blocks"
        " SET created_at = holdfast.now() - interval '1 day' + make_interval(secs => first_seq)"
    )
    assert [await here.events.expire(ttl=3600, batch=3) for _ in range(3)] == [3, 1, 0]


async def test_the_numbers_of_an_expired_run_do_not_come_back(here: Process) -> None:
    first = Speaker(here, await here.stage.started())
    first.say("one", "two")
    await first.end()
    await here.stage.sql("DELETE FROM holdfast.event_blocks")
    assert (await here.stage.started(first.claim.thread_id)).event_seq == 3


@pytest.mark.parametrize("seed", range(6))
async def test_live_equals_replay_wherever_a_follower_comes_in(
    here: Process, elsewhere: Process, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(module, "TAPE_BYTES", 400)
    monkeypatch.setattr(module, "BLOCKS_PER_READ", 3)
    earlier = Speaker(here, await here.stage.started())
    earlier.say("earlier")
    await earlier.end()
    speaker = Speaker(here, await here.stage.started(earlier.claim.thread_id))
    followers: list[tuple[int, asyncio.Task[list[bytes]]]] = []
    for number in range(80):
        speaker.say(f"{number} " + "x" * chance.randrange(60))
        if chance.random() < 0.25:
            await speaker.log()
        if chance.random() < 0.4:
            after = chance.randrange(number + 2)
            where = chance.choice([here, elsewhere])
            following = heard(where.events, speaker.claim.run_id, after + speaker.claim.event_seq)
            followers.append((after, asyncio.create_task(following)))
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    await speaker.end()
    followers += [
        (after, asyncio.create_task(heard(where.events, speaker.claim.run_id, after + speaker.claim.event_seq)))
        for after in (0, 1, 79, 80)
        for where in (here, elsewhere)
    ]
    for after, following in followers:
        assert await following == speaker.said[after:]


async def test_followers_survive_a_storm_of_lost_connections(clean_url: str) -> None:
    async with AsyncExitStack() as stack:
        here, elsewhere = [await stack.enter_async_context(process(clean_url)) for _ in range(2)]
        speaker = Speaker(here, await here.stage.started())
        following = asyncio.create_task(heard(elsewhere.events, speaker.claim.run_id))
        await until(lambda: elsewhere.events._news._places)
        async with here.stage.outside() as conn:
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'holdfast bell'"
            )
        speaker.say("while nobody listens")
        await speaker.log()
        await speaker.end()
        async with asyncio.timeout(4):
            assert await following == speaker.said


def test_a_tape_knows_what_it_has() -> None:
    tape = Tape(5)
    assert tape.since(4) == []
    for number in range(5, 9):
        tape.append(b"%d" % number)
    assert (tape.since(3), tape.since(4), tape.since(6)) == (None, [b"5", b"6", b"7", b"8"], [b"7", b"8"])
    assert (tape.since(8), tape.since(99)) == ([], [])
    assert tape.last == 8


def test_a_tape_forgets_only_what_the_log_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAPE_BYTES", 2)
    tape = Tape(1)
    for _ in range(6):
        tape.append(b"x")
    tape.trim(0)
    assert tape.first == 1
    tape.trim(2)
    assert tape.first == 3
    tape.trim(6)
    assert (tape.first, tape.since(4)) == (5, [b"x", b"x"])


async def test_a_slow_follower_of_a_long_tape_is_given_a_bit_at_a_time(here: Process, speaker: Speaker) -> None:
    speaker.say(*(["word" * 10_000] * 20))
    await speaker.end()
    tape = Tape(1)
    for frame in speaker.said:
        tape.append(frame)
    batches, seen = [], 0
    while batch := tape.since(seen):
        batches.append(sum(map(len, batch)))
        seen += len(batch)
    assert seen == len(speaker.said)
    assert len(batches) > 1
    assert max(batches) < 2 * module.BATCH_BYTES


async def test_all_who_wait_in_vain_cost_one_look(here: Process, clean_url: str) -> None:
    """Their runs are told of by a process that cannot ring."""
    run_ids = [(await here.stage.started()).run_id for _ in range(3)]
    following = [asyncio.create_task(heard(here.events, run_id)) for run_id in run_ids for _ in range(10)]
    joining = [asyncio.create_task(here.events.result(ANN, run_id)) for run_id in run_ids]
    await until(lambda: sum(map(len, here.events._news._places.values())) == 33)
    async with here.stage.outside() as conn:
        over = "UPDATE holdfast.runs SET status = 'success', worker_id = NULL WHERE run_id = %s"
        await conn.execute(over, run_ids[:1])
    await until(lambda: all(one.done() for one in (*following[:10], joining[0])), seconds=8)
    assert not any(one.done() for one in (*following[10:], *joining[1:]))
    for one in (*following, *joining):
        one.cancel()
