"""The dashboard is one by Grafana's own schema, and Alertmanager takes its configuration."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from tests.support.server import ROOT

plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins", reason="make test installs what looks at deploy/")
dashboards = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "holdfast.json"


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    # Options of panels and queries of data sources have schemas of their own.
    plugins.register_default_plugins()
    read: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return read


def as_grafana_reads_it(dashboard: dict[str, Any]) -> dict[str, Any]:
    """What is left of it when Grafana's types have read it."""
    read = dashboards.Dashboard.from_json(deepcopy(dashboard))
    left: dict[str, Any] = json.loads(json.dumps(read, cls=encoder.JSONEncoder))
    return left


def lost(given: Any, left: Any, path: str = "") -> Iterator[str]:
    """Where what was given is not there, or is another thing."""
    if isinstance(given, dict) and isinstance(left, dict):
        for name, value in given.items():
            yield from lost(value, left.get(name), f"{path}.{name}")
    elif isinstance(given, list) and isinstance(left, list) and len(given) == len(left):
        for number, (one, other) in enumerate(zip(given, left, strict=True)):
            yield from lost(one, other, f"{path}[{number}]")
    elif given != left:
        yield path


def test_O7_grafana_knows_all_that_the_dashboard_says(dashboard: dict[str, Any]) -> None:
    assert list(lost(dashboard, as_grafana_reads_it(dashboard))) == []


@pytest.mark.parametrize("place", ["options", "gridPos"])
def test_what_grafana_does_not_know_would_be_found(dashboard: dict[str, Any], place: str) -> None:
    wrong = deepcopy(dashboard)
    wrong["panels"][1][place]["legends"] = {}
    assert list(lost(wrong, as_grafana_reads_it(wrong))) == [f".panels[1].{place}.legends"]


def test_O7_panels_have_ids_of_their_own_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


def test_O6_alertmanager_takes_its_configuration() -> None:
    if shutil.which("amtool") is None:
        if shutil.which("apt-get") is None:
            pytest.skip("amtool comes from Debian's package prometheus-alertmanager, and this is no Debian")
        subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
        subprocess.run(
            ["apt-get", "install", "-q", "-y", "--no-install-recommends", "prometheus-alertmanager"],
            check=True,
            capture_output=True,
        )
    file = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
    done = subprocess.run(["amtool", "check-config", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
