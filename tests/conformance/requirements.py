"""The conformance manifest: one row per behaviour that clients can rely on, linked to the tests that show it.

A row lives in `requirements/<resource>.toml`; a test names the rows it shows with `@pytest.mark.requirement("id")`,
and `test_requirements.py` holds the two equal. A row with `divergence` says where the official server does something
else, and why we do not follow.

The same tests ask any other server: `BASE_URL=http://localhost:2024 make conformance`. Tests that start servers of
their own are left out then, and at the official server rows with a divergence are expected to fail. Its development
server serves what the tests need like this (a fresh one for every run, because what it is asked stays in its memory):

    cp -r tests/support/project /tmp/project && cd /tmp/project
    langgraph dev --no-browser --no-reload --n-jobs-per-worker 10

What can only be seen with another langgraph.json (auth, http, webhooks, store sections) or over minutes (crons that
fire) is asked of our own server alone; its rows say what the contract observed.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent


@dataclass(frozen=True, slots=True)
class Requirement:
    """One row. `source` is a section of the wire contract or a client's habit, `expected` what a client sees.

    `divergence` is what the official server does instead and why we do not follow; with `harmful` it does so to
    everybody who asks it afterwards, so that these tests are not run there.
    """

    id: str
    source: str
    expected: str
    divergence: str | None = None
    harmful: bool = False


@cache
def requirements() -> dict[str, Requirement]:
    """All rows by id."""
    rows: dict[str, Requirement] = {}
    for path in sorted((HERE / "requirements").glob("*.toml")):
        for entry in tomllib.loads(path.read_text("utf-8"))["requirement"]:
            row = Requirement(**entry)
            assert row.id not in rows, f"{path.name}: {row.id} is there twice"
            assert row.id.startswith(f"{path.stem}."), f"{path.name}: {row.id} belongs into another file"
            rows[row.id] = row
    return rows


def shown() -> dict[str, list[str]]:
    """`{requirement id: [test]}`, read from the sources of all tests."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for test, ids in _tests(path):
            for row in ids:
                found.setdefault(row, []).append(test)
    return found


def unmarked() -> list[str]:
    """The conformance tests that show no requirement."""
    paths = set(HERE.glob("test_*.py")) - {HERE / "test_requirements.py"}
    return [test for path in sorted(paths) for test, ids in _tests(path) if not ids]


def _tests(path: Path) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            ids: list[str] = []
            # Marks of single parameters count as well.
            for mark in (inner for decorator in node.decorator_list for inner in ast.walk(decorator)):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.requirement":
                    ids += [ast.literal_eval(argument) for argument in mark.args]
            yield f"{path.relative_to(TESTS)}::{node.name}", ids
