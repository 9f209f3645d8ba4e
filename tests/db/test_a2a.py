"""Runs, read as tasks."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from holdfast.db.a2a import Tasks
from holdfast.db.queue import Claimed
from holdfast.db.runs import RunEnd
from holdfast.errors import Missing
from holdfast.rules.caller import Caller, Sight
from holdfast.rules.run import RunStatus
from tests.db.stage import ANN, ASSISTANT, BOB, Stage, outcome

pytestmark = pytest.mark.anyio

ASKED = "a" * 32


@pytest.fixture
def tasks(stage: Stage) -> Tasks:
    return Tasks(stage.database)


async def state(tasks: Tasks, run: Claimed) -> str:
    row = await tasks.get(ANN, ASSISTANT, run.thread_id, run.run_id)
    return str(row["state"])


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (RunStatus.SUCCESS, "completed"),
        (RunStatus.ERROR, "failed"),
        (RunStatus.TIMEOUT, "failed"),
        (RunStatus.INTERRUPTED, "canceled"),
    ],
)
async def test_a_run_that_ended_is_a_task_that_ended(stage: Stage, tasks: Tasks, status: RunStatus, shown: str) -> None:
    run = await stage.started()
    assert await state(tasks, run) == "working"
    await stage.runs.end(run, RunEnd(status, outcome()))
    assert await state(tasks, run) == shown


async def test_a_run_that_waits_for_its_turn_is_submitted(stage: Stage, tasks: Tasks) -> None:
    thread = await stage.thread()
    waiting, _ = await stage.admit(thread)
    assert (await tasks.get(ANN, ASSISTANT, thread, waiting))["state"] == "submitted"


@pytest.mark.parametrize("asks", [(ASKED,), ()])
async def test_a_run_that_left_something_open_waits_for_input_until_another_one_ran(
    stage: Stage, tasks: Tasks, asks: tuple[str, ...]
) -> None:
    run = await stage.started()
    await stage.runs.end(run, RunEnd(RunStatus.SUCCESS, outcome(asks=asks, unfinished=True)))
    assert await state(tasks, run) == "input-required"
    later = await stage.started(run.thread_id)
    assert await state(tasks, run) == "input-required"
    await stage.runs.end(later, RunEnd(RunStatus.SUCCESS, outcome()))
    assert await state(tasks, run) == "completed"
    assert await state(tasks, later) == "completed"


async def test_the_runs_that_answer_are_part_of_the_task(stage: Stage, tasks: Tasks) -> None:
    run = await stage.started()
    await stage.runs.end(run, RunEnd(RunStatus.SUCCESS, outcome(asks=(ASKED,))))
    answer = await stage.started(run.thread_id)
    await stage.sql(
        "UPDATE holdfast.runs SET metadata = jsonb_build_object('a2a_task_id', %s::text) WHERE run_id = %s",
        str(run.run_id),
        answer.run_id,
    )
    row = await tasks.get(ANN, ASSISTANT, run.thread_id, run.run_id)
    assert (row["task_id"], row["run_id"], row["state"]) == (run.run_id, answer.run_id, "working")
    assert [row["task_id"] for row in await tasks.page(ANN, ASSISTANT, limit=10)] == [run.run_id]
    with pytest.raises(Missing):
        await tasks.get(ANN, ASSISTANT, run.thread_id, answer.run_id)


async def test_a_task_is_its_owners_and_its_assistants(stage: Stage, tasks: Tasks) -> None:
    run = await stage.started()
    for caller, assistant, thread in (
        (BOB, ASSISTANT, run.thread_id),
        (ANN, uuid4(), run.thread_id),
        (ANN, ASSISTANT, uuid4()),
    ):
        with pytest.raises(Missing):
            await tasks.get(caller, assistant, thread, run.run_id)
    assert await tasks.page(BOB, ASSISTANT, limit=10) == []
    everybody = Caller("boss", Sight.ALL)
    assert [row["task_id"] for row in await tasks.page(everybody, ASSISTANT, limit=10)] == [run.run_id]


async def test_pages_go_from_the_last_changed_task_to_the_first(stage: Stage, tasks: Tasks) -> None:
    made: list[UUID] = []
    for _ in range(5):
        run = await stage.started()
        await stage.runs.end(run, RunEnd(RunStatus.SUCCESS, outcome()))
        made.append(run.run_id)
    seen: list[UUID] = []
    after = None
    while rows := await tasks.page(ANN, ASSISTANT, after=after, limit=2):
        assert {row["total"] for row in rows} == {5}
        seen += [row["task_id"] for row in rows]
        after = (rows[-1]["updated_at"], rows[-1]["task_id"])
    assert seen == made[::-1]
    assert await tasks.page(ANN, ASSISTANT, state="failed", limit=10) == []
    assert len(await tasks.page(ANN, ASSISTANT, state="completed", limit=10)) == 5


async def test_a_message_is_found_by_its_id_on_its_thread(stage: Stage, tasks: Tasks) -> None:
    run = await stage.started()
    await stage.sql('UPDATE holdfast.runs SET metadata = \'{"a2a_message_id": "m1"}\' WHERE run_id = %s', run.run_id)
    assert await tasks.of_message(ANN, ASSISTANT, run.thread_id, "m1") == run.run_id
    assert await tasks.of_message(ANN, ASSISTANT, run.thread_id, "m2") is None
    assert await tasks.of_message(ANN, ASSISTANT, await stage.thread(), "m1") is None
    assert await tasks.of_message(BOB, ASSISTANT, run.thread_id, "m1") is None


@pytest.mark.parametrize(
    ("keep", "asks", "stays"), [(True, (ASKED,), True), (True, (), False), (False, (ASKED,), False)]
)
async def test_a_stateless_run_that_asks_keeps_its_thread_if_it_was_told_to(
    stage: Stage, keep: bool, asks: tuple[str, ...], stays: bool
) -> None:
    run = await stage.started(ephemeral=True)
    end = RunEnd(RunStatus.SUCCESS, outcome(asks=asks), keep_interrupted=keep)
    await stage.runs.end(run, end)
    found = await stage.threads.questions(ANN, run.thread_id)
    assert (found is not None) is stays
