"""Followers ask together, and nobody is given an answer to a question that began before they came."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextvars import ContextVar

import pytest

from holdfast.db.events import EventLog
from holdfast.db.shared import Shared
from tests.db.speaker import Speaker, heard
from tests.db.stage import ANN, BOB, Process, until

pytestmark = pytest.mark.anyio

FOLLOWERS = 200


class Oracle:
    """Answers with how many questions it was asked, once it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()

    async def __call__(self) -> int:
        self.asked += 1
        mine = self.asked
        await self.may_answer.wait()
        return mine


async def asking(shared: Shared[str, int], oracle: Oracle, number: int) -> list[asyncio.Task[int]]:
    """So many who ask and wait by now."""
    tasks = [asyncio.create_task(shared.ask("it", oracle)) for _ in range(number)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_a_question_is_nobodys_in_particular() -> None:
    asker = ContextVar("asker", default="nobody")
    asker.set("the first")

    async def question() -> str:
        return asker.get()

    assert await Shared[str, str]().ask("it", question) == "nobody"


async def test_whoever_comes_while_a_question_is_under_way_gets_the_answer_of_the_next() -> None:
    shared, oracle = Shared[str, int](), Oracle()
    first = await asking(shared, oracle, 1)
    later = [*await asking(shared, oracle, 5), *await asking(shared, oracle, 5)]
    assert oracle.asked == 1
    oracle.may_answer.set()
    assert await first[0] == 1
    assert await asyncio.gather(*later) == [2] * 10


async def test_who_stops_waiting_takes_nothing_from_the_others() -> None:
    shared, oracle = Shared[str, int](), Oracle()
    [first] = await asking(shared, oracle, 1)
    gone, stays = await asking(shared, oracle, 2)
    first.cancel()
    gone.cancel()
    await asyncio.wait([first, gone])
    oracle.may_answer.set()
    assert await stays == 2
    assert first.cancelled()
    assert gone.cancelled()


async def test_a_question_that_nobody_waits_for_ends_and_is_asked_anew() -> None:
    shared, oracle = Shared[str, int](), Oracle()
    for _ in range(3):
        waiting = [*await asking(shared, oracle, 1), *await asking(shared, oracle, 2)]
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    assert oracle.asked == 3
    oracle.may_answer.set()
    assert await shared.ask("it", oracle) == 4


async def test_an_error_is_everybodys() -> None:
    async def fail() -> int:
        await asyncio.sleep(0)
        raise LookupError("it is not there")

    shared = Shared[str, int]()
    answers = await asyncio.gather(*(shared.ask("it", fail) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [LookupError] * 3
    with pytest.raises(LookupError):
        await shared.ask("it", fail)


def counting(events: EventLog) -> Counter[str]:
    """How often the log asks the database from now on, by what it asks."""
    asked: Counter[str] = Counter()
    for name in ("_query", "_query_run", "_query_thread"):
        real = getattr(events, name)

        def counted(*given: object, name: str = name, real: object = real) -> object:
            asked[name] += 1
            return real(*given)  # type: ignore[operator]

        setattr(events, name, counted)
    return asked


async def test_two_hundred_followers_elsewhere_cost_what_a_few_do(here: Process, elsewhere: Process) -> None:
    speaker = Speaker(here, await here.stage.started())
    asked = counting(elsewhere.events)
    following = [asyncio.create_task(heard(elsewhere.events, speaker.claim.run_id)) for _ in range(FOLLOWERS)]
    waiting = elsewhere.events._news._places
    await until(lambda: len(waiting.get(speaker.claim.run_id, ())) == FOLLOWERS)
    blocks = 10
    for number in range(blocks):
        speaker.say(f"word {number}")
        await speaker.log()
    await speaker.end()
    everything = await asyncio.gather(*following)
    assert everything == [speaker.said] * FOLLOWERS
    # A block is a reading, and one that finds nothing more; a few more where followers are not at the same place.
    assert max(asked.values()) < 10 * blocks


async def test_followers_share_no_answer_with_whom_they_share_no_sight(here: Process, elsewhere: Process) -> None:
    speaker = Speaker(here, await here.stage.started())
    speaker.say("hers")
    await speaker.log()
    hers = asyncio.create_task(heard(elsewhere.events, speaker.claim.run_id))
    await until(lambda: elsewhere.events._news._places)
    his = [frames async for frames in elsewhere.events.follow_thread(BOB, speaker.claim.thread_id, 0)]
    assert his == []
    found = await asyncio.gather(
        *(elsewhere.events._find(caller, speaker.claim.run_id) for caller in (ANN, BOB, ANN, BOB))
    )
    assert [row is not None for row in found] == [True, False, True, False]
    await speaker.end()
    assert await hers == speaker.said
