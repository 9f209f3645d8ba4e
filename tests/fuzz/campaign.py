"""Schemathesis against a server of its own, which serves `tests/support/project`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from tests.support.documents import closed, operations
from tests.support.postgres import Cluster
from tests.support.server import ROOT, Server
from tests.support.talk import join, new_thread, start

PROJECT = ROOT / "tests" / "support" / "project" / "langgraph.json"
CHECKS = (
    "not_a_server_error",
    "response_schema_conformance",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "use_after_free",
    "ensure_resource_availability",
)
SEED = 20261121
KNOWN_ROWS = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What Schemathesis said, and which operations did at least once what they are for."""

    failed: bool
    report: str
    unreached: list[str]


def campaign(cluster: Cluster, *options: str) -> Outcome:
    """Run Schemathesis: it fails if anything that came back was not as the document says."""
    with (
        cluster.database() as url,
        Server(database_url=url, config=PROJECT) as server,
        server.http() as http,
        TemporaryDirectory(prefix="holdfast-fuzz-") as place,
    ):
        known = json.dumps(_known(http))
        described = closed(http.get("/openapi.json").json())
        document = Path(place, "openapi.json")
        document.write_text(json.dumps(described))
        ended = subprocess.run(
            [
                str(Path(sys.executable).parent / "schemathesis"),
                "run",
                str(document),
                f"--url={server.url}",
                f"--checks={','.join(CHECKS)}",
                f"--seed={SEED}",
                "--continue-on-failure",
                "--request-timeout=20",
                "--generation-database=none",
                "--suppress-health-check=all",
                "--warnings=off",
                "--no-color",
                *options,
            ],
            cwd=place,  # where it leaves what it remembers of failures
            env={**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "FUZZ_KNOWN": known},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        answers = http.get("/metrics", params={"format": "json"}).json()["api"]["http_requests_total"]
        reached = {(one["method"], one["path"]) for one in answers if one["status"] < 300}
        unreached = [f"{verb} {path}" for verb, path, _ in operations(described) if (verb, path) not in reached]
        return Outcome(ended.returncode != 0, ended.stdout, unreached)


def _known(http: httpx.Client) -> dict[str, list[Any]]:
    """Ids that exist, by the names of their parameters; a run's has the place of its thread's."""
    threads = [new_thread(http) for _ in range(KNOWN_ROWS)]
    runs = [_run(http, thread, input={"count": 1}) for thread in threads]
    for thread, run in zip(threads, runs, strict=True):
        join(http, thread, run)
    sleeping = [new_thread(http) for _ in range(KNOWN_ROWS)]
    cron = {"assistant_id": "steps", "schedule": "0 9 1 1 *"}
    assistants = [http.post("/assistants", json={"graph_id": "steps"}).json() for _ in range(KNOWN_ROWS)]
    return {
        "assistant_id": [assistant["assistant_id"] for assistant in assistants],
        "thread_id": threads,
        "run_id": runs,
        "cron_id": [http.post("/runs/crons", json=cron).json()["cron_id"] for _ in range(KNOWN_ROWS)],
        "approval_id": [_question(http) for _ in range(KNOWN_ROWS)],
        "asleep": [(thread, _run(http, thread, after_seconds=3600)) for thread in sleeping],
    }


def _question(http: httpx.Client) -> str:
    """A question that was asked; the first answer is taken, the others are refused."""
    thread = new_thread(http)
    join(http, thread, start(http, thread, "approve", input={}))
    [approval] = http.get(f"/threads/{thread}/approvals").json()
    return str(approval["approval_id"])


def _run(http: httpx.Client, thread: str, **body: Any) -> str:
    return start(http, thread, "steps", **body)
