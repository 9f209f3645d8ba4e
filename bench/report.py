"""The report: a Markdown table for each scenario, all raw figures as JSON, a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.figures import Figures, Window, medians
from bench.plot import plotted
from bench.scenarios.scenario import Scenario

UNITS = {"_ms": "ms", "_mb": "MB", "_kb": "kB", "_s": "s", "_percent": "%"}


METHOD = """The servers took turns in short windows; whoever waited for its turn was stopped (SIGSTOP). A cell is the
median of its windows, a rate has the best window beside it. CPU is that of whole process trees. `commits` are
transactions that took an id, `statements` leave out BEGIN and COMMIT, memory counts shared pages of every process.
"""


def table(scenario: Scenario, windows: Sequence[Window]) -> str:
    """One row for each case and server: the median of its windows, and the best rate beside."""
    rows = [["case", "server", *(_heading(name) for name in scenario.shown)], ["---"] * (2 + len(scenario.shown))]
    for (case, server), figures in _grouped(windows).items():
        middle = medians(figures)
        rows.append([case, server, *(_cell(name, middle, figures) for name in scenario.shown)])
    return "\n".join(
        [f"## {scenario.name}", "", f"{scenario.about}.", "", *(f"| {' | '.join(row)} |" for row in rows), ""]
    )


def noise_of(windows: Sequence[Window]) -> str:
    """How much a fixed piece of work varied between the windows: what differs by less says nothing."""
    readings = [reading for window in windows for reading in window.noise]
    said = []
    for name, what in (("loop_ms", "a fixed loop"), ("fdatasync_ms", "fdatasync of 8 kB")):
        values = sorted(reading[name] for reading in readings)
        if values:
            median = statistics.median(values)
            said.append(f"{what} {median:.2f} ms ({values[0]:.2f} to {values[-1]:.2f}, n={len(values)})")
    return f"Noise: {'; '.join(said) or 'not measured'}."


def write(
    place: Path, scenarios: Sequence[Scenario], windows: Sequence[Window], facts: Mapping[str, str]
) -> tuple[Path, ...]:
    """`report.md`, `figures.json` and `report.svg` in `place`."""
    tables = [table(scenario, known) for scenario in scenarios if (known := _of(scenario, windows))]
    facts_table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    parts = ["# Benchmark\n", METHOD, f"| | |\n|---|---|\n{facts_table}\n", noise_of(windows), "", *tables]
    paths = (place / "report.md", place / "figures.json", place / "report.svg")
    paths[0].write_text("\n".join(parts))
    raw = {"facts": dict(facts), "windows": [asdict(window) for window in windows]}
    paths[1].write_text(json.dumps(raw, indent=1))
    paths[2].write_text(plotted(windows))
    return paths


def _of(scenario: Scenario, windows: Sequence[Window]) -> list[Window]:
    return [window for window in windows if window.scenario == scenario.name]


def _grouped(windows: Sequence[Window]) -> dict[tuple[str, str], list[Figures]]:
    groups: dict[tuple[str, str], list[Figures]] = {}
    for window in windows:
        groups.setdefault((window.case, window.server), []).append(window.figures)
    return groups


def _heading(name: str) -> str:
    for ending, unit in UNITS.items():
        if name.endswith(ending) and not name.endswith("_per_s"):
            return f"{name.removesuffix(ending).replace('_', ' ')}, {unit}".replace("cpu", "CPU")
    return "runs/s (best)" if name == "rate" else name.replace("_per_s", "/s").replace("_kb_", " kB ").replace("_", " ")


def _cell(name: str, middle: Figures, windows: Sequence[Figures]) -> str:
    if name not in middle:
        return "-"
    if name == "rate":
        return f"{middle[name]:.1f} ({max(window[name] for window in windows):.1f})"
    value = middle[name]
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
