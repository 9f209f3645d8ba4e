"""Figures: names and numbers. A name ends in its unit: `_ms`, `_mb`, `_kb`, `_s`, `_percent`; what has none is a count.

What a run costs is given for one run.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Figures = dict[str, float]


@dataclass(frozen=True)
class Window:
    """One measurement of one server. `noise` is what the machine did to a fixed piece of work around it."""

    scenario: str
    case: str
    server: str
    figures: Figures
    noise: list[Figures] = field(default_factory=list)


def share(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0..1) of the values lie; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def latencies(values: Iterable[float], prefix: str = "") -> Figures:
    """Median, p90, p99 and the slowest of durations in seconds, as milliseconds."""
    known = [1000 * value for value in values]
    parts = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    found = {f"{prefix}{name}_ms": share(known, part) for name, part in parts.items()}
    return found | {f"{prefix}max_ms": max(known, default=0.0)}


def medians(windows: Sequence[Figures]) -> Figures:
    """Figure by figure over several windows of the same thing."""
    names = dict.fromkeys(name for window in windows for name in window)
    return {name: statistics.median(window[name] for window in windows if name in window) for name in names}
