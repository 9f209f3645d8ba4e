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
