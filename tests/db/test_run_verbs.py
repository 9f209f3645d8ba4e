"""Invariant 9: every run status meets every SQL verb, and the table in `rules/run.py` says what comes of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from uuid import UUID, uuid4

import psycopg
import pytest

from holdfast.db.queue import Claimed
from holdfast.db.runs import RunEnd
from holdfast.errors import Conflict, FenceLost, Missing
from holdfast.rules.run import RUN_MOVES, RunStatus, RunVerb
from tests.db.stage import ANN, Stage, outcome

DELETED = "deleted"
pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Case:
    """A run in some status; `claim` is what its worker holds, or held."""

    stage: Stage
    claim: Claimed

    @property
    def run_id(self) -> UUID:
        return self.claim.run_id

    @property
    def thread_id(self) -> UUID:
        return self.claim.thread_id


def ends(status: RunStatus) -> Callable[[Case], Awaitable[object]]:
    failed = status in (RunStatus.ERROR, RunStatus.TIMEOUT)
    return lambda case: case.stage.runs.end(case.claim, RunEnd(status, outcome(failed=failed)))


async def cancels(case: Case) -> object:
    return await case.stage.runs.cancel(ANN, case.thread_id, case.run_id, "interrupt")


VERBS: dict[str, tuple[RunVerb | None, Callable[[Case], Awaitable[object]]]] = {
    "claim": (RunVerb.CLAIM, lambda case: case.stage.queue.claim(case.stage.worker_id, limit=1)),
    "requeue_dead": (RunVerb.REQUEUE, lambda case: case.stage.queue.requeue_dead([case.stage.worker_id])),
    "requeue_lost": (
        RunVerb.REQUEUE,
        lambda case: case.stage.queue.requeue_lost(case.stage.worker_id, [case.run_id]),
    ),
    "hand_back": (RunVerb.REQUEUE, lambda case: case.stage.queue.hand_back(case.claim)),
    "end success": (RunVerb.SUCCEED, ends(RunStatus.SUCCESS)),
    "end error": (RunVerb.FAIL, ends(RunStatus.ERROR)),
    "end timeout": (RunVerb.EXPIRE, ends(RunStatus.TIMEOUT)),
    "end interrupted": (RunVerb.STOP, ends(RunStatus.INTERRUPTED)),
    "cancel": (RunVerb.CANCEL, cancels),
    "delete": (None, lambda case: case.stage.runs.delete(ANN, case.thread_id, case.run_id)),
}


def expected(status: RunStatus, verb: str) -> str:
    if verb == "delete":
        return DELETED if not RUN_MOVES[status] else status
    move = VERBS[verb][0]
    assert move is not None
    return RUN_MOVES[status].get(move, status)


async def in_status(stage: Stage, status: RunStatus, *, attempt: int = 0) -> Case:
    """A run put into a status behind the repository's back."""
    claim = await stage.started()
    await stage.register(stage.worker_id)
    await stage.sql(
        "UPDATE holdfast.runs SET status = %s::text, attempt = %s, worker_id = CASE WHEN %s::text = 'running' THEN"
        " worker_id END WHERE run_id = %s",
        status,
        attempt,
        status,
        claim.run_id,
    )
    await stage.sql(
        "UPDATE holdfast.threads SET status = %s WHERE thread_id = %s",
        "busy" if RUN_MOVES[status] else "idle",
        claim.thread_id,
    )
    return Case(stage, claim)


@pytest.mark.parametrize(("status", "verb"), list(product(RunStatus, VERBS)))
async def test_every_verb_does_to_every_status_what_the_table_says(stage: Stage, status: RunStatus, verb: str) -> None:
    case = await in_status(stage, status)
    with suppress(FenceLost, Missing, Conflict):
        await VERBS[verb][1](case)
    after = await stage.run_status(case.run_id) or DELETED
    assert after == expected(status, verb)
    active = RUN_MOVES.get(RunStatus(after), {}) if after != DELETED else {}
    assert (await stage.thread_status(case.thread_id) == "busy") is bool(active)


@pytest.mark.parametrize(("status", "verb"), [(s, v) for s, v in product(RunStatus, VERBS) if v.startswith("end")])
async def test_an_end_that_moves_nothing_is_refused_unless_it_repeats_itself(
    stage: Stage, status: RunStatus, verb: str
) -> None:
    case = await in_status(stage, status)
    if status is RunStatus.RUNNING or verb == f"end {status}":
        await VERBS[verb][1](case)
        return
    with pytest.raises(FenceLost):
        await VERBS[verb][1](case)


@pytest.mark.parametrize("status", RunStatus)
async def test_a_run_that_ran_before_is_cancelled_by_a_worker_and_not_by_the_request(
    stage: Stage, status: RunStatus
) -> None:
    case = await in_status(stage, status, attempt=1)
    with suppress(Missing):
        assert await cancels(case) is True
    (row,) = await stage.sql("SELECT status, cancel FROM holdfast.runs WHERE run_id = %s", case.run_id)
    assert row == {"status": status, "cancel": "interrupt" if RUN_MOVES[status] else None}


async def test_an_older_claim_cannot_end_or_hand_back_a_run_that_was_claimed_again(stage: Stage) -> None:
    old = await stage.started()
    await stage.queue.hand_back(old)
    newer = await stage.claim()
    assert newer.fencing_token > old.fencing_token
    assert not await stage.queue.hand_back(old)
    with pytest.raises(FenceLost):
        await stage.runs.end(old, RunEnd(RunStatus.SUCCESS, outcome({"x": b"1"})))
    assert await stage.run_status(old.run_id) == "running"
    assert (await stage.threads.get(ANN, old.thread_id))["values"] is None


@pytest.mark.parametrize(
    ("status", "left", "rests"),
    [
        (RunStatus.SUCCESS, outcome(), "idle"),
        (RunStatus.SUCCESS, outcome(asks=("1" * 32,)), "interrupted"),
        (RunStatus.SUCCESS, outcome(unfinished=True), "interrupted"),
        (RunStatus.ERROR, outcome(failed=True, unfinished=True), "error"),
        (RunStatus.TIMEOUT, outcome(failed=True), "error"),
        (RunStatus.INTERRUPTED, outcome(unfinished=True), "interrupted"),
        (RunStatus.INTERRUPTED, outcome(), "idle"),
    ],
)
async def test_the_thread_rests_as_its_run_left_it(stage: Stage, status: RunStatus, left: object, rests: str) -> None:
    claim = await stage.started()
    assert await stage.thread_status(claim.thread_id) == "busy"
    await stage.runs.end(claim, RunEnd(status, left))  # type: ignore[arg-type]
    assert await stage.thread_status(claim.thread_id) == rests


@pytest.mark.parametrize("status", [RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.INTERRUPTED])
async def test_a_thread_stays_busy_while_another_run_waits(stage: Stage, status: RunStatus) -> None:
    claim = await stage.started()
    waiting, _ = await stage.admit(claim.thread_id)
    await stage.runs.end(claim, RunEnd(status, outcome(failed=status is RunStatus.ERROR)))
    assert await stage.thread_status(claim.thread_id) == "busy"
    await stage.runs.cancel(ANN, claim.thread_id, waiting, "interrupt")
    assert await stage.thread_status(claim.thread_id) != "busy"


async def test_a_run_whose_state_cannot_be_read_still_ends_and_keeps_what_the_thread_showed(stage: Stage) -> None:
    first = await stage.started()
    await stage.runs.end(first, RunEnd(RunStatus.SUCCESS, outcome({"x": b"1"})))
    second = await stage.started(first.thread_id)
    await stage.runs.end(second, RunEnd(RunStatus.ERROR, None, {"error": "E", "message": "m"}))
    row = await stage.threads.get(ANN, first.thread_id)
    assert (row["status"], json.loads(row["values"]), row["error"]) == (
        "error",
        {"x": 1},
        {"error": "E", "message": "m"},
    )


async def test_two_running_runs_on_one_thread_are_impossible(stage: Stage) -> None:
    claim = await stage.started()
    waiting, _ = await stage.admit(claim.thread_id)
    async with stage.outside() as conn:
        with pytest.raises(psycopg.errors.UniqueViolation, match="one_running_run_per_thread"):
            await conn.execute(
                "UPDATE holdfast.runs SET status = 'running', worker_id = %s, fencing_token = 1 WHERE run_id = %s",
                [stage.worker_id, waiting],
            )


@pytest.mark.parametrize(
    "change",
    [
        "status = 'running'",
        "status = 'running', worker_id = gen_random_uuid()",
        "worker_id = gen_random_uuid()",
        "status = 'paused'",
        "cancel = 'maybe'",
    ],
)
async def test_the_table_itself_refuses_a_row_that_means_nothing(stage: Stage, change: str) -> None:
    run_id, _ = await stage.admit(await stage.thread())
    async with stage.outside() as conn:
        with pytest.raises(psycopg.errors.CheckViolation):
            await conn.execute(f"UPDATE holdfast.runs SET {change} WHERE run_id = %s", [run_id])  # type: ignore[arg-type]


async def test_a_rollback_request_is_not_softened_by_a_later_interrupt(stage: Stage) -> None:
    claim = await stage.started()
    await stage.runs.cancel(ANN, claim.thread_id, claim.run_id, "rollback")
    await stage.runs.cancel(ANN, claim.thread_id, claim.run_id, "interrupt")
    assert await stage.queue.cancelled_here(stage.worker_id) == {claim.run_id: "rollback"}


async def test_a_pending_run_that_is_rolled_back_leaves_no_record(stage: Stage) -> None:
    run_id, _ = await stage.admit(await stage.thread())
    (row,) = await stage.sql("SELECT thread_id FROM holdfast.runs WHERE run_id = %s", run_id)
    assert await stage.runs.cancel(ANN, row["thread_id"], run_id, "rollback") is False
    assert await stage.run_status(run_id) is None
    assert await stage.thread_status(row["thread_id"]) == "idle"


async def test_a_takeover_counts_a_crash_and_a_hand_back_does_not(stage: Stage) -> None:
    claim = await stage.started()
    await stage.queue.hand_back(claim)
    again = await stage.claim()
    assert (again.attempt, again.crashes) == (2, 0)
    await stage.register(stage.worker_id)
    assert await stage.queue.requeue_dead([stage.worker_id]) == {claim.run_id: 1}
    last = await stage.claim()
    assert (last.attempt, last.crashes) == (3, 1)


async def claimed(stage: Stage, run_id: UUID) -> Claimed | None:
    """The run that waits, claimed by whom it waits for."""
    if claims := await stage.queue.claim(stage.worker_id, limit=1):
        assert [claim.run_id for claim in claims] == [run_id]
        return claims[0]
    return await stage.queue.claim_suspect(stage.worker_id, run_id)


async def crashed(stage: Stage, run_id: UUID) -> int:
    """How many crashes a run is charged with after one more."""
    assert await claimed(stage, run_id) is not None
    await stage.register(stage.worker_id)
    return (await stage.queue.requeue_dead([stage.worker_id]))[run_id]


async def test_a_run_that_gets_on_is_charged_with_its_last_crash_alone(stage: Stage) -> None:
    run_id, _ = await stage.admit(await stage.thread())
    assert [await crashed(stage, run_id) for _ in range(3)] == [1, 2, 3]
    await saved_a_checkpoint(stage, run_id, attempt=4)
    assert [await crashed(stage, run_id) for _ in range(2)] == [1, 2]


async def saved_a_checkpoint(stage: Stage, run_id: UUID, *, attempt: int) -> None:
    await stage.sql(
        "INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)"
        " SELECT thread_id::text, '', 'c', '{}', jsonb_build_object('run_id', run_id, 'run_attempt', %s::int)"
        " FROM holdfast.runs WHERE run_id = %s",
        attempt,
        run_id,
    )


async def suspect(stage: Stage) -> UUID | None:
    """The suspect that the next worker finds that looks for one."""
    return await stage.queue.reserve_suspect(seconds=60)


async def test_a_suspect_is_claimed_by_those_who_look_for_suspects(stage: Stage) -> None:
    run_id, _ = await stage.admit(await stage.thread())
    await crashed(stage, run_id)
    assert await suspect(stage) is None
    await crashed(stage, run_id)
    assert await suspect(stage) == run_id
    assert not await stage.queue.claim(stage.worker_id, limit=1)
    claim = await stage.queue.claim_suspect(stage.worker_id, run_id)
    assert claim is not None
    assert claim.crashes == 2
    assert await suspect(stage) is None
    assert await stage.queue.claim_suspect(stage.worker_id, run_id) is None


async def test_a_suspect_is_found_by_one_worker_until_its_process_should_have_come_up(stage: Stage) -> None:
    first, _ = await stage.admit(await stage.thread())
    second, _ = await stage.admit(await stage.thread())
    await stage.sql("UPDATE holdfast.runs SET crashes = 2")
    assert [await suspect(stage) for _ in range(3)] == [first, second, None]
    await stage.sql("UPDATE holdfast.runs SET isolated_until = holdfast.now() WHERE run_id = %s", first)
    assert [await suspect(stage) for _ in range(2)] == [first, None]


async def test_a_suspect_that_takes_its_own_process_down_is_found_again_at_once(stage: Stage) -> None:
    run_id, _ = await stage.admit(await stage.thread())
    await stage.sql("UPDATE holdfast.runs SET crashes = 2")
    assert await suspect(stage) == run_id
    await crashed(stage, run_id)
    assert await suspect(stage) == run_id


async def test_a_suspect_whose_thread_is_busy_waits_like_any_run(stage: Stage) -> None:
    thread_id = await stage.thread()
    before = await stage.started(thread_id)
    run_id, _ = await stage.admit(thread_id)
    await stage.sql("UPDATE holdfast.runs SET crashes = 2 WHERE run_id = %s", run_id)
    assert await suspect(stage) is None
    await stage.runs.end(before, RunEnd(RunStatus.SUCCESS, outcome()))
    assert await suspect(stage) == run_id


async def test_a_suspect_that_is_handed_back_after_a_step_is_one_no_more(stage: Stage) -> None:
    run_id, _ = await stage.admit(await stage.thread())
    assert [await crashed(stage, run_id) for _ in range(2)] == [1, 2]
    alone = await claimed(stage, run_id)
    assert alone is not None
    await saved_a_checkpoint(stage, run_id, attempt=alone.attempt)
    assert await stage.queue.hand_back(alone)
    again = await stage.claim()
    assert (again.run_id, again.crashes) == (run_id, 0)
    await stage.queue.hand_back(again)
    assert (await stage.claim()).crashes == 0


async def test_a_run_that_nobody_executed_has_taken_nobody_down(stage: Stage) -> None:
    claim = await stage.started()
    await stage.queue.requeue_lost(stage.worker_id, [claim.run_id])
    assert (await stage.claim()).crashes == 0


async def test_a_takeover_forgets_the_dead_and_leaves_the_living_alone(stage: Stage) -> None:
    dead, living = uuid4(), uuid4()
    await stage.register(dead)
    await stage.register(living)
    lost, kept = [(await stage.admit(await stage.thread(), worker_id=who))[0] for who in (dead, living)]
    assert await stage.queue.requeue_dead([dead]) == {lost: 1}
    assert await stage.run_status(kept) == "running"
    assert [row["worker_id"] for row in await stage.sql("SELECT worker_id FROM holdfast.workers")] == [living]
    assert await stage.queue.requeue_dead([dead]) == {}
