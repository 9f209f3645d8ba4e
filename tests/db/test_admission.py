"""The way in: one transaction under the thread's row lock."""

from __future__ import annotations

from uuid import UUID

import pytest
import uuid_utils.compat as uuids

from holdfast.db.admission import Answers
from holdfast.db.runs import RunEnd
from holdfast.errors import Conflict, Missing
from holdfast.rules.command import Questions
from holdfast.rules.run import RunStatus
from tests.db.stage import ANN, BOB, Stage, new_run, outcome, together

pytestmark = pytest.mark.anyio

ASKED, OTHER = "1" * 32, "2" * 32
SUCCESS = RunStatus.SUCCESS


async def asking(stage: Stage, *asks: str, checkpoint_id: str = "c1", unfinished: bool = True) -> UUID:
    """A thread whose last run left these questions."""
    claim = await stage.started()
    left = outcome(checkpoint_id=checkpoint_id, asks=asks, unfinished=unfinished)
    await stage.runs.end(claim, RunEnd(SUCCESS, left))
    return claim.thread_id


async def answers(stage: Stage, thread_id: UUID, *to: str) -> Answers:
    asked = await stage.threads.questions(ANN, thread_id)
    assert asked is not None
    return Answers(asked, dict.fromkeys(to, "yes"), served=frozenset())


async def bound(stage: Stage) -> list[str]:
    rows = await stage.sql("SELECT interrupt_id FROM holdfast.answers ORDER BY interrupt_id")
    return [row["interrupt_id"] for row in rows]


@pytest.mark.parametrize("strategy", ["reject", "enqueue", "interrupt", "rollback"])
async def test_a_run_on_a_quiet_thread_is_claimed_on_the_spot(stage: Stage, strategy: str) -> None:
    claim = await stage.started(strategy=strategy)
    assert (claim.attempt, claim.graph_id, claim.owner) == (1, "talk", "ann")
    assert await stage.thread_status(claim.thread_id) == "busy"


@pytest.mark.parametrize("blocker", ["running", "pending"])
async def test_reject_refuses_and_leaves_no_trace(stage: Stage, blocker: str) -> None:
    thread_id = await stage.thread()
    first, _ = await stage.admit(thread_id, worker_id=stage.worker_id if blocker == "running" else None)
    with pytest.raises(Conflict, match="already running"):
        await stage.admit(thread_id, strategy="reject")
    assert [row["run_id"] for row in await stage.runs.page(ANN, thread_id)] == [first]
    assert await stage.run_status(first) == blocker


async def test_enqueue_waits_behind_what_is_active(stage: Stage) -> None:
    first = await stage.started()
    second, admitted = await stage.admit(first.thread_id, worker_id=stage.worker_id)
    assert admitted.claimed is None
    assert await stage.queue.claim(stage.worker_id, limit=10) == []
    await stage.runs.end(first, RunEnd(SUCCESS, outcome()))
    assert (await stage.claim()).run_id == second


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_a_running_run_is_told_to_stop_and_the_new_one_waits_for_it(stage: Stage, strategy: str) -> None:
    first = await stage.started()
    second, admitted = await stage.admit(first.thread_id, strategy=strategy, worker_id=stage.worker_id)
    assert (admitted.claimed, admitted.others.stopping) == (None, [first.run_id])
    assert await stage.queue.cancelled_here(stage.worker_id) == {first.run_id: strategy}
    assert await stage.run_status(second) == "pending"


@pytest.mark.parametrize(("strategy", "left"), [("interrupt", "interrupted"), ("rollback", None)])
async def test_waiting_runs_are_ended_at_once_and_the_new_one_starts(
    stage: Stage, strategy: str, left: str | None
) -> None:
    thread_id = await stage.thread()
    waiting = [(await stage.admit(thread_id))[0] for _ in range(3)]
    newest, admitted = await stage.admit(thread_id, strategy=strategy, worker_id=stage.worker_id)
    assert admitted.others.stopping == []
    assert admitted.claimed is not None
    assert [await stage.run_status(run_id) for run_id in waiting] == [left] * 3
    assert await stage.run_status(newest) == "running"


async def test_runs_of_one_thread_are_claimed_in_the_order_of_their_admission(stage: Stage) -> None:
    thread_id = await stage.thread()
    admitted = [(await stage.admit(thread_id))[0] for _ in range(5)]
    claimed = []
    for _ in admitted:
        claim = await stage.claim()
        claimed.append(claim.run_id)
        await stage.runs.end(claim, RunEnd(SUCCESS, outcome()))
    assert claimed == admitted


async def test_twenty_admissions_at_once_are_all_kept_and_run_one_after_the_other(stage: Stage) -> None:
    thread_id = await stage.thread()
    admissions = [stage.admit(thread_id, worker_id=stage.worker_id) for _ in range(20)]
    results = await together(*admissions)
    on_the_spot = [admitted.claimed for _, admitted in results if admitted.claimed]
    assert len(on_the_spot) == 1
    order = await stage.sql("SELECT run_id FROM holdfast.runs ORDER BY seq")
    assert {row["run_id"] for row in order} == {run_id for run_id, _ in results}
    claim, executed = on_the_spot[0], []
    while True:
        executed.append(claim.run_id)
        await stage.runs.end(claim, RunEnd(SUCCESS, outcome()))
        if not (claims := await stage.queue.claim(stage.worker_id, limit=20)):
            break
        (claim,) = claims
    assert executed == [row["run_id"] for row in order]


async def test_of_many_rejecting_runs_at_once_exactly_one_is_admitted(stage: Stage) -> None:
    thread_id = await stage.thread()
    results = await together(*[stage.admit(thread_id, strategy="reject") for _ in range(8)])
    assert sum(isinstance(result, Conflict) for result in results) == 7


async def test_a_run_needs_its_thread_unless_it_may_create_it(stage: Stage) -> None:
    unknown = uuids.uuid7()
    with pytest.raises(Missing):
        await stage.admit(unknown)
    await stage.admit(unknown, new_thread={"of": "run"})
    assert (await stage.threads.get(ANN, unknown))["metadata"]["of"] == "run"
    await stage.admit(unknown, new_thread={"of": "another run"})
    assert (await stage.threads.get(ANN, unknown))["metadata"]["of"] == "run"


async def test_many_runs_that_create_the_same_thread_all_get_in(stage: Stage) -> None:
    unknown = uuids.uuid7()
    results = await together(*[stage.admit(unknown, new_thread={}) for _ in range(6)])
    assert not [result for result in results if isinstance(result, Exception)]
    assert len(await stage.runs.page(ANN, unknown)) == 6


@pytest.mark.parametrize("new_thread", [None, {}])
async def test_somebody_elses_thread_does_not_exist(stage: Stage, new_thread: dict[str, str] | None) -> None:
    foreign = await stage.thread(BOB)
    with pytest.raises(Missing):
        await stage.admit(foreign, new_thread=new_thread)
    assert await stage.runs.page(BOB, foreign) == []
    assert await stage.thread_status(foreign) == "idle"


@pytest.mark.parametrize("new_thread", [None, {}])
async def test_a_deleted_thread_whose_run_is_still_stopping_takes_no_runs(
    stage: Stage, new_thread: dict[str, str] | None
) -> None:
    claim = await stage.started()
    await stage.runs.delete_thread(ANN, claim.thread_id)
    with pytest.raises(Missing):
        await stage.admit(claim.thread_id, new_thread=new_thread)


async def test_deleting_a_thread_ends_what_waits_and_names_what_runs(stage: Stage) -> None:
    running = await stage.started()
    waiting, _ = await stage.admit(running.thread_id)
    assert await stage.runs.delete_thread(ANN, running.thread_id) == [running.run_id]
    assert await stage.run_status(waiting) == "interrupted"
    assert await stage.queue.cancelled_here(stage.worker_id) == {running.run_id: "interrupt"}


async def test_the_thread_remembers_which_assistant_ran_on_it_last(stage: Stage) -> None:
    claim = await stage.started()
    metadata = (await stage.threads.get(ANN, claim.thread_id))["metadata"]
    assert metadata == {"graph_id": "talk", "assistant_id": str(claim.assistant_id)}


async def test_an_answer_is_bound_to_its_question(stage: Stage) -> None:
    thread_id = await asking(stage, ASKED, OTHER)
    await stage.admit(thread_id, answers=await answers(stage, thread_id, ASKED))
    assert await bound(stage) == [ASKED]


async def test_a_question_that_is_being_answered_takes_no_second_answer_but_its_neighbour_does(stage: Stage) -> None:
    thread_id = await asking(stage, ASKED, OTHER)
    await stage.admit(thread_id, answers=await answers(stage, thread_id, ASKED))
    with pytest.raises(Conflict, match="already being answered"):
        await stage.admit(thread_id, answers=await answers(stage, thread_id, ASKED, OTHER))
    assert await bound(stage) == [ASKED]
    await stage.admit(thread_id, answers=await answers(stage, thread_id, OTHER))
    assert await bound(stage) == [ASKED, OTHER]


@pytest.mark.parametrize("strategy", ["enqueue", "reject", "interrupt", "rollback"])
async def test_of_two_identical_answers_at_once_exactly_one_is_admitted(stage: Stage, strategy: str) -> None:
    thread_id = await asking(stage, ASKED)
    given = await answers(stage, thread_id, ASKED)
    results = await together(*[stage.admit(thread_id, answers=given, worker_id=stage.worker_id) for _ in range(2)])
    assert [isinstance(result, Conflict) for result in results].count(True) == 1
    assert len([run for run in await stage.runs.page(ANN, thread_id) if run["status"] == "running"]) == 1


async def test_an_answer_given_before_the_thread_moved_on_is_refused_after_it(stage: Stage) -> None:
    thread_id = await asking(stage, ASKED)
    late = await answers(stage, thread_id, ASKED)
    claim = await stage.started(thread_id, answers=late)
    await stage.runs.end(claim, RunEnd(SUCCESS, outcome(checkpoint_id="c2", asks=(OTHER,))))
    with pytest.raises(Conflict, match="moved on"):
        await stage.admit(thread_id, answers=late)


async def test_a_new_input_meanwhile_makes_the_answer_late(stage: Stage) -> None:
    thread_id = await asking(stage, ASKED)
    late = await answers(stage, thread_id, ASKED)
    claim = await stage.started(thread_id)
    await stage.runs.end(claim, RunEnd(SUCCESS, outcome(checkpoint_id="c2")))
    with pytest.raises(Conflict):
        await stage.admit(thread_id, answers=late)


async def test_a_refused_answer_leaves_nothing_behind(stage: Stage) -> None:
    thread_id = await asking(stage, ASKED)
    asked = Questions("c0", frozenset({ASKED}), unfinished=True)
    runs_before = len(await stage.runs.page(ANN, thread_id))
    with pytest.raises(Conflict):
        await stage.admit(thread_id, answers=Answers(asked, {ASKED: 1}, served=frozenset()))
    assert len(await stage.runs.page(ANN, thread_id)) == runs_before
    assert await stage.thread_status(thread_id) == "interrupted"
    assert await bound(stage) == []


async def test_a_refused_answer_cancels_nobody(stage: Stage) -> None:
    thread_id = await asking(stage, ASKED)
    first, _ = await stage.admit(thread_id, answers=await answers(stage, thread_id, ASKED))
    wrong = Answers(Questions("c0", frozenset({ASKED}), unfinished=True), {ASKED: 1}, served=frozenset())
    with pytest.raises(Conflict):
        await stage.admit(thread_id, answers=wrong, strategy="rollback")
    assert await stage.run_status(first) == "pending"


async def test_a_question_may_be_answered_again_when_its_answer_was_cancelled_before_it_ran(stage: Stage) -> None:
    thread_id = await asking(stage, ASKED)
    run_id, _ = await stage.admit(thread_id, answers=await answers(stage, thread_id, ASKED))
    await stage.runs.cancel(ANN, thread_id, run_id, "interrupt")
    assert await bound(stage) == []
    await stage.admit(thread_id, answers=await answers(stage, thread_id, ASKED))


async def test_a_question_may_be_answered_again_when_the_run_left_it_unanswered(stage: Stage) -> None:
    thread_id = await asking(stage, ASKED, OTHER)
    claim = await stage.started(thread_id, answers=await answers(stage, thread_id, ASKED, OTHER))
    await stage.runs.end(claim, RunEnd(RunStatus.ERROR, outcome(asks=(OTHER,), failed=True)))
    assert await bound(stage) == [ASKED]
    await stage.admit(thread_id, answers=await answers(stage, thread_id, OTHER))


async def test_a_question_may_be_answered_again_when_its_answer_was_rolled_back(stage: Stage) -> None:
    thread_id = await asking(stage, ASKED)
    claim = await stage.started(thread_id, answers=await answers(stage, thread_id, ASKED))
    rolled_back = RunEnd(RunStatus.INTERRUPTED, None, {"error": "UserRollback", "message": "m"}, rollback=True)
    await stage.runs.end(claim, rolled_back)
    assert await bound(stage) == []
    assert await stage.run_status(claim.run_id) is None
    assert await stage.thread_status(thread_id) == "interrupted"
    await stage.admit(thread_id, answers=await answers(stage, thread_id, ASKED))


async def test_a_breakpoint_is_resumed_once(stage: Stage) -> None:
    thread_id = await asking(stage, checkpoint_id="c7")
    go = await answers(stage, thread_id)
    results = await together(*[stage.admit(thread_id, answers=go) for _ in range(2)])
    assert [isinstance(result, Conflict) for result in results].count(True) == 1
    assert await bound(stage) == ["breakpoint:c7"]


async def test_an_admission_that_is_repeated_with_its_run_id_starts_no_second_run(stage: Stage) -> None:
    first = await stage.started()
    again = new_run(first.thread_id, run_id=first.run_id)
    repeated = await stage.admissions.admit(ANN, again, worker_id=stage.worker_id)
    assert repeated.claimed is not None, "its answer was lost, and the claim with it"
    assert repeated.claimed.fencing_token == first.fencing_token
    assert [run["run_id"] for run in await stage.runs.page(ANN, first.thread_id)] == [first.run_id]
