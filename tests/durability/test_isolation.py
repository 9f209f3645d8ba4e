"""A run that took two workers down gets on in a process of its own, and is ordinary again after that."""

from __future__ import annotations

from pathlib import Path

import psycopg

from holdfast.worker.execute import ALONE_SECONDS
from tests.durability.client import Client
from tests.durability.effects import EffectLog
from tests.durability.tally import Tally
from tests.durability.walk import PROJECT, Walk
from tests.support.server import Server


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
