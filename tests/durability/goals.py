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

from tests.durability.peers import Peer
from tests.durability.tally import Tally, say
from tests.support.server import Server


@dataclass(frozen=True, slots=True)
class Trial:
    """One time that a goal is played."""

    rounds: int
    chance: random.Random
    directory: Path
    """For data and logs; it goes afterwards."""
    planted: str = ""
    """Faults of `planted.py` that the servers are to have, with commas between them."""
    peer: str = ""
    """The command line of another server that is to be tried instead of Holdfast (`peers.py`)."""

    def server(self, *, config: Path, database_url: str, **environment: str) -> Server:
        """The server that is on trial."""
        if self.peer:
            return Peer(self.peer, config=config, database_url=database_url, **environment)
        return Server(config=config, database_url=database_url, planted=self.planted, **environment)


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
    for_peers: bool = False
    """Whether other servers can be asked the same."""


def played(goal: Goal, *, rounds: int | None, seed: int, controls: bool = True, peer: str = "") -> list[str]:
    """Play a goal and its controls, and say what came of it; what was not as it has to be."""
    wanted = goal.rounds if rounds is None else rounds
    tally = _play(goal, wanted, seed, peer=peer)
    problems = [f"{goal.id}: {failure}" for failure in tally.failures]
    if wanted >= goal.rounds:
        problems += [
            f"{goal.id}: only {tally.counted(name)} {name}, not {least}"
            for name, least in goal.at_least.items()
            if tally.counted(name) < least
        ]
    for control in goal.controls if controls else ():
        found = _play(goal, control.rounds, seed, planted=control.planted)
        if not any(found.found(name) for name in control.judgements):
            problems.append(f"{goal.id}: with {control.planted} planted nothing of {control.judgements} failed")
    return problems


def _play(goal: Goal, rounds: int, seed: int, *, planted: str = "", peer: str = "") -> Tally:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"holdfast-{goal.id}-", ignore_cleanup_errors=True) as directory:
        tally = goal.play(Trial(rounds, random.Random(seed), Path(directory), planted, peer))
    fault = f", {planted} planted: has to fail" if planted else f", {peer}" if peer else ""
    say(f"\n{goal.id} {goal.title}: {rounds} rounds, seed {seed}, {time.monotonic() - begun:.0f} s{fault}\n{tally}")
    return tally
