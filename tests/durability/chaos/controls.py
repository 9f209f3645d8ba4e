"""Planted faults, each with a short schedule that provokes it and the judgements of which one has to fail.

A harness that finds nothing proves nothing before it has found these. Schedules here are written, not drawn: each does
what its fault cannot stand, several times over, so that one playing is enough nearly always; three are allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tests.durability.chaos.play import play
from tests.durability.chaos.schedule import HOLDER, Action, AnswerStyle, Episode, Fault, Shape, Step
from tests.durability.chaos.site import Postgres
from tests.durability.tally import say

TRIES = 3
SHORT_LEASE = (("HOLDFAST_LEASE_SECONDS", "1"),)
ALONE = Shape("one server", ("serve",), settings=SHORT_LEASE)
WORKERS = Shape("an API and two workers", ("api", "worker", "worker"), settings=SHORT_LEASE)
SKEWED = Shape("two servers, one with a fast clock", ("serve", "serve"), settings=SHORT_LEASE, skewed=0)
THREADS = tuple(str(UUID(int=number + 1, version=4)) for number in range(4))
SETTLES_WITHIN = 12.0


@dataclass(frozen=True, slots=True)
class Control:
    """A planted fault, what provokes it, and the judgements of which at least one has to fail."""

    planted: str
    judgements: tuple[str, ...]
    shape: Shape
    plan: tuple[Step, ...]
    faults: tuple[Fault, ...] = ()
    answering: tuple[AnswerStyle, ...] = ("map",)
    seconds: float = 6.0
    doors: tuple[int, ...] = (0,)
    """Where each thread's runs are sent, one after the other."""

    @property
    def episode(self) -> Episode:
        """The plan on every thread, streamed, while the faults happen."""
        actions = [
            Action(0.1 * thread + 1.5 * turn, thread, "run", door, f"t{thread}-{turn}", self.plan, how="stream")
            for turn, door in enumerate(self.doors)
            for thread in range(len(THREADS))
        ]
        answering = (self.answering,) * len(THREADS)
        return Episode(
            0,
            self.shape,
            THREADS,
            answering,
            tuple(actions),
            self.faults,
            self.seconds,
            planted=self.planted,
            settles_within=SETTLES_WITHIN,
        )


def _often(kind: str, *times: float, seconds: float) -> tuple[Fault, ...]:
    return tuple(Fault(at, kind, seconds, HOLDER) for at in times)


CONTROLS: Sequence[Control] = (
    Control(
        "no-fence",
        ("checkpoint forks", "inputs doubled", "frames that differ from the replay", "wrong states"),
        WORKERS,
        (Step("effect", 0.4),) * 14,
        _often("freeze", 1.0, 4.5, seconds=2.5),
        seconds=8.0,
    ),
    Control(
        "no-binding",
        ("questions with two accepted answers", "answers applied twice", "answers misapplied"),
        ALONE,
        (Step("ask", 0.2),) * 3,
        answering=("double", "race", "again"),
    ),
    Control(
        "no-ledger",
        ("ledgered effects doubled",),
        ALONE,
        (Step("once", 0.5),) * 8,
        _often("kill", 0.8, 3.0, seconds=0.1),
    ),
    Control(
        "new-run-id",
        ("inputs doubled", "effects repeated after their commit", "wrong states"),
        ALONE,
        (Step("effect", 0.4),) * 6,
        _often("kill", 1.2, seconds=0.1),
    ),
    Control(
        "no-requeue",
        ("runs or threads stuck",),
        WORKERS,
        (Step("effect", 0.4),) * 6,
        _often("kill", 1.0, 1.5, seconds=0.1),
        seconds=4.0,
    ),
    Control(
        "clocks-rule",
        ("inputs lost", "checkpoint forks"),
        SKEWED,
        (Step("effect", 0.1),) * 2,
        doors=(0, 1),
    ),
    Control(
        "drop-events",
        ("frames that are not in the log", "frames missed in between"),
        ALONE,
        (Step("effect", 0.2),) * 8,
        seconds=3.0,
    ),
    Control(
        "lost-terminal",
        ("streams that ended early",),
        ALONE,
        (Step("effect", 0.2),) * 8,
        seconds=3.0,
    ),
)


def uncaught(directory: Path, controls: Sequence[Control] = CONTROLS) -> list[str]:
    """Play each until it is caught; those that never were."""
    with Postgres(directory / "postgres") as postgres:
        return [control.planted for control in controls if not caught(control, postgres, directory)]


def caught(control: Control, postgres: Postgres, directory: Path) -> bool:
    """Whether the harness finds the fault."""
    for attempt in range(TRIES):
        story = play(control.episode, postgres, directory / f"{control.planted}-{attempt}")
        caught = [f"{len(story.found[name])} {name}" for name in control.judgements if story.found[name]]
        say(f"{control.planted}: {'caught by ' + ', '.join(caught) if caught else 'NOT CAUGHT'}")
        if caught:
            return True
    return False
