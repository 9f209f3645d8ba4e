"""Whose queued runs are claimed next: the owners take turns, so that nobody waits for somebody's ten thousandth run.

Who has the fewest runs running, in all processes together, comes first; of equals, who comes next in the circle after
the owner that this process served last. "The oldest run first" would not do between owners: with a single slot nobody
has a run running when it is free, and the longest queue always has the oldest run.

Within an owner's queue the rank counts: when a run was due, less a minute for every step of its priority. It never
changes, so an index holds it, and a run of low priority is overtaken for some minutes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """An owner whose runs wait, and how many are running already."""

    owner: str
    running: int


def in_order(circle: Sequence[Turn]) -> list[Turn]:
    """Who comes first; `circle` begins behind the owner that was served last."""
    return sorted(circle, key=lambda turn: turn.running)


def share(free: int, waiting: Sequence[Turn]) -> int:
    """How many free slots are for the first of those who still wait, in order: all who have less come to one level."""
    total = free
    for among, turn in enumerate(waiting, 1):
        total += turn.running
        level = -(-total // among)
        if among == len(waiting) or level <= waiting[among].running:
            break
    return min(free, level - waiting[0].running)
