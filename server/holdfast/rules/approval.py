"""The life of a question that `interrupt()` asked, as a table, and what a project decided about questions.

`APPROVAL_MOVES[state][verb]` is the next state; a pair that is missing is refused. An answer is bound when its run is
admitted and confirmed when that run has ended without the question being asked any more; a question that is still asked
then may be answered again.

    pending     asked; nobody has answered yet
    answering   a run that carries an answer was admitted          expiring   the same, by the deadline
    answered    that run has read it                               expired    the same, by the deadline
    discarded   new input or a state update made the question go
    withdrawn   the thread is gone

A policy says what becomes of new input while something is asked (`OnPending`, from the mildest to the strictest), what
happens when nobody answers in time (`Deadline`), and who may answer (`by`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from holdfast.rules.scope import PERMISSION

OnPending = Literal["discard", "enqueue", "reject"]
Outcome = Literal["reject", "answer", "escalate"]

ANOTHER = "another"

_STRICTNESS: Sequence[OnPending] = ("discard", "enqueue", "reject")

UNREAD = "The question was gone before the turn of this answer came."
NOT_REJECTABLE = "The deadline cannot reject a question without action_requests; such graphs need the outcome `answer`."
UNANSWERED = "The run that was to give the deadline's answer ended without the question having been answered."


class ApprovalState(StrEnum):
    PENDING = "pending"
    ANSWERING = "answering"
    EXPIRING = "expiring"
    ANSWERED = "answered"
    EXPIRED = "expired"
    DISCARDED = "discarded"
    WITHDRAWN = "withdrawn"


class ApprovalVerb(StrEnum):
    ANSWER = "answer"
    EXPIRE = "expire"
    CONFIRM = "confirm"
    RELEASE = "release"
    DISCARD = "discard"
    WITHDRAW = "withdraw"


_GOING = {ApprovalVerb.DISCARD: ApprovalState.DISCARDED, ApprovalVerb.WITHDRAW: ApprovalState.WITHDRAWN}

APPROVAL_MOVES: Mapping[ApprovalState, Mapping[ApprovalVerb, ApprovalState]] = {
    ApprovalState.PENDING: {
        ApprovalVerb.ANSWER: ApprovalState.ANSWERING,
        ApprovalVerb.EXPIRE: ApprovalState.EXPIRING,
        **_GOING,
    },
    ApprovalState.ANSWERING: {
        ApprovalVerb.CONFIRM: ApprovalState.ANSWERED,
        ApprovalVerb.RELEASE: ApprovalState.PENDING,
        **_GOING,
    },
    ApprovalState.EXPIRING: {
        ApprovalVerb.CONFIRM: ApprovalState.EXPIRED,
        ApprovalVerb.RELEASE: ApprovalState.PENDING,
        **_GOING,
    },
    ApprovalState.ANSWERED: {},
    ApprovalState.EXPIRED: {},
    ApprovalState.DISCARDED: {},
    ApprovalState.WITHDRAWN: {},
}


@dataclass(frozen=True, slots=True)
class Deadline:
    """How long a question may stay unanswered, and what happens then.

    `answer` is any JSON; `webhook` is who is told. Each belongs to the outcome of its name.
    """

    after_seconds: float
    outcome: Outcome
    answer: Any = None
    webhook: str | None = None

    def answer_to(self, question: Any) -> Any:
        """What to answer when the time is over.

        Raises:
            ValueError: this question cannot be rejected; its text says why.
        """
        if self.outcome != "reject":
            return self.answer
        requests = question.get("action_requests") if isinstance(question, Mapping) else None
        if not isinstance(requests, Sequence) or isinstance(requests, str) or not requests:
            raise ValueError(NOT_REJECTABLE)
        message = f"Nobody answered within {self.after_seconds:g} seconds."
        return {"decisions": [{"type": "reject", "message": message} for _ in requests]}


@dataclass(frozen=True, slots=True)
class Policy:
    """What a project decided for the questions of a graph."""

    on_pending: OnPending = "discard"
    deadline: Deadline | None = None
    by: tuple[str, ...] = ()
    """What has to be true of whoever answers: `another` than who requested, `permission:<name>`."""

    def refusal(self, answerer: str, permissions: Collection[str], requested_by: str) -> str | None:
        """Why they may not answer; None: they may."""
        for wanted in self.by:
            if wanted == ANOTHER and answerer == requested_by:
                return "This question is for somebody else than who asked for what it is about."
            name = wanted.removeprefix(PERMISSION)
            if wanted != ANOTHER and name not in permissions:
                return f"This question is for somebody with the permission '{name}'."
        return None


@dataclass(frozen=True, slots=True)
class Policies:
    """A project's policies; a graph without one of its own has the default."""

    default: Policy = field(default_factory=Policy)
    graphs: Mapping[str, Policy] = field(default_factory=dict)

    def of(self, graph_id: str | None) -> Policy:
        return self.graphs.get(graph_id or "", self.default)

    @property
    def choosy(self) -> bool:
        """Whether it matters anywhere who answers."""
        return any(policy.by for policy in (self.default, *self.graphs.values()))


def stricter(one: OnPending, other: OnPending) -> OnPending:
    """Whichever lets new input through less easily: a request can tighten a graph's policy, and never loosen it."""
    return max(one, other, key=_STRICTNESS.index)


@dataclass(frozen=True, slots=True)
class Open:
    """A question that is not settled yet; `decided_run_id` is the run that carries its answer."""

    interrupt_id: str
    state: ApprovalState
    decided_run_id: object
    question: bytes


def verb_at_end(
    asked_before: Open, asked_now: Mapping[str, bytes], *, run_id: object, unread: frozenset[str]
) -> ApprovalVerb | None:
    """What the end of a run, or of a state update (`run_id` None), does to a question; None: nothing.

    Args:
        asked_now: what the thread asks from now on, by interrupt id.
        unread: ids that the run was to answer and found gone.
    """
    interrupt_id = asked_before.interrupt_id
    still_asked = interrupt_id in asked_now
    if asked_before.state is not ApprovalState.PENDING and asked_before.decided_run_id == run_id:
        if still_asked:
            return ApprovalVerb.RELEASE
        return ApprovalVerb.DISCARD if interrupt_id in unread else ApprovalVerb.CONFIRM
    if not still_asked:
        return ApprovalVerb.DISCARD
    # A task that was executed again may ask something else under its old id. That is another question.
    is_another = asked_before.state is ApprovalState.PENDING and asked_now[interrupt_id] != asked_before.question
    return ApprovalVerb.DISCARD if is_another else None
