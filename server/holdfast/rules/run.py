"""The life of a run, as a table.

`RUN_MOVES[status][verb]` is the next status; a pair that is missing is refused. Every SQL verb in `db/queries/runs.sql`
and `queue.sql` carries the same guard in its WHERE clause, and a test tries every pair of status and verb against the
database.

A run that stops at `interrupt()` or a breakpoint succeeds: `interrupted` means cancelled, as on the official server.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class RunStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"


class RunVerb(StrEnum):
    CLAIM = "claim"
    REQUEUE = "requeue"
    CANCEL = "cancel"
    SUCCEED = "succeed"
    FAIL = "fail"
    EXPIRE = "expire"
    STOP = "stop"


RUN_MOVES: Mapping[RunStatus, Mapping[RunVerb, RunStatus]] = {
    RunStatus.PENDING: {
        RunVerb.CLAIM: RunStatus.RUNNING,
        RunVerb.CANCEL: RunStatus.INTERRUPTED,
    },
    RunStatus.RUNNING: {
        RunVerb.REQUEUE: RunStatus.PENDING,
        RunVerb.SUCCEED: RunStatus.SUCCESS,
        RunVerb.FAIL: RunStatus.ERROR,
        RunVerb.EXPIRE: RunStatus.TIMEOUT,
        RunVerb.STOP: RunStatus.INTERRUPTED,
    },
    RunStatus.SUCCESS: {},
    RunStatus.ERROR: {},
    RunStatus.TIMEOUT: {},
    RunStatus.INTERRUPTED: {},
}

TERMINAL = frozenset(status for status, moves in RUN_MOVES.items() if not moves)
ACTIVE = frozenset(RUN_MOVES) - TERMINAL
FAILED = frozenset({RunStatus.ERROR, RunStatus.TIMEOUT})
"""Who waits for such a run gets its error instead of values."""


class StopReason(StrEnum):
    """Why a running graph is told to stop; travels with the cancellation as a value."""

    INTERRUPT = "interrupt"
    """The caller cancelled: keep the checkpoints, the run ends `interrupted`."""
    ROLLBACK = "rollback"
    """The caller cancelled with rollback: the run and its checkpoints go."""
    DRAIN = "drain"
    """This process shuts down: hand the run to another one."""
    TIMEOUT = "timeout"
    """The run used up its time."""
    LEASE_LOST = "lease_lost"
    """A newer claim owns the run: write nothing more."""
