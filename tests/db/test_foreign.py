"""Another saver behind the fence: what a lost claim may still do, and what is noted in Postgres."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from holdfast.db.checkpoints import NULL_TASK_ID
from holdfast.db.foreign import ForeignSaver, forget_elsewhere
from holdfast.db.queue import Claimed
from holdfast.errors import DatabaseError, FenceLost
from tests.db.savers import config_of, put
from tests.db.stage import Stage
from tests.db.test_saver import lose_by_a_new_claim, lose_by_a_requeue, lose_by_deletion, lose_by_the_end

pytestmark = pytest.mark.anyio

TASK = str(UUID(int=1))


def foreign(stage: Stage, inner: InMemorySaver, claim: Claimed | None) -> ForeignSaver:
    return ForeignSaver(inner, stage.database, claim.fence if claim else None)


@pytest.mark.parametrize("lose", [lose_by_a_new_claim, lose_by_a_requeue, lose_by_the_end, lose_by_deletion])
async def test_a_claim_that_is_lost_saves_nothing_more(stage: Stage, lose: object) -> None:
    claim, inner = await stage.started(), InMemorySaver()
    saver = foreign(stage, inner, claim)
    saved = await put(saver, config_of(claim), {"x": 1})
    await lose(stage, claim)  # type: ignore[operator]
    with pytest.raises(FenceLost):
        await put(saver, saved, {"x": 2}, 1)
    with pytest.raises(FenceLost):
        await saver.aput_writes(saved, [("x", 3)], TASK)
    found = [one async for one in inner.alist(config_of(claim))]
    assert [one.checkpoint["channel_values"] for one in found] == [{"x": 1}]
    assert not found[0].pending_writes


async def test_without_a_fence_and_after_the_seal_it_only_reads(stage: Stage) -> None:
    claim, inner = await stage.started(), InMemorySaver()
    saver = foreign(stage, inner, claim)
    saved = await put(saver, config_of(claim), {"x": 1})
    await saver.seal()
    for closed in (saver, foreign(stage, inner, None)):
        assert await closed.aget_tuple(config_of(claim)) is not None
        with pytest.raises(FenceLost):
            await put(closed, saved, {"x": 2}, 1)


async def test_a_commands_update_is_noted_and_found(stage: Stage) -> None:
    claim, inner = await stage.started(), InMemorySaver()
    before = await put(inner, config_of(claim), {"x": 1})
    saver = foreign(stage, inner, claim)
    await saver.aput_writes(before, [("x", 1)], TASK)
    assert not await saver.has_command(before)
    assert await stage.sql("SELECT 1 FROM holdfast.runs WHERE command_saved") == []
    await saver.aput_writes(before, [("x", 2)], NULL_TASK_ID)
    assert await saver.has_command(before)
    assert len(await stage.sql("SELECT 1 FROM holdfast.runs WHERE command_saved")) == 1


async def test_the_seal_gives_back_the_answers_that_a_run_has_read(stage: Stage) -> None:
    claim, inner = await stage.started(), InMemorySaver()
    asked = await put(inner, config_of(claim), {"x": 1})
    await inner.aput_writes(asked, [("__resume__", ["first"])], TASK)
    saver = foreign(stage, inner, claim)
    await saver.aput_writes(asked, [("__resume__", ["first", "second"])], TASK)
    await saver.aput_writes(asked, [("__resume__", ["third"])], str(UUID(int=2)))
    await saver.seal()
    found = await inner.aget_tuple(asked)
    assert found is not None
    assert found.pending_writes is not None
    assert [value for _, _, value in found.pending_writes] == [["first"], []]


async def test_a_saver_that_cannot_forget_is_asked_again_later(stage: Stage) -> None:
    class Away(InMemorySaver):
        async def adelete_thread(self, thread_id: str) -> None:
            raise ConnectionError(thread_id)

    stage.database.checkpoints_elsewhere = Away()
    with pytest.raises(DatabaseError, match="could not be removed"):
        await forget_elsewhere(stage.database, [uuid4()])
