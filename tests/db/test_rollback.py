"""Rollback: a run takes back all it wrote, and only that, with plain and with Delta channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import pytest
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from holdfast.db.checkpoints import FencedSaver
from holdfast.db.queue import Claimed
from holdfast.db.runs import RunEnd
from holdfast.rules.run import RunStatus
from tests.db.savers import config_for, config_of, rows, saver, stock
from tests.db.stage import Stage, outcome

pytestmark = pytest.mark.anyio

Graph = CompiledStateGraph[Any, Any, Any, Any]
ROLLED_BACK = RunEnd(RunStatus.INTERRUPTED, None, {"error": "UserRollback", "message": "m"}, rollback=True)


def append(old: list[Any] | None, new: Any) -> list[Any]:
    return [*(old or []), *new]


def fold(old: list[Any], new: Sequence[Any]) -> list[Any]:
    return [*old, *(entry for written in new for entry in written)]


class Reduced(TypedDict, total=False):
    log: Annotated[list[Any], append]


class Delta(TypedDict, total=False):
    log: Annotated[list[Any], DeltaChannel(fold)]


class OftenSnapped(TypedDict, total=False):
    log: Annotated[list[Any], DeltaChannel(fold, snapshot_frequency=2)]


STATES = {"reducer": Reduced, "delta": Delta, "delta with snapshots": OftenSnapped}


def talking(state: Any, checkpointer: FencedSaver) -> Graph:
    """Logs what it hears; asks when it hears "ask", and asks once more when it hears "ask twice"."""

    def speak(heard: Any) -> Any:
        word = heard["log"][-1]
        answers = (
            [interrupt(f"{word} {n}") for n in range(["ask", "ask twice"].index(word) + 1)] if "ask" in word else []
        )
        return {"log": [f"heard {word}", *answers]}

    graph = StateGraph(state).add_node("speak", speak).add_node("end", lambda _: {"log": ["."]})
    return (
        graph.add_edge(START, "speak").add_edge("speak", "end").add_edge("end", END).compile(checkpointer=checkpointer)
    )


@dataclass
class Conversation:
    """Runs over one thread, as the worker executes them."""

    stage: Stage
    state: Any
    thread_id: UUID

    async def starts(self, given: Any) -> Claimed:
        claim = await self.stage.started(self.thread_id)
        graph = talking(self.state, saver(self.stage, claim))
        await graph.ainvoke(given, config_of(claim), durability="sync")
        return claim

    async def says(self, word: str) -> None:
        await self.ends(await self.starts({"log": [word]}))

    async def ends(self, claim: Claimed) -> None:
        await self.stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome()))

    async def rolls_back(self, given: Any) -> None:
        await self.stage.runs.end(await self.starts(given), ROLLED_BACK)

    async def log(self) -> list[Any]:
        return list((await self.snapshot()).values.get("log", ()))

    async def asked(self) -> list[str]:
        return [asked.value for asked in (await self.snapshot()).interrupts]

    async def snapshot(self) -> Any:
        return await talking(self.state, saver(self.stage)).aget_state(config_for(self.thread_id))


@pytest.fixture(params=STATES.values(), ids=STATES)
async def talk(stage: Stage, request: pytest.FixtureRequest) -> Conversation:
    return Conversation(stage, request.param, await stage.thread())


async def test_a_rollback_takes_everything_back_and_only_that(talk: Conversation) -> None:
    await talk.says("one")
    before = await rows(talk.stage)
    await talk.rolls_back({"log": ["two"]})
    assert await rows(talk.stage) == before
    assert await talk.log() == ["one", "heard one", "."]
    assert await talk.stage.sql("SELECT 1 FROM holdfast.borrowed_writes") == []


async def test_a_rolled_back_first_run_leaves_an_empty_thread(talk: Conversation) -> None:
    await talk.rolls_back({"log": ["one"]})
    assert all(not found for found in (await rows(talk.stage)).values())


async def test_a_conversation_goes_on_after_a_rollback_as_if_nothing_had_been_said(talk: Conversation) -> None:
    await talk.says("one")
    await talk.rolls_back({"log": ["two"]})
    await talk.says("three")
    await talk.rolls_back({"log": ["four"]})
    await talk.says("five")
    said = [word for one in ("one", "three", "five") for word in (one, f"heard {one}", ".")]
    assert await talk.log() == said


@pytest.mark.parametrize("given", [{"log": ["never mind"]}, Command(resume="yes"), Command(update={"log": ["x"]})])
async def test_a_rollback_leaves_an_earlier_question_pending(talk: Conversation, given: Any) -> None:
    await talk.ends(await talk.starts({"log": ["ask"]}))
    before = await rows(talk.stage)
    await talk.rolls_back(given)
    assert await rows(talk.stage) == before
    assert await talk.asked() == ["ask 0"]
    await talk.ends(await talk.starts(Command(resume="yes")))
    assert await talk.log() == ["ask", "heard ask", "yes", "."]


async def test_a_rollback_brings_back_the_question_that_its_run_had_replaced(talk: Conversation) -> None:
    await talk.ends(await talk.starts({"log": ["ask twice"]}))
    before = await rows(talk.stage)
    await talk.rolls_back(Command(resume="yes"))
    assert await rows(talk.stage) == before
    assert await talk.asked() == ["ask twice 0"]


async def test_writes_to_older_checkpoints_are_recorded_and_writes_to_own_ones_are_not(talk: Conversation) -> None:
    claim = await talk.starts({"log": ["ask"]})
    borrowed = "SELECT checkpoint_id FROM holdfast.borrowed_writes"
    assert await talk.stage.sql(borrowed) == []
    await talk.ends(claim)
    asked_at = (await talk.snapshot()).config["configurable"]["checkpoint_id"]
    await talk.starts(Command(resume="yes"))
    assert {row["checkpoint_id"] for row in await talk.stage.sql(borrowed)} == {asked_at}


async def test_a_delta_channel_reads_the_same_through_both_savers(talk: Conversation) -> None:
    for word in ("one", "two", "three"):
        await talk.says(word)
    async with stock(talk.stage) as theirs:
        read = await talking(talk.state, theirs).aget_state(config_for(talk.thread_id))  # type: ignore[arg-type]
    assert (
        read.values["log"]
        == await talk.log()
        == [w for one in ("one", "two", "three") for w in (one, f"heard {one}", ".")]
    )
