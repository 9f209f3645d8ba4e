"""The rows of questions: every verb against every state, and deadlines that act once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest

from holdfast.db import approvals
from holdfast.db.admission import Answers
from holdfast.db.approvals import ApprovalFilter, Approvals, Change
from holdfast.db.runs import RunEnd, Runs
from holdfast.errors import Conflict, HoldfastError, Missing
from holdfast.rules.approval import APPROVAL_MOVES, ApprovalState, ApprovalVerb, Deadline, Policies, Policy
from holdfast.rules.caller import Caller, Sight
from holdfast.rules.run import RunStatus
from holdfast.worker.approvals import POLL_SECONDS, Expire, act_on_due
from tests.db.stage import ANN, BOB, GRAPH, Stage, new_run, opened, outcome, together

pytestmark = pytest.mark.anyio

X, Y = "1" * 32, "2" * 32
SUCCESS = RunStatus.SUCCESS


async def asking(stage: Stage, *asks: str, deadline: Deadline | None = None) -> UUID:
    """A thread whose last run left these questions."""
    runs = Runs(stage.database, Policies(Policy(deadline=deadline)))
    claim = await stage.started()
    await runs.end(claim, RunEnd(SUCCESS, outcome(asks=asks or (X,))))
    return claim.thread_id


async def answered(
    stage: Stage, thread_id: UUID, answer: Any = "yes", *, served: frozenset[str] = frozenset(), **given: Any
) -> UUID:
    """A run that carries an answer to X is admitted."""
    asked = await stage.threads.questions(ANN, thread_id)
    assert asked is not None
    run_id, _ = await stage.admit(thread_id, answers=Answers(asked, {X: answer}, served), **given)
    return run_id


async def rows(stage: Stage, thread_id: UUID) -> list[dict[str, Any]]:
    found = await Approvals(stage.database).search(ANN, ApprovalFilter(thread_id=thread_id), limit=100)
    return sorted(found, key=lambda row: str(row["interrupt_id"]))


async def only(stage: Stage, thread_id: UUID) -> dict[str, Any]:
    [row] = await rows(stage, thread_id)
    return row


# --- every verb, every state ---


async def _settled(stage: Stage, thread_id: UUID, run_id: UUID | None, *asks: str) -> None:
    left = outcome(asks=asks)
    async with stage.database.transaction("worker") as conn:
        await approvals.settle(conn, thread_id, left.interrupts, "c2", Change(run_id, "ann"))


async def _bound(stage: Stage, thread_id: UUID, run_id: UUID) -> None:
    async with stage.database.transaction("worker") as conn:
        await approvals.bind(conn, thread_id, run_id, {X: "yes"}, not_for=frozenset(), by="ann")


async def _expired(stage: Stage, thread_id: UUID, run_id: UUID) -> None:
    row = await only(stage, thread_id)
    async with stage.database.transaction("worker") as conn:
        await approvals.expire(conn, row["approval_id"], run_id, by="ann")


async def _released(stage: Stage, run_id: UUID) -> None:
    async with stage.database.transaction("worker") as conn:
        await approvals.release(conn, [run_id], None)


Verb = Callable[[Stage, UUID, UUID], Awaitable[Any]]
VERBS: dict[ApprovalVerb, Verb] = {
    ApprovalVerb.ANSWER: _bound,
    ApprovalVerb.EXPIRE: _expired,
    ApprovalVerb.CONFIRM: lambda stage, thread, run: _settled(stage, thread, run),
    ApprovalVerb.RELEASE: lambda stage, _, run: _released(stage, run),
    ApprovalVerb.DISCARD: lambda stage, thread, _: _settled(stage, thread, None),
    ApprovalVerb.WITHDRAW: lambda stage, thread, _: stage.runs.delete_thread(ANN, thread),
}


@pytest.mark.parametrize("state", ApprovalState)
@pytest.mark.parametrize("verb", ApprovalVerb)
async def test_every_verb_does_to_every_state_what_the_table_says(
    stage: Stage, state: ApprovalState, verb: ApprovalVerb
) -> None:
    thread_id = await asking(stage, deadline=Deadline(1, "answer", "no"))
    run_id = new_run(thread_id).run_id
    await stage.sql(
        "UPDATE holdfast.approvals SET state = %s, decided_run_id = %s, due_at = now() - interval '1 hour'",
        state,
        None if state == "pending" else run_id,
    )
    try:
        await VERBS[verb](stage, thread_id, run_id)
    except HoldfastError:
        assert verb not in APPROVAL_MOVES[state]
    expected = APPROVAL_MOVES[state].get(verb, state)
    if verb is ApprovalVerb.CONFIRM and state is ApprovalState.PENDING:
        expected = ApprovalState.DISCARDED
    assert (await only(stage, thread_id))["state"] == expected


async def test_a_question_is_answered_through_the_graph_that_asked(stage: Stage) -> None:
    thread_id = await asking(stage)
    await stage.sql("UPDATE holdfast.approvals SET graph_id = 'other'")
    with pytest.raises(Conflict, match="Graph 'other' asked this question"):
        await answered(stage, thread_id, served=frozenset({GRAPH, "other"}))
    assert (await only(stage, thread_id))["state"] == "pending"


async def test_a_question_of_a_graph_that_is_gone_is_answered_through_another_one(stage: Stage) -> None:
    thread_id = await asking(stage)
    await stage.sql("UPDATE holdfast.approvals SET graph_id = 'before it was renamed'")
    run_id = await answered(stage, thread_id, served=frozenset({GRAPH, "other"}))
    row = await only(stage, thread_id)
    assert (row["state"], row["decided_run_id"]) == ("answering", run_id)


async def test_a_question_is_open_once(stage: Stage) -> None:
    thread_id = await asking(stage)
    async with stage.outside() as conn:
        with pytest.raises(psycopg.errors.UniqueViolation, match="one_open_approval_per_question"):
            await conn.execute(
                "INSERT INTO holdfast.approvals (approval_id, owner, metadata, thread_id, interrupt_id, task_id,"
                " question, asked_at, state) SELECT gen_random_uuid(), owner, metadata, thread_id, interrupt_id,"
                " task_id, question, asked_at, 'pending' FROM holdfast.approvals"
            )
    assert (await only(stage, thread_id))["question"] == b'"?"'


# --- answers ---


async def test_a_cancelled_answer_is_taken_out_of_the_checkpoint_of_its_task(stage: Stage) -> None:
    thread_id = await asking(stage, X, Y)
    run_id = await answered(stage, thread_id)
    claim = await stage.claim()
    kept = [("task", -4, "__resume__", None), ("task", 0, "log", None), ("other", -4, "__resume__", b"before")]
    for task, idx, channel, before in kept:
        key = [str(thread_id), "", "c1", task, idx]
        await stage.sql(
            "INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob)"
            " VALUES (%s, %s, %s, %s, %s, %s, 'msgpack', 'new')",
            *key,
            channel,
        )
        await stage.sql(
            "INSERT INTO holdfast.borrowed_writes (run_id, checkpoint_ns, checkpoint_id, task_id, idx, old_channel,"
            " old_type, old_blob) VALUES (%s, '', 'c1', %s, %s, %s, 'msgpack', %s)",
            run_id,
            task,
            idx,
            channel if before else None,
            before,
        )
    await stage.runs.end(claim, RunEnd(RunStatus.INTERRUPTED, outcome(asks=(X, Y))))
    left = await stage.sql("SELECT task_id, channel, blob FROM checkpoint_writes ORDER BY task_id, idx")
    assert [(row["task_id"], row["channel"], bytes(row["blob"])) for row in left] == [
        ("other", "__resume__", b"new"),
        ("task", "log", b"new"),
    ]
    assert {row["state"] for row in await rows(stage, thread_id)} == {"pending"}


@pytest.mark.parametrize("status", [RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.INTERRUPTED])
async def test_a_run_that_leaves_no_state_returns_its_question(stage: Stage, status: RunStatus) -> None:
    thread_id = await asking(stage)
    await answered(stage, thread_id)
    await stage.runs.end(await stage.claim(), RunEnd(status, None, rollback=status is RunStatus.INTERRUPTED))
    row = await only(stage, thread_id)
    assert (row["state"], row["decided_run_id"]) == ("pending", None)
    await answered(stage, thread_id)


async def test_an_answer_that_came_too_late_is_no_answer(stage: Stage) -> None:
    thread_id = await asking(stage)
    await answered(stage, thread_id)
    claim = await stage.claim()
    await stage.runs.end(claim, RunEnd(RunStatus.ERROR, outcome(), unread=frozenset({X})))
    row = await only(stage, thread_id)
    assert (row["state"], row["answer"]) == ("discarded", None)
    assert "gone" in row["problem"]


# --- held runs ---


async def test_a_held_run_is_claimed_when_nothing_is_asked_any_more(stage: Stage) -> None:
    thread_id = await asking(stage)
    waiting, _ = await stage.admit(thread_id, on_pending="enqueue", worker_id=stage.worker_id)
    assert await stage.queue.claim(stage.worker_id, limit=10) == []
    assert await stage.thread_status(thread_id) == "interrupted"
    answer = await answered(stage, thread_id, strategy="reject")
    claim = await stage.claim()
    assert claim.run_id == answer
    await stage.runs.end(claim, RunEnd(SUCCESS, outcome()))
    assert await stage.thread_status(thread_id) == "busy"
    assert (await stage.claim()).run_id == waiting


async def test_a_held_run_does_not_keep_the_state_from_being_updated(stage: Stage) -> None:
    thread_id = await asking(stage)
    waiting, _ = await stage.admit(thread_id, on_pending="enqueue")
    token = await stage.threads.begin_edit(ANN, thread_id)
    await stage.threads.end_edit(thread_id, token, outcome(), by="ann")
    assert (await only(stage, thread_id))["state"] == "discarded"
    assert (await stage.claim()).run_id == waiting
    with pytest.raises(Conflict):
        await stage.threads.begin_edit(ANN, thread_id)


async def test_a_run_that_has_begun_is_not_held(stage: Stage) -> None:
    begun = await stage.started(on_pending="enqueue")
    await stage.queue.hand_back(begun)
    await _settled(stage, begun.thread_id, None, X)
    assert (await stage.claim()).run_id == begun.run_id


# --- who sees them ---


async def test_approvals_are_seen_by_their_owner_and_by_who_sees_the_thread(stage: Stage) -> None:
    thread_id = await asking(stage)
    await stage.threads.patch(ANN, thread_id, {"team": "red"})
    found = Approvals(stage.database)
    terms = ApprovalFilter(thread_id=thread_id)
    red, blue = [Caller("cleo", Sight.MATCHING, ({"team": team},)) for team in ("red", "blue")]
    for caller, number in ((ANN, 1), (BOB, 0), (red, 1), (blue, 0), (Caller("cleo", Sight.ALL), 1)):
        assert len(await found.search(caller, terms, limit=10)) == number


# --- the clock ---


@asynccontextmanager
async def at(url: str, now: str) -> AsyncIterator[Stage]:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(f"ALTER DATABASE {conn.info.dbname} SET holdfast.now = '2026-11-21 {now}+00'")  # type: ignore[arg-type]
    async with opened(url) as stage:
        yield stage


def expirer(stage: Stage) -> Expire:
    """Admits the run of a deadline, as `api/approvals.expire` does."""

    async def expire(due: Any) -> None:
        asked = await stage.threads.questions(ANN, due["thread_id"])
        assert asked is not None
        if due["interrupt_id"] not in asked.pending:
            raise Conflict("it was answered")
        new = new_run(
            due["thread_id"], answers=Answers(asked, {X: "no"}, served=frozenset()), expiring=due["approval_id"]
        )
        await stage.admissions.admit(ANN, new, worker_id=None)

    return expire


async def test_a_deadline_answers_once_however_many_processes_see_it(database_url: str) -> None:
    async with at(database_url, "12:00") as stage:
        thread_id = await asking(stage, deadline=Deadline(60, "answer", "no"))
        assert await act_on_due(Approvals(stage.database), expirer(stage)) == POLL_SECONDS
        assert (await only(stage, thread_id))["state"] == "pending"
    async with at(database_url, "12:01") as stage:
        found = Approvals(stage.database)
        results = await together(*[act_on_due(found, expirer(stage)) for _ in range(6)])
        assert results == [POLL_SECONDS] * 6
        claim = await stage.claim()
        assert await stage.queue.claim(stage.worker_id, limit=10) == []
        row = await only(stage, thread_id)
        assert (row["state"], row["answer"], row["decided_run_id"]) == ("expiring", b'"no"', claim.run_id)
        await stage.runs.end(claim, RunEnd(SUCCESS, outcome()))
        assert (await only(stage, thread_id))["state"] == "expired"


async def test_a_person_and_a_deadline_do_not_both_answer(database_url: str) -> None:
    async with at(database_url, "12:00") as stage:
        threads = [await asking(stage, deadline=Deadline(60, "answer", "no")) for _ in range(10)]
    async with at(database_url, "12:01") as stage:
        await together(
            *[answered(stage, thread_id) for thread_id in threads],
            *[act_on_due(Approvals(stage.database), expirer(stage)) for _ in range(2)],
        )
        claims = await stage.queue.claim(stage.worker_id, limit=100)
        assert {claim.thread_id for claim in claims} == set(threads)
        assert len(claims) == len(threads)
        for thread_id in threads:
            row = await only(stage, thread_id)
            assert (row["state"], row["answer"]) in {("answering", b'"yes"'), ("expiring", b'"no"')}


async def test_a_deadline_whose_run_was_cancelled_is_left_to_people(database_url: str) -> None:
    async with at(database_url, "12:00") as stage:
        thread_id = await asking(stage, deadline=Deadline(60, "answer", "no"))
    async with at(database_url, "12:01") as stage:
        found = Approvals(stage.database)
        await act_on_due(found, expirer(stage))
        run_id = (await only(stage, thread_id))["decided_run_id"]
        await stage.runs.cancel(ANN, thread_id, run_id, "interrupt")
        row = await only(stage, thread_id)
        assert row["state"] == "pending"
        assert "ended without" in row["problem"]
        assert await found.due(limit=10) == []


async def test_a_deadline_that_is_refused_says_why_and_is_not_tried_again(database_url: str) -> None:
    async def refuse(due: Any) -> None:
        raise Missing("Assistant not found")

    async with at(database_url, "12:00") as stage:
        thread_id = await asking(stage, deadline=Deadline(60, "answer", "no"))
    async with at(database_url, "12:01") as stage:
        found = Approvals(stage.database)
        await act_on_due(found, refuse)
        row = await only(stage, thread_id)
        assert (row["state"], row["problem"]) == ("pending", "Missing: Assistant not found")
        assert await found.due(limit=10) == []


async def test_what_cannot_be_rejected_stays_pending_with_the_reason(database_url: str) -> None:
    async with at(database_url, "12:00") as stage:
        thread_id = await asking(stage, deadline=Deadline(60, "reject"))
        assert "action_requests" in (await only(stage, thread_id))["problem"]
    async with at(database_url, "12:01") as stage:
        assert await Approvals(stage.database).due(limit=10) == []


async def test_an_escalation_is_told_once_and_leaves_the_question(database_url: str) -> None:
    deadline = Deadline(60, "escalate", webhook="http://example.com/ask")
    async with at(database_url, "12:00") as stage:
        thread_id = await asking(stage, deadline=deadline)
    async with at(database_url, "12:01") as stage:
        found = Approvals(stage.database)
        await together(*[act_on_due(found, expirer(stage)) for _ in range(6)])
        [delivery] = await stage.sql("SELECT url, receiver, body FROM holdfast.deliveries")
        assert (delivery["url"], delivery["receiver"]) == ("http://example.com/ask", "example.com")
        assert b'"approval.due"' in bytes(delivery["body"])
        row = await only(stage, thread_id)
        assert row["state"] == "pending"
        assert row["acted_at"] is not None
        await answered(stage, thread_id)


async def test_the_next_deadline_is_waited_for(database_url: str) -> None:
    async with at(database_url, "12:00") as stage:
        found = Approvals(stage.database)
        assert await found.seconds_to_next() is None
        await asking(stage, deadline=Deadline(1.5, "answer", "no"))
        assert await act_on_due(found, expirer(stage)) == 1.5


# --- what goes ---


async def test_questions_of_threads_that_are_gone_are_withdrawn_and_decided_ones_are_kept_as_long_as_asked(
    database_url: str,
) -> None:
    async with at(database_url, "12:00") as stage:
        found = Approvals(stage.database)
        hidden, there = await asking(stage), await asking(stage)
        await stage.sql("UPDATE holdfast.threads SET deleted_at = holdfast.now() WHERE thread_id = %s", hidden)
        assert await found.withdraw() == 1
        assert (await only(stage, hidden))["state"] == "withdrawn"
        assert await found.sweep(keep=59, batch=10) == 0
    async with at(database_url, "12:01") as stage:
        found = Approvals(stage.database)
        assert await found.sweep(keep=59, batch=10) == 1
        assert await rows(stage, hidden) == []
        assert (await only(stage, there))["state"] == "pending"
