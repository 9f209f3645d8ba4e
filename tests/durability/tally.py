"""Counts and figures of a proof, and the table that it ends with."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Iterable


class Tally:
    """Counts, faults (of which there must be none) and durations in seconds, by name, in the order of first mention."""

    def __init__(self, title: str, *faults: str) -> None:
        self._title = title
        self._counts: Counter[str] = Counter()
        self._faults: dict[str, list[str]] = {name: [] for name in faults}
        self._seconds: dict[str, list[float]] = {}

    def count(self, name: str, number: int = 1) -> None:
        self._counts[name] += number

    def fault(self, name: str, found: Iterable[object]) -> None:
        """Judge: whatever was found is a failure."""
        self._faults.setdefault(name, []).extend(str(each) for each in found)

    def timed(self, name: str, seconds: float) -> None:
        self._seconds.setdefault(name, []).append(seconds)

    def add(self, part: Tally) -> None:
        """What another tally has, too."""
        self._counts.update(part._counts)
        for name, found in part._faults.items():
            self.fault(name, found)
        for name, seconds in part._seconds.items():
            self._seconds.setdefault(name, []).extend(seconds)

    def counted(self, name: str) -> int:
        """What a count has come to."""
        return self._counts[name]

    def found(self, name: str) -> list[str]:
        """What a judgement has found."""
        return self._faults.get(name, [])

    @property
    def failures(self) -> list[str]:
        return [f"{name}: {found}" for name, every in self._faults.items() for found in every]

    def __str__(self) -> str:
        rows = [(name, str(number)) for name, number in self._counts.items()]
        rows += [(name, str(len(found)) + ("   FAILED" if found else "")) for name, found in self._faults.items()]
        rows += [(name, _spread(seconds)) for name, seconds in self._seconds.items()]
        width = max(len(name) for name, _ in rows)
        lines = [self._title, *(f"  {name:<{width}}  {value}" for name, value in rows)]
        return "\n".join([*lines, *(f"  FAILED {failure}" for failure in self.failures)])


def _spread(seconds: list[float]) -> str:
    ms = sorted(each * 1000 for each in seconds)
    return f"p50 {statistics.median(ms):.0f} ms, max {ms[-1]:.0f} ms (n={len(ms)})"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
