"""`make stack`: everything is there, counts what is done with it, and is gone afterwards."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from bench import machine
from tests.support.nginx import binary
from tests.support.server import ROOT
from tests.support.talk import new_thread, until, wait

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (binary() and shutil.which("prometheus")), reason="make stack installs nginx and Prometheus"
    ),
]
RUNS = 5


@contextmanager
def stack(database_url: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The stack being started, and the file with what it says."""
    given = {**os.environ, "PYTHONPATH": f"{ROOT / 'server'}:{ROOT}", "DATABASE_URL": database_url, **environment}
    with tempfile.NamedTemporaryFile() as log:
        command = [sys.executable, "-m", "deploy.stack", "--port", "0"]
        process = subprocess.Popen(command, cwd=ROOT, env=given, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process, Path(log.name)
        finally:
            process.terminate()
            process.wait(60)


def counted(prometheus: httpx.Client) -> float:
    """Runs that both replicas answered, as Prometheus knows them."""
    query = 'sum(holdfast_http_requests_total{path="/threads/{thread_id}/runs/wait",status="200"})'
    [*found] = prometheus.get("/api/v1/query", params={"query": query}).json()["data"]["result"]
    return float(found[0]["value"][1]) if found else 0.0


def scraped(prometheus: httpx.Client) -> dict[str, str]:
    """The health of each address that Prometheus knows."""
    targets = prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]
    return {target["labels"]["instance"]: target["health"] for target in targets}


def test_the_stack_serves_through_nginx_and_prometheus_counts_both_replicas(database_url: str) -> None:
    with stack(database_url) as (process, log):
        until(lambda: "is ready" in log.read_text() or process.poll() is not None, "the stack is ready", 120.0)
        assert process.poll() is None, log.read_text()
        api, first, second, figures = re.findall(r"http://127\.0\.0\.1:\d+", log.read_text())
        children = set(machine.tree(process.pid)) - {process.pid}
        assert len(children) >= 4
        with httpx.Client(base_url=api, timeout=60.0) as http, httpx.Client(base_url=figures) as prometheus:
            question = {"messages": [{"role": "user", "content": "what is 6 * 7"}]}
            for _ in range(RUNS):
                wait(http, new_thread(http), "agent", input=question)
            until(lambda: counted(prometheus) == RUNS, "Prometheus has scraped them", 60.0)
            until(lambda: scraped(prometheus) == {first[7:]: "up", second[7:]: "up"}, "both are there", 30.0)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
        assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def test_a_part_that_does_not_start_ends_the_rest_and_is_named(database_url: str, tmp_path: Path) -> None:
    with stack(database_url, HOLDFAST_CONFIG=str(tmp_path / "none.json")) as (process, log):
        assert process.wait(60) == 1
        assert "replica-1 ended" in log.read_text() or "replica-2 ended" in log.read_text()
