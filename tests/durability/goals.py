"""What a goal is: a promise, how it is attacked, and the planted faults that show that the attack bites.

A goal is met when its tally has no fault, when it counted at least what it has to count (a test of nothing proves
nothing), and when every control fails in the judgement that it names.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.durability.tally import Tally, say


@dataclass(frozen=True, slots=True)
class Trial:
    """One time that a goal is played."""

    rounds: int
    chance: random.Random
    directory: Path
    """For data and logs; it goes afterwards."""
    planted: str = ""
    """Faults of `planted.py` that the servers are to have, with commas between them."""


@dataclass(frozen=True, slots=True)
class Control:
    """A planted fault, and the judgements of which at least one has to fail because of it."""

    planted: str
    judgements: tuple[str, ...]
    rounds: int


@dataclass(frozen=True, slots=True)
class Goal:
    """One row of docs/durability.md."""

    id: str
    title: str
    play: Callable[[Trial], Tally]
    rounds: int
    at_least: Mapping[str, int] = field(default_factory=dict)
    """Counts of the tally that a full number of rounds has to reach."""
    controls: tuple[Control, ...] = ()


def played(goal: Goal, *, rounds: int | None, seed: int, controls: bool = True) -> list[str]:
    """Play a goal and its controls, and say what came of it; what was not as it has to be."""
    wanted = goal.rounds if rounds is None else rounds
    tally = _play(goal, wanted, seed, "")
    problems = [f"{goal.id}: {failure}" for failure in tally.failures]
    if wanted >= goal.rounds:
        problems += [
            f"{goal.id}: only {tally.counted(name)} {name}, not {least}"
            for name, least in goal.at_least.items()
            if tally.counted(name) < least
        ]
    for control in goal.controls if controls else ():
        found = _play(goal, control.rounds, seed, control.planted)
        if not any(found.found(name) for name in control.judgements):
            problems.append(f"{goal.id}: with {control.planted} planted nothing of {control.judgements} failed")
    return problems


def _play(goal: Goal, rounds: int, seed: int, planted: str) -> Tally:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"holdfast-{goal.id}-", ignore_cleanup_errors=True) as directory:
        tally = goal.play(Trial(rounds, random.Random(seed), Path(directory), planted))
    fault = f", {planted} planted: has to fail" if planted else ""
    say(f"\n{goal.id} {goal.title}: {rounds} rounds, seed {seed}, {time.monotonic() - begun:.0f} s{fault}\n{tally}")
    return tally
