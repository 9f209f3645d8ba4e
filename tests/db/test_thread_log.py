"""A thread's log: its runs, their ends and what was said about it, in one order for every follower."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from holdfast.db.events import EventLog
from holdfast.db.runs import RunEnd
from holdfast.rules.caller import Caller
from holdfast.rules.run import RunStatus
from tests.db.speaker import Speaker
from tests.db.stage import ANN, BOB, Process, outcome, process, until

pytestmark = pytest.mark.anyio
Said = tuple[int, bytes | UUID]


async def heard(
    events: EventLog, thread_id: UUID, number: int, *, after: int | None = 0, caller: Caller = ANN
) -> list[Said]:
    """The next so many things of a thread's log with their numbers, fewer if it ends before."""
    said: list[Said] = []
    async with asyncio.timeout(20):
        async for pieces in events.follow_thread(caller, thread_id, after):
            said += [one for piece in pieces for one in enumerate(piece.said, piece.first_seq)]
            if len(said) >= number:
                break
    return said


async def test_runs_follow_each_other_and_each_end_has_a_number(here: Process, elsewhere: Process) -> None:
    thread_id = await here.stage.thread()
    following = [asyncio.create_task(heard(at.events, thread_id, 6)) for at in (here, elsewhere)]
    await until(lambda: here.events._news._places and elsewhere.events._news._places)
    first = Speaker(here, await here.stage.started(thread_id))
    first.say("one", "two")
    await first.log()
    await first.end()
    second = Speaker(elsewhere, await elsewhere.stage.started(thread_id))
    second.say("three", "four")
    await second.end()
    async with asyncio.timeout(3):
        live = [await one for one in following]
    assert live[0] == live[1] == await heard(here.events, thread_id, 6)
    assert [said for _, said in live[0]] == [*first.said, first.claim.run_id, *second.said, second.claim.run_id]
    assert [number for number, _ in live[0]] == [1, 2, 3, 4, 5, 6]
    for after in range(6):
        assert await heard(elsewhere.events, thread_id, 6 - after, after=after) == live[0][after:]


async def test_a_follower_without_a_place_hears_what_is_logged_from_now_on(here: Process) -> None:
    speaker = Speaker(here, await here.stage.started())
    speaker.say("before")
    await speaker.log()
    live = asyncio.create_task(heard(here.events, speaker.claim.thread_id, 2, after=None))
    await until(lambda: here.events._news._places)
    speaker.say("after")
    await speaker.end()
    assert [said for _, said in await live] == [speaker.said[1], speaker.claim.run_id]


async def test_runs_that_never_ran_are_told_with_the_end_of_the_one_that_held_the_numbers(here: Process) -> None:
    thread_id = await here.stage.thread()
    running = Speaker(here, await here.stage.started(thread_id))
    queued = [(await here.stage.admit(thread_id))[0] for _ in range(2)]
    running.say("one")
    for run_id in queued:
        assert not await here.stage.runs.cancel(ANN, thread_id, run_id, "interrupt")
    await running.log()
    running.say("two")
    await running.end()
    said = await heard(here.events, thread_id, 5)
    assert [each for _, each in said] == [*running.said, *queued, running.claim.run_id]
    assert (await here.stage.started(thread_id)).event_seq == said[-1][0]


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_the_last_of_several_cancelled_runs_tells_of_all(here: Process, action: str) -> None:
    thread_id = await here.stage.thread()
    queued = [(await here.stage.admit(thread_id, after_seconds=60.0))[0] for _ in range(2)]
    await here.stage.runs.cancel(ANN, thread_id, queued[0], action)  # type: ignore[arg-type]
    assert await here.stage.sql("SELECT FROM holdfast.event_blocks") == [], "the other one may begin at any moment"
    await here.stage.runs.cancel(ANN, thread_id, queued[1], action)  # type: ignore[arg-type]
    assert await heard(here.events, thread_id, 2) == list(enumerate(queued, 1))


async def test_of_a_run_that_is_rolled_back_only_the_end_is_left(here: Process) -> None:
    speaker = Speaker(here, await here.stage.started())
    speaker.say("one", "two")
    await speaker.log()
    await here.stage.runs.end(speaker.claim, RunEnd(RunStatus.INTERRUPTED, None, event_seq=2, rollback=True))
    assert await heard(here.events, speaker.claim.thread_id, 1) == [(3, speaker.claim.run_id)]


async def test_a_state_update_is_said_with_the_next_number(here: Process, elsewhere: Process) -> None:
    speaker = Speaker(here, await here.stage.started())
    thread_id = speaker.claim.thread_id
    speaker.say("one")
    await speaker.end()
    following = asyncio.create_task(heard(elsewhere.events, thread_id, 1, after=2))
    await until(lambda: elsewhere.events._news._places)
    token = await here.stage.threads.begin_edit(ANN, thread_id)
    await here.stage.threads.end_edit(thread_id, token, outcome(), frame=b"event: state_update\r\ndata: 1\r\n\r\n")
    here.events.grown(thread_id)
    async with asyncio.timeout(3):
        assert await following == [(3, b"event: state_update\r\ndata: 1\r\n\r\n")]
    assert (await here.stage.started(thread_id)).event_seq == 3


async def test_nothing_of_a_block_is_in_the_stream_of_a_run_that_it_does_not_belong_to(here: Process) -> None:
    claim = await here.stage.started(logged=False)
    tape = here.events.open_tape(claim.run_id, 1)
    tape.append(b"frame")
    await here.stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome(), None, None, tape.last))
    here.events.close_tape(claim.run_id, claim.thread_id, None, over=True)
    assert [frames async for frames in here.events.follow(ANN, claim.run_id, 0)] == []
    assert await heard(here.events, claim.thread_id, 1) == [(2, claim.run_id)]


async def test_a_deleted_thread_ends_its_followers(here: Process, elsewhere: Process) -> None:
    thread_id = await here.stage.thread()
    following = [asyncio.create_task(heard(at.events, thread_id, 1)) for at in (here, elsewhere)]
    await until(lambda: here.events._news._places and elsewhere.events._news._places)
    await here.stage.runs.delete_thread(ANN, thread_id)
    here.events.grown(thread_id)
    async with asyncio.timeout(3):
        assert [await one for one in following] == [[], []]


async def test_a_thread_that_is_hidden_says_the_rest_and_ends(here: Process) -> None:
    claim = await here.stage.started(ephemeral=True)
    speaker = Speaker(here, claim)
    speaker.say("one")
    await speaker.end()
    assert [said for _, said in await heard(here.events, claim.thread_id, 9)] == [*speaker.said, claim.run_id]


async def test_nobody_hears_somebody_elses_thread(here: Process) -> None:
    speaker = Speaker(here, await here.stage.started())
    speaker.say("secret")
    await speaker.end()
    assert await heard(here.events, speaker.claim.thread_id, 1, caller=BOB) == []


async def test_what_has_expired_is_gone_and_its_numbers_do_not_come_back(here: Process) -> None:
    thread_id = await here.stage.thread()
    for words in ("one", "two"):
        speaker = Speaker(here, await here.stage.started(thread_id))
        speaker.say(words)
        await speaker.end()
        if words == "one":
            await here.stage.sql("UPDATE holdfast.event_blocks SET created_at = holdfast.now() - interval '1 day'")
            assert await here.events.expire(ttl=3600, batch=10) == 1
    assert await heard(here.events, thread_id, 2) == [(3, speaker.said[0]), (4, speaker.claim.run_id)]


async def test_a_follower_behind_a_deaf_bell_polls(clean_url: str, here: Process) -> None:
    async with process(clean_url, listening=False) as deaf:
        speaker = Speaker(here, await here.stage.started())
        following = asyncio.create_task(heard(deaf.events, speaker.claim.thread_id, 2))
        speaker.say("one")
        await speaker.end()
        async with asyncio.timeout(3):
            assert [said for _, said in await following] == [*speaker.said, speaker.claim.run_id]


async def test_a_long_log_is_read_in_pieces(here: Process) -> None:
    speaker = Speaker(here, await here.stage.started())
    for number in range(150):
        speaker.say(str(number))
        await speaker.log()
    await speaker.end()
    said = await heard(here.events, speaker.claim.thread_id, 151)
    assert said == list(enumerate([*speaker.said, speaker.claim.run_id], 1))


async def test_followers_that_went_away_leave_nothing_behind(here: Process) -> None:
    following = asyncio.create_task(heard(here.events, await here.stage.thread(), 1))
    await until(lambda: here.events._news._places)
    following.cancel()
    await asyncio.wait([following])
    assert here.events._news._places == {}
