"""Pruning and erasing in steps: bounded, and what is left in between is whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from holdfast.db import erasing
from holdfast.db import pruning as module
from holdfast.db.pool import Connection
from holdfast.db.pruning import Pruning
from holdfast.db.sql import statements
from holdfast.errors import Conflict
from tests.db.savers import config_for, rows, saver
from tests.db.stage import ANN, CHECKPOINT_TABLES, Stage
from tests.db.test_thread_copies import written

pytestmark = pytest.mark.anyio


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 3)
    monkeypatch.setattr(erasing, "ROWS", 3)


async def steps_of(stage: Stage, thread_id: UUID) -> list[int]:
    found = await stage.sql(
        "SELECT (metadata ->> 'step')::int AS step FROM checkpoints WHERE thread_id = %s ORDER BY checkpoint_id",
        str(thread_id),
    )
    return [row["step"] for row in found]


@pytest.mark.usefixtures("small_steps")
async def test_a_history_that_goes_in_steps_leaves_what_one_step_leaves(stage: Stage) -> None:
    thread_id = await written(stage, steps=11)
    await Pruning(stage.database).keep_latest(thread_id, await stage.threads.begin_edit(ANN, thread_id), [])
    left = await rows(stage)
    assert [len(left[table]) for table in CHECKPOINT_TABLES] == [1, 1, 1]
    assert await steps_of(stage, thread_id) == [10]
    found = await saver(stage).aget_tuple(config_for(thread_id))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"x": [10]}
    (row,) = await stage.sql("SELECT pruned_at, edit_token FROM holdfast.threads WHERE thread_id = %s", thread_id)
    assert (row["pruned_at"] is not None, row["edit_token"]) == (True, None)


class Met(Pruning):
    """Meets a run after its first step."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.database)
        self._stage = stage

    @asynccontextmanager
    async def _held(self, thread_id: UUID, token: int) -> AsyncIterator[Connection]:
        async with super()._held(thread_id, token) as conn:
            yield conn
        await self._stage.admit(thread_id)


@pytest.mark.usefixtures("small_steps")
async def test_a_run_that_comes_in_between_finds_whole_states(stage: Stage) -> None:
    thread_id = await written(stage, steps=11, whole_at=0)
    await stage.sql("UPDATE checkpoints SET metadata = metadata - 'counters_since_delta_snapshot'")
    with pytest.raises(Conflict):
        await Met(stage).keep_latest(thread_id, await stage.threads.begin_edit(ANN, thread_id), [])
    assert await steps_of(stage, thread_id) == [0, 1, 2, 3, 4, 5, 6, 10]
    parents = await stage.sql("SELECT checkpoint_id, parent_checkpoint_id FROM checkpoints ORDER BY checkpoint_id")
    assert parents[0]["parent_checkpoint_id"] is None
    for older, newer in pairwise(parents[:7]):
        assert newer["parent_checkpoint_id"] == older["checkpoint_id"]
    assert parents[-1]["parent_checkpoint_id"] is None
    assert len((await rows(stage))["checkpoint_blobs"]) >= 1


@pytest.mark.usefixtures("small_steps")
async def test_a_large_thread_is_erased_in_steps_and_no_other_with_it(stage: Stage) -> None:
    kept = await written(stage, steps=2)
    before = await rows(stage)
    gone = await written(stage, steps=11)
    assert await Pruning(stage.database).delete(ANN, [gone]) == [gone]
    assert await rows(stage) == before
    found = await stage.sql("SELECT thread_id FROM holdfast.threads")
    assert [row["thread_id"] for row in found] == [kept]


@pytest.mark.usefixtures("small_steps")
async def test_the_sweep_finishes_what_was_hidden_and_not_erased(stage: Stage) -> None:
    thread_id = await written(stage, steps=11)
    await stage.sql("UPDATE holdfast.threads SET deleted_at = now() - interval '1 hour'")
    assert await stage.threads.sweep(grace=60, batch=10) == 1
    assert not any((await rows(stage)).values())
    assert await stage.sql("SELECT FROM holdfast.threads WHERE thread_id = %s", thread_id) == []


THREAD = "00000007-0000-7000-8000-000000000000"


@pytest.fixture
def long_history(database_url: str) -> str:
    """A thread with 20,000 checkpoints beside a thousand others."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint) SELECT %s, lpad(n::text, 6, '0'),"
            " jsonb_build_object('channel_versions', jsonb_build_object('x', n::text))"
            " FROM generate_series(1, 20000) n",
            [THREAD],
        )
        conn.execute(
            "INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint) SELECT gen_random_uuid(), '1', '{}'"
            " FROM generate_series(1, 1000) n"
        )
        conn.execute("VACUUM ANALYZE checkpoints")
    return database_url


def test_a_step_reads_what_it_takes_and_not_the_whole_history(long_history: str) -> None:
    params: dict[str, Any] = {"thread_id": THREAD, "namespaces": [""], "checkpoint_ids": ["020000"], "limit": 100}
    erasure = {"thread_ids": [UUID(THREAD)], "names": [THREAD], "limit": 100}
    with psycopg.connect(long_history, row_factory=dict_row) as conn:
        for verb, given in (("forget_states", params), ("erase_some", erasure)):
            row = conn.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statements('pruning')[verb]}", given).fetchone()  # type: ignore[arg-type]
            assert row is not None
            read = sum(
                (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
                for node in nodes(row["QUERY PLAN"][0]["Plan"])
                if node.get("Relation Name") == "checkpoints"
            )
            assert 100 <= read <= 500, verb
            conn.rollback()


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]
