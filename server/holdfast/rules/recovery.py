"""How a run that was claimed before is taken up again (invariant 2).

LangGraph continues from the last checkpoint, instead of applying the input a second time, when the same run id comes
back. That is right for most interrupted runs, and wrong in three places, which this table names:

    checkpoint is   what it shows                               dispatch
    another run's   this run has saved nothing yet              the original input or command
    another run's   this run's command update/goto was saved    the answers alone: LangGraph would apply it twice
    this run's      nothing left to run, or only questions      settle: it had ended, only the record is missing
    this run's      stopped at a breakpoint of this run         settle: continuing would walk through the breakpoint
    this run's      work in flight, it began with a command     the answers alone, for the same reason
    this run's      work in flight, it began with an input      the original input, under the same run id

Answers are filtered to the questions that are still pending, so a redelivered answer meets its own question or none.

Which run took its worker down nobody can tell; all that the worker held are charged with it. A run that saves a
checkpoint gets on, and what was counted before is forgotten. What is left says what becomes of the run:

    crashes since its last checkpoint    the run
    below SUSPECT_AFTER                  goes on at once, among others
    below the crash budget               is a suspect: gets on in a process of its own, where it can hurt nobody
    the crash budget                     is given up, with an error

So one poisonous run costs its neighbours two takeovers, and no neighbour its life: it is alone whenever it is charged
with a third crash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SUSPECT_AFTER = 2


class Dispatch(StrEnum):
    ORIGINAL = "original"
    ANSWERS = "answers"
    SETTLE = "settle"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the thread's latest checkpoint stands, seen from one run."""

    written_by_this_run: bool
    open_tasks: bool
    """Some task is neither finished nor waiting for an answer, or all are finished and their step is not."""
    at_breakpoint: bool
    """This run's interrupt_before/interrupt_after names the next or the last executed nodes."""
    command_saved: bool


def recovery(standing: Standing, *, is_command: bool) -> Dispatch:
    """What to hand to LangGraph when a run is dispatched again."""
    if standing.written_by_this_run and (standing.at_breakpoint or not standing.open_tasks):
        return Dispatch.SETTLE
    if is_command and (standing.written_by_this_run or standing.command_saved):
        return Dispatch.ANSWERS
    return Dispatch.ORIGINAL


def still_pending(answers: Mapping[str, Any] | None, pending: frozenset[str]) -> dict[str, Any]:
    """The answers whose question is still open."""
    return {interrupt_id: value for interrupt_id, value in (answers or {}).items() if interrupt_id in pending}
