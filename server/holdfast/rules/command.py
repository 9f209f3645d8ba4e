"""Binding an answer to its question (invariant 3).

A client resumes with a bare value or with a map of interrupt ids. Either is turned into the map form against the
questions that were pending *when the request arrived*; admission then verifies, under the thread's row lock, that
they still are. A bare value that had to wait for that lock can so never slide onto a question asked meanwhile.

The resume of a static breakpoint (`interrupt_before`/`interrupt_after`) asks nothing, so it carries no answer: it
becomes an empty map, and no later question can consume the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import Conflict, Invalid

_INTERRUPT_ID = re.compile(r"[0-9a-f]{32}")

AMBIGUOUS = (
    "When there are multiple pending interrupts, you must specify the interrupt id when resuming. Pending: {pending}"
)


@dataclass(frozen=True, slots=True)
class Questions:
    """What a thread waits for: its latest checkpoint, the interrupt ids pending there, and whether tasks are left to
    run."""

    checkpoint_id: str | None
    pending: frozenset[str]
    unfinished: bool

    @property
    def keys(self) -> frozenset[str]:
        """What an answer is bound to: interrupt ids, or the breakpoint at which the thread stands."""
        if self.pending or not self.unfinished:
            return self.pending
        return frozenset({f"breakpoint:{self.checkpoint_id}"})


def bind_resume(resume: Any, asked: Questions, *, addressed: str | None) -> dict[str, Any]:
    """`{interrupt_id: value}` for this resume; empty for a breakpoint.

    Args:
        resume: what the client sent under `command.resume`.
        asked: the thread's questions at the time the request arrived.
        addressed: the checkpoint id that the request names, if any.

    Raises:
        Conflict: nothing is pending, or the answer belongs to a question that is no longer pending.
        Invalid: a bare value while several questions are pending.
    """
    if addressed is not None and addressed != asked.checkpoint_id:
        raise Conflict("This answer belongs to an earlier checkpoint; the thread has moved on.")
    if is_answer_map(resume):
        if late := sorted(resume.keys() - asked.pending):
            raise Conflict(f"Interrupt {late[0]} is not pending; it was already answered or never asked.")
        return dict(resume)
    if len(asked.pending) > 1:
        raise Invalid(AMBIGUOUS.format(pending=", ".join(sorted(asked.pending))))
    if asked.pending:
        return dict.fromkeys(asked.pending, resume)
    if asked.unfinished:
        return {}
    raise Conflict("There is nothing to resume: no interrupt is pending on this thread.")


def verify_binding(answers: Mapping[str, Any], bound_to: str | None, current: Questions) -> None:
    """Refuse an answer whose question went away between arrival and admission.

    Raises:
        Conflict: the thread has moved on, or one of the questions is no longer pending.
    """
    if bound_to != current.checkpoint_id or not answers.keys() <= current.pending:
        raise Conflict("The question was answered in the meantime; the thread has moved on.")


def is_answer_map(resume: Any) -> bool:
    """Whether LangGraph would read this value as a map of interrupt ids (32 hex digits each)."""
    return (
        isinstance(resume, dict)
        and bool(resume)
        and all(isinstance(key, str) and _INTERRUPT_ID.fullmatch(key) for key in resume)
    )
