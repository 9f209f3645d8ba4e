"""A run that took two workers down gets on in a process of its own, and is ordinary again after that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psycopg

from holdfast.worker.execute import ALONE_SECONDS
from tests.durability.client import Client
from tests.durability.effects import EffectLog
from tests.durability.tally import Tally
from tests.durability.walk import PROJECT, Walk
from tests.support.server import ROOT, Server
from tests.support.talk import new_thread, start, until


def test_a_suspect_gets_on_alone_and_goes_back_among_others(database_url: str, tmp_path: Path) -> None:
    effects, tally = EffectLog(tmp_path / "effects.jsonl"), Tally("a suspect")
    given = {"config": PROJECT, "database_url": database_url, "EFFECT_LOG": str(effects.path)}
    with Server(part="api", **given) as api, Client(api.url) as client:
        walk = Walk.begin(client, effects, count=6, pause=0.3 * ALONE_SECONDS)
        with psycopg.connect(database_url) as conn:
            conn.execute("UPDATE holdfast.runs SET crashes = 2 WHERE run_id = %s", [walk.run])
        with Server(part="worker", **given) as worker:
            walk.judge(tally, may_start_twice=0)
            pids = [execution.pid for execution in walk.executions()]
            assert pids[0] != worker.pid
            assert pids[-1] == worker.pid
    assert not tally.failures
    with psycopg.connect(database_url) as conn:
        assert conn.execute("SELECT crashes FROM holdfast.runs").fetchall() == [(0,)]


def test_a_process_of_its_own_that_knows_no_database_says_so(tmp_path: Path) -> None:
    known = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    command = [sys.executable, "-m", "holdfast", "isolated", str(uuid4())]
    environment = {**known, "HOLDFAST_CONFIG": str(PROJECT), "PYTHONPATH": str(ROOT / "server")}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "holdfast: 'holdfast isolated' is started by workers, which tell it DATABASE_URL"
    ]


def test_a_suspect_that_took_its_process_down_is_not_counted_as_executed_for_ever(
    database_url: str, tmp_path: Path
) -> None:
    given = {"config": PROJECT, "database_url": database_url, "EFFECT_LOG": str(tmp_path / "effects.jsonl")}
    with Server(part="api", **given) as api, api.http(timeout=30) as http:
        thread = new_thread(http)
        run = start(http, thread, "poison", input={"how": "kill", "done": []})
    with psycopg.connect(database_url) as conn:
        conn.execute("UPDATE holdfast.runs SET crashes = 2 WHERE run_id = %s", [run])
    # The run kills processes that answer, so how it stands is asked of the database.
    with (
        Server(processes=2, HOLDFAST_CRASH_BUDGET="3", **given) as server,
        psycopg.connect(database_url, autocommit=True) as conn,
    ):
        until(lambda: conn.execute("SELECT status FROM holdfast.runs").fetchall() == [("error",)], "it ends", 60.0)
        with server.http(timeout=30) as http:
            until(lambda: "\nholdfast_runs_executing 0.0\n" in http.get("/metrics").text, "nobody executes it")
