"""docs/compatibility.md lists what is served, and nothing else as served."""

from __future__ import annotations

import re

from holdfast.api.application import routers
from holdfast.sections import HttpSection
from tests.support.server import ROOT

DOCUMENTS = {"GET /docs", "GET /openapi.json"}
"""Served by FastAPI itself, not by a router."""


def operations() -> dict[str, str]:
    """`{"GET /ok": what Holdfast's column says}`, of all tables under Operations."""
    text = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
    section = text.split("## Operations\n")[1].split("\n## ")[0]
    found: dict[str, str] = {}
    for line in section.splitlines():
        if " /" not in line:
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == 4, line
        methods: list[str] = []
        for word in re.split(r",? ", cells[0]):
            if word.isupper():
                methods.append(word)
                continue
            for method in methods:
                operation = f"{method} {word}"
                assert operation not in found, f"{operation} is listed twice"
                found[operation] = cells[3]
            methods = []
        assert methods == [], f"methods without a path: {line}"
    return found


def served() -> set[str]:
    """Every route of ours, as in `operations`."""
    routes = [route for _, router in routers(HttpSection()) for route in router.routes]
    return DOCUMENTS | {
        f"{method} {route.path}"  # type: ignore[attr-defined]
        for route in routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }


def listed() -> set[str]:
    """What the document says that Holdfast serves."""
    return {operation for operation, said in operations().items() if said.partition(":")[0] != "no"}


def test_every_route_is_listed_as_served() -> None:
    assert sorted(served() - listed()) == []


def test_every_operation_that_is_listed_as_ours_is_served() -> None:
    assert sorted(listed() - served()) == []


def test_a_gap_says_what_is_missing() -> None:
    assert [operation for operation, said in operations().items() if said in ("part", "more")] == []
