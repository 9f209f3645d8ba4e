"""Drafts of threads, and copies: nobody sees half of one."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from holdfast.db.checkpoints import Fence, FencedSaver
from holdfast.db.copies import Copies
from holdfast.db.pruning import Pruning
from holdfast.errors import Conflict, FenceLost, Missing
from holdfast.rules.caller import Caller, Sight
from holdfast.rules.thread import Ttl
from tests.db.savers import checkpoint_with, config_for, put, rows, saver
from tests.db.stage import ANN, BOB, CHECKPOINT_TABLES, Stage, outcome, together

pytestmark = pytest.mark.anyio


async def drafted(stage: Stage) -> tuple[UUID, int, FencedSaver]:
    thread_id = uuid4()
    token = await stage.threads.draft(ANN, thread_id, {"a": 1}, or_keep=False, ttl=Ttl(5))
    assert token is not None
    return thread_id, token, FencedSaver(stage.database, Fence("edit", thread_id, token))


# --- drafts ---


async def test_a_draft_can_be_written_but_not_seen(stage: Stage) -> None:
    thread_id, _, writer = await drafted(stage)
    await put(writer, config_for(thread_id), {"x": 1})
    for refused in (
        stage.threads.get(ANN, thread_id),
        stage.threads.standing(ANN, thread_id),
        stage.threads.begin_edit(ANN, thread_id),
        stage.admit(thread_id),
        stage.runs.delete_thread(ANN, thread_id),
        Copies(stage.database).copy(ANN, thread_id, uuid4()),
    ):
        with pytest.raises(Missing):
            await refused
    assert await Pruning(stage.database).delete(ANN, [thread_id]) == []
    for or_keep in (True, False):
        with pytest.raises(Conflict):
            await stage.threads.create(ANN, thread_id, {}, or_keep=or_keep)
        with pytest.raises(Conflict):
            await stage.threads.draft(ANN, thread_id, {}, or_keep=or_keep)


async def test_a_draft_becomes_a_thread_when_its_edit_ends(stage: Stage) -> None:
    thread_id, token, writer = await drafted(stage)
    await put(writer, config_for(thread_id), {"x": 1})
    await stage.threads.end_edit(thread_id, token, outcome({"x": b"1"}))
    row = await stage.threads.get(ANN, thread_id)
    assert (row["metadata"], json.loads(row["values"]), row["ttl_minutes"]) == ({"a": 1}, {"x": 1}, 5.0)
    assert await stage.threads.sweep(grace=0, batch=10) == 0


async def test_a_discarded_draft_leaves_nothing(stage: Stage) -> None:
    thread_id, token, writer = await drafted(stage)
    await put(writer, config_for(thread_id), {"x": [1]})
    await stage.threads.discard(thread_id, token)
    assert await rows(stage) == {table: [] for table in CHECKPOINT_TABLES}
    with pytest.raises(FenceLost):
        await put(writer, config_for(thread_id), {"x": 2}, 1)
    with pytest.raises(Conflict):
        await stage.threads.end_edit(thread_id, token, outcome())
    await stage.threads.create(ANN, thread_id, {}, or_keep=False)


async def test_only_a_draft_can_be_discarded(stage: Stage) -> None:
    thread_id = await stage.thread()
    token = await stage.threads.begin_edit(ANN, thread_id)
    await stage.threads.discard(thread_id, token)
    assert (await stage.threads.get(ANN, thread_id))["thread_id"] == thread_id


async def test_a_draft_whose_writer_died_is_swept(stage: Stage) -> None:
    thread_id, token, writer = await drafted(stage)
    await put(writer, config_for(thread_id), {"x": [1]})
    assert await stage.threads.sweep(grace=60, batch=10) == 0
    assert await stage.threads.sweep(grace=0, batch=10) == 1
    assert await rows(stage) == {table: [] for table in CHECKPOINT_TABLES}
    with pytest.raises(Conflict):
        await stage.threads.end_edit(thread_id, token, outcome())


async def test_a_deleted_thread_cannot_be_brought_back_by_an_edit(stage: Stage) -> None:
    thread_id = await stage.thread()
    token = await stage.threads.begin_edit(ANN, thread_id)
    await stage.sql(
        "UPDATE holdfast.threads SET ttl = '1 ms', ttl_strategy = 'delete', updated_at = now() - '1 h'::interval"
    )
    assert len(await Pruning(stage.database).expire(limit=10)) == 1
    with pytest.raises(Conflict):
        await stage.threads.end_edit(thread_id, token, outcome())
    with pytest.raises(Missing):
        await stage.threads.get(ANN, thread_id)


# --- copies ---


async def test_a_copy_belongs_to_whoever_made_it(stage: Stage) -> None:
    thread_id, copy_id, second = await stage.thread(), uuid4(), uuid4()
    copies = Copies(stage.database)
    with pytest.raises(Missing):
        await copies.copy(BOB, thread_id, copy_id)
    with pytest.raises(Missing):
        await stage.threads.get(BOB, copy_id)
    await copies.copy(ANN, thread_id, copy_id)
    await copies.copy(Caller("carl", Sight.ALL), thread_id, second)
    assert (await stage.threads.get(ANN, copy_id))["thread_id"] == copy_id
    assert (await stage.threads.get(Caller("carl"), second))["thread_id"] == second


async def test_a_copy_of_a_busy_thread_says_so_and_is_at_rest(stage: Stage) -> None:
    thread_id, idle, busy = await stage.thread(), uuid4(), uuid4()
    token = await stage.threads.begin_edit(ANN, thread_id)
    await stage.threads.end_edit(thread_id, token, outcome({"x": b"1"}, asks=("i1",)))
    copies = Copies(stage.database)
    assert not await copies.copy(ANN, thread_id, idle)
    await stage.admit(thread_id)
    assert await copies.copy(ANN, thread_id, busy)
    for copy in (idle, busy):
        row = await stage.threads.get(ANN, copy)
        assert (row["status"], json.loads(row["values"])) == ("interrupted", {"x": 1})
        assert list(row["interrupts"]) == ["task"]
    # The copy's values are its own: the next outcome is written against the copied digests.
    token = await stage.threads.begin_edit(ANN, busy)
    await stage.threads.end_edit(busy, token, outcome({"x": b"2"}))
    assert json.loads((await stage.threads.get(ANN, busy))["values"]) == {"x": 2}
    assert json.loads((await stage.threads.get(ANN, thread_id))["values"]) == {"x": 1}


async def test_every_table_of_langgraphs_is_copied_row_by_row(stage: Stage) -> None:
    thread_id, copy_id = await stage.thread(), uuid4()
    claim = await stage.started(thread_id)
    writer = saver(stage, claim)
    config = await put(writer, config_for(thread_id), {"x": [1], "y": "inline"})
    await writer.aput_writes(config, [("x", [2])], str(uuid4()), "path")
    before = await rows(stage)
    await Copies(stage.database).copy(ANN, thread_id, copy_id)
    for table, found in (await rows(stage)).items():
        copied = [row | {"thread_id": str(thread_id)} for row in found if row["thread_id"] == str(copy_id)]
        assert copied == before[table] != [], table


# --- pruning ---


async def test_pruning_one_thread_touches_no_other(stage: Stage) -> None:
    kept = await written(stage)
    before = await rows(stage)
    pruned = await written(stage)
    await Pruning(stage.database).keep_latest(pruned, await stage.threads.begin_edit(ANN, pruned), [])
    after = await rows(stage)
    assert {table: [row for row in after[table] if row["thread_id"] == str(kept)] for table in after} == before
    left = {table: [row for row in after[table] if row["thread_id"] == str(pruned)] for table in after}
    assert [len(left[table]) for table in CHECKPOINT_TABLES] == [1, 1, 1]
    assert left["checkpoints"][0]["parent_checkpoint_id"] is None


async def test_a_prune_loses_to_a_run_and_wins_over_an_edit(stage: Stage) -> None:
    thread_id = await written(stage)
    pruning = Pruning(stage.database)
    edit = await stage.threads.begin_edit(ANN, thread_id)
    token = await stage.threads.begin_edit(ANN, thread_id)
    await pruning.keep_latest(thread_id, token, [])
    with pytest.raises(Conflict):
        await stage.threads.end_edit(thread_id, edit, outcome())
    token = await stage.threads.begin_edit(ANN, thread_id)
    await stage.admit(thread_id)
    with pytest.raises(Conflict):
        await pruning.keep_latest(thread_id, token, [])


async def test_a_delete_and_an_admission_at_once_never_both_win(stage: Stage) -> None:
    for _ in range(10):
        thread_id = await stage.thread()
        deleted, admitted = await together(Pruning(stage.database).delete(ANN, [thread_id]), stage.admit(thread_id))
        assert bool(deleted) == isinstance(admitted, Missing)


async def test_a_checkpoint_from_before_version_four_keeps_the_parent_that_holds_its_tasks(stage: Stage) -> None:
    thread_id = await written(stage)
    await stage.sql("UPDATE checkpoints SET checkpoint = jsonb_set(checkpoint, '{v}', '3')")
    await Pruning(stage.database).keep_latest(thread_id, await stage.threads.begin_edit(ANN, thread_id), [])
    left = await rows(stage)
    assert [len(left[table]) for table in CHECKPOINT_TABLES] == [2, 2, 2]


async def test_deltas_that_nobody_wrote_out_keep_their_ancestors_back_to_a_whole_value(stage: Stage) -> None:
    thread_id = await written(stage, steps=6, whole_at=2)
    pruning = Pruning(stage.database)
    [scattered] = await pruning.scattered(thread_id)
    assert scattered.channels == ["x"]
    await pruning.keep_latest(thread_id, await stage.threads.begin_edit(ANN, thread_id), [])
    found = await stage.sql("SELECT metadata -> 'step' AS step FROM checkpoints ORDER BY checkpoint_id")
    assert [row["step"] for row in found] == [2, 3, 4, 5]


async def written(stage: Stage, *, steps: int = 4, whole_at: int | None = None) -> UUID:
    """A thread with a chain of checkpoints; `x` is a delta channel where `whole_at` says at which step it is whole."""
    thread_id = await stage.thread()
    token = await stage.threads.begin_edit(ANN, thread_id)
    writer = FencedSaver(stage.database, Fence("edit", thread_id, token))
    config = config_for(thread_id)
    for step in range(steps):
        checkpoint, versions = checkpoint_with({"x": [step]}, step)
        checkpoint["v"] = 4
        metadata: Any = {"source": "loop", "step": step}
        if whole_at not in (None, step):
            checkpoint["channel_values"] = {}
            metadata["counters_since_delta_snapshot"] = {"x": [1, 1]}
        config = await writer.aput(config, checkpoint, metadata, versions)
        await writer.aput_writes(config, [("x", [step])], str(uuid4()))
    return thread_id
