"""Approvals: one row for every question that `interrupt()` asked, kept when its run and its thread are gone.

The rows change in the transactions in which questions come and go: the end of a run or of a state update (`settle`),
the admission of an answer (`bind`), the end of a run that never read its answer (`release`). All of them hold the
thread's row. A deadline is due at `due_at`; what it does is guarded by `acted_at`, so that of all processes one does
it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from holdfast.db.pool import Connection, Database, repeated
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.errors import Conflict
from holdfast.rules.approval import (
    APPROVAL_MOVES,
    UNANSWERED,
    UNREAD,
    ApprovalState,
    ApprovalVerb,
    Deadline,
    Open,
    verb_at_end,
)
from holdfast.rules.caller import Caller

Interrupts = Mapping[str, Sequence[Mapping[str, Any]]]
"""`{task_id: [{id, value}]}`: what a thread asks."""


@dataclass(frozen=True, slots=True)
class ApprovalFilter:
    """Search terms; None means any."""

    states: Sequence[str] | None = None
    approval_id: UUID | None = None
    thread_id: UUID | None = None
    graph_id: str | None = None
    assistant_id: UUID | None = None
    asked_after: datetime | None = None
    asked_before: datetime | None = None
    due_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What made a thread ask what it asks now: the end of a run, or a state update (`run_id` None) of `by`.

    `unread` are the ids of questions that the run was to answer and found gone.
    """

    run_id: UUID | None
    by: str | None
    unread: frozenset[str] = frozenset()
    deadline: Deadline | None = None


class Approvals:
    """The repository of approvals. What a client may ask takes the caller; the rest is the worker's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("approvals")

    @repeated
    async def search(self, caller: Caller, terms: ApprovalFilter, *, limit: int, offset: int = 0) -> list[DictRow]:
        """A page of approvals, newest first; `question` and `answer` come as JSON bytes."""
        query = scoped(caller, self._sql["view"], **asdict(terms), limit=limit, offset=offset)
        async with self._database.reading("api") as conn:
            return await (await conn.execute(*query)).fetchall()

    @repeated
    async def to_answer(self, caller: Caller, approval_id: UUID) -> DictRow | None:
        """What is needed to answer a question in its owner's name; `kwargs` are those of the run that asked, if it is
        still there."""
        async with self._database.connection("api") as conn:
            query = scoped(caller, self._sql["to_answer"], approval_id=approval_id)
            return await (await conn.execute(*query)).fetchone()

    @repeated
    async def due(self, *, limit: int) -> list[DictRow]:
        """Questions whose deadline has passed and has done nothing yet, longest first.

        `kwargs` are those of the run that asked, if it is still there.
        """
        async with self._database.connection("worker") as conn:
            return await (await conn.execute(self._sql["due"], {"limit": limit})).fetchall()

    @repeated
    async def seconds_to_next(self) -> float | None:
        """Seconds until the next deadline, or None."""
        async with self._database.connection("worker") as conn:
            row = await (await conn.execute(self._sql["next_due"])).fetchone()
        return None if row is None or row["seconds"] is None else float(row["seconds"])

    async def escalate(self, approval_id: UUID, body: bytes) -> bool:
        """Put the question into the outbox of webhooks; whether this was still to do."""
        return bool(await self._change("escalate", approval_id=approval_id, body=body))

    async def give_up(self, approval_id: UUID, problem: str) -> bool:
        """Leave the question to people, with the reason; whether the deadline had still something to do."""
        return bool(await self._change("give_up", approval_id=approval_id, problem=problem))

    async def withdraw(self) -> int:
        """Withdraw the questions of threads that are gone. Returns how many."""
        return await self._change("withdraw")

    async def sweep(self, *, keep: float, batch: int) -> int:
        """Remove what was decided more than `keep` seconds ago. Returns how many."""
        return await self._change("sweep", keep=keep, batch=batch)

    @repeated
    async def _change(self, verb: str, /, **params: object) -> int:
        async with self._database.connection("worker") as conn:
            return (await conn.execute(self._sql[verb], params)).rowcount


async def bind(
    conn: Connection, thread_id: UUID, run_id: UUID, answers: Mapping[str, Any], *, not_for: frozenset[str], by: str
) -> list[DictRow]:
    """Note who answers what; part of the admission, thread row locked. What was asked: `graph_id`, `requested_by`.

    Raises:
        Conflict: one of the graphs asked that these answers are `not_for`.
    """
    params = {
        "thread_id": thread_id,
        "run_id": run_id,
        "interrupt_ids": list(answers),
        "answers": [_json(answer) for answer in answers.values()],
        "by": by,
    }
    questions = await (await conn.execute(statements("approvals")["bind"], params)).fetchall()
    for asked in questions:
        if asked["graph_id"] in not_for:
            raise Conflict(f"Graph '{asked['graph_id']}' asked this question; the assistant is of another graph.")
    return questions


async def expire(conn: Connection, approval_id: UUID, run_id: UUID, *, by: str) -> None:
    """Take a deadline for the run that answers in its name; part of the admission, thread row locked.

    Raises:
        Conflict: somebody answered, or somebody else took it.
    """
    params = {"approval_id": approval_id, "run_id": run_id, "by": by}
    if (await conn.execute(statements("approvals")["expire"], params)).rowcount == 0:
        raise Conflict("This question is not due any more.")


async def release(conn: Connection, run_ids: Sequence[UUID], still_asked: Sequence[str] | None) -> None:
    """Make questions pending again that these runs were to answer; all of theirs, or those that are still asked."""
    params = {"run_ids": list(run_ids), "still_asked": still_asked, "unanswered_means": UNANSWERED}
    await conn.execute(statements("approvals")["release"], params)


async def settle(
    conn: Connection, thread_id: UUID, interrupts: Interrupts, checkpoint_id: str | None, change: Change
) -> None:
    """Bring a thread's approvals, and the input that waits for them, up to what it asks from now on.

    Part of the transaction that makes it so, thread row locked.
    """
    verbs, thread = statements("approvals"), {"thread_id": thread_id}
    asked = {question["id"]: _json(question.get("value")) for task in interrupts.values() for question in task}
    rows = await (await conn.execute(verbs["open"], thread)).fetchall()
    before = [Open(**{**row, "state": ApprovalState(row["state"])}) for row in rows]
    closed, open_still = {}, set()
    for one in before:
        verb = verb_at_end(one, asked, run_id=change.run_id, unread=change.unread)
        if verb in (None, ApprovalVerb.RELEASE):
            open_still.add(one.interrupt_id)
        else:
            closed[one.interrupt_id] = APPROVAL_MOVES[one.state][verb]
    if closed:
        params = {"interrupt_ids": list(closed), "states": list(closed.values()), "unread": sorted(change.unread)}
        made = {"by": change.by, "run_id": change.run_id, "unread_means": UNREAD}
        await conn.execute(verbs["close"], thread | params | made)
    if change.run_id is not None and before:
        await release(conn, [change.run_id], sorted(asked))
    if asked.keys() - open_still:
        await conn.execute(verbs["ask"], thread | _new_rows(interrupts, open_still, checkpoint_id, change))
    await conn.execute(verbs["hold_or_let_go"], thread | {"asks": bool(asked)})


def _new_rows(interrupts: Interrupts, known: set[str], checkpoint_id: str | None, change: Change) -> dict[str, Any]:
    new = [(task, each) for task, every in interrupts.items() for each in every if each["id"] not in known]
    deadline = change.deadline
    due = [_due_answer(deadline, question.get("value")) for _, question in new]
    return {
        "interrupt_ids": [question["id"] for _, question in new],
        "task_ids": [task for task, _ in new],
        "questions": [_json(question.get("value")) for _, question in new],
        "due_answers": [answer for answer, _ in due],
        "problems": [problem for _, problem in due],
        "checkpoint_id": checkpoint_id,
        "run_id": change.run_id,
        "by": change.by,
        "after_seconds": deadline.after_seconds if deadline else None,
        "outcome": deadline.outcome if deadline else None,
        "webhook": deadline.webhook if deadline else None,
    }


def _due_answer(deadline: Deadline | None, question: Any) -> tuple[bytes | None, str | None]:
    """What the deadline is to answer, or why it cannot."""
    if deadline is None or deadline.outcome == "escalate":
        return None, None
    try:
        return _json(deadline.answer_to(question)), None
    except ValueError as problem:
        return None, str(problem)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
