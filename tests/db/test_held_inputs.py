"""A run's input is saved with what its first superstep makes of it: together, or before it, or with its end."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from langchain_core.runnables import RunnableConfig

from holdfast.db.checkpoints import FencedSaver
from holdfast.db.queue import Claimed
from holdfast.errors import FenceLost
from tests.db.savers import checkpoint_with, config_for, config_of, put, saver
from tests.db.stage import Stage

pytestmark = pytest.mark.anyio

TASK = str(UUID(int=1))


def holding(stage: Stage, claim: Claimed) -> FencedSaver:
    made = saver(stage, claim)
    made.holds_inputs = True
    return made


async def put_input(by: FencedSaver, config: RunnableConfig, values: dict[str, Any]) -> RunnableConfig:
    checkpoint, versions = checkpoint_with(values)
    placed = await by.aput(config, checkpoint, {"source": "input", "step": -1}, versions)
    await by.aput_writes(placed, [("text", "mapped")], TASK)
    return placed


async def kept(stage: Stage) -> list[str]:
    """The sources of the checkpoints that are there, and one more for each write."""
    checkpoints = await stage.sql("SELECT metadata ->> 'source' AS source FROM checkpoints ORDER BY checkpoint_id")
    writes = await stage.sql("SELECT task_id FROM checkpoint_writes")
    return [row["source"] for row in checkpoints] + [row["task_id"] for row in writes]


async def commits(stage: Stage) -> int:
    saved = await stage.sql("SELECT xmin::text AS xid FROM checkpoints UNION SELECT xmin::text FROM checkpoint_writes")
    return len(saved)


async def test_the_input_its_writes_and_the_next_checkpoint_are_one_commit(stage: Stage) -> None:
    claim = await stage.started()
    by = holding(stage, claim)
    placed = await put_input(by, config_of(claim), {"__start__": ["a"]})
    assert await kept(stage) == []
    await put(by, config_of(claim) | placed, {"text": "mapped"}, 1)
    assert await kept(stage) == ["input", "loop", TASK]
    assert await commits(stage) == 1


async def test_what_is_too_large_for_company_is_saved_in_its_order(stage: Stage) -> None:
    claim = await stage.started()
    by = holding(stage, claim)
    placed = await put_input(by, config_of(claim), {"__start__": ["a" * 2**21]})
    await put(by, config_of(claim) | placed, {"text": "mapped"}, 1)
    assert await kept(stage) == ["input", "loop", TASK]
    (late,) = await stage.sql(
        "SELECT max(xmin::text::bigint) FILTER (WHERE metadata ->> 'source' = 'input')"
        " < min(xmin::text::bigint) FILTER (WHERE metadata ->> 'source' = 'loop') AS late FROM checkpoints"
    )
    assert late["late"]


@pytest.mark.parametrize("how", ["read", "list", "seal", "end"])
async def test_nobody_misses_an_input_that_nothing_came_after(stage: Stage, how: str) -> None:
    claim = await stage.started()
    by = holding(stage, claim)
    await put_input(by, config_of(claim), {"__start__": ["a"]})
    config = config_for(claim.thread_id)
    if how == "read":
        found = await by.aget_tuple(config)
        assert found is not None
        assert found.checkpoint["channel_values"] == {"__start__": ["a"]}
        assert found.pending_writes == [(TASK, "text", "mapped")]
    elif how == "list":
        assert len([found async for found in by.alist(config)]) == 1
    elif how == "seal":
        await by.seal()
    else:
        await by.save_held()
    assert await kept(stage) == ["input", TASK]


@pytest.mark.parametrize("metadata", [{"source": "loop", "step": 0}, {"source": "update", "step": 0}])
async def test_only_inputs_are_held(stage: Stage, metadata: Any) -> None:
    claim = await stage.started()
    by = holding(stage, claim)
    checkpoint, versions = checkpoint_with({"text": "a"})
    await by.aput(config_of(claim), checkpoint, metadata, versions)
    assert await kept(stage) == [metadata["source"]]


async def test_an_input_that_was_held_does_not_pass_a_lost_fence(stage: Stage) -> None:
    claim = await stage.started()
    by = holding(stage, claim)
    placed = await put_input(by, config_of(claim), {"__start__": ["a"]})
    await stage.sql("UPDATE holdfast.runs SET fencing_token = fencing_token + 1")
    with pytest.raises(FenceLost):
        await put(by, config_of(claim) | placed, {"text": "mapped"}, 1)
    assert await kept(stage) == []
