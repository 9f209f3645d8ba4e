"""`holdfast backup` and `holdfast restore`, as an operator calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import ROOT, Server
from tests.support.talk import join, new_thread, start, until, until_running, wait

SECONDS = 60.0


def holdfast(command: str, file: Path, database_url: str) -> tuple[int, str]:
    """Exit status, and what it said."""
    ended = subprocess.run(
        [sys.executable, "-m", "holdfast", command, str(file), "--database-url", database_url],
        env={**os.environ, "PYTHONPATH": str(ROOT / "server")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return ended.returncode, (ended.stdout + ended.stderr).strip()


def test_a_backup_of_a_live_server_restores_to_one_that_goes_on(
    cluster: Cluster, database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "holdfast.dump"
    with Server(database_url=database_url, config=PROJECT) as server, server.http(timeout=30) as http:
        talked, asking, busy = (new_thread(http) for _ in range(3))
        wait(http, talked, "steps", input={"log": [], "count": 2})
        wait(http, asking, "approve", input={"log": []})
        state, history = (http.get(f"/threads/{talked}/{what}").json() for what in ("state", "history"))
        run = start(http, busy, "steps", input={"log": [], "pause": 1.0, "count": 4})
        until_running(http, busy, run)
        until(lambda: http.get(f"/threads/{busy}/state").json()["values"].get("log"), "a step is over")
        status, said = holdfast("backup", file, database_url)
        assert status == 0, said
        after = new_thread(http)
    with cluster.database(migrated=False) as other:
        assert holdfast("restore", file, other) == (0, f"restored from {file}")
        with Server(database_url=other, config=PROJECT) as server, server.http(timeout=30) as http:
            assert http.get(f"/threads/{talked}/state").json() == state
            assert http.get(f"/threads/{talked}/history").json() == history
            assert http.get(f"/threads/{after}").status_code == 404, "it is of the moment of the backup"
            wait(http, asking, "approve", command={"resume": True})
            assert http.get(f"/threads/{asking}").json()["status"] == "idle"
            assert len(join(http, busy, run)["log"]) == 4, "the run goes on where it was"
            assert len(wait(http, talked, "steps", input={"log": [], "count": 3})["log"]) == 3


def test_a_database_that_is_not_empty_is_left_alone(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "holdfast.dump"
    assert holdfast("backup", file, database_url)[0] == 0
    status, said = holdfast("restore", file, database_url)
    assert status == 1
    assert said.startswith("holdfast: the database is not empty"), said


def test_a_file_that_is_no_backup_leaves_the_database_empty(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "holdfast.dump"
    file.write_text("no backup")
    with cluster.database(migrated=False) as url:
        status, said = holdfast("restore", file, url)
        assert status == 1
        assert said.startswith("holdfast: pg_restore: "), said
        with psycopg.connect(url) as conn:
            assert conn.execute("SELECT to_regnamespace('holdfast')").fetchone() == (None,)


def test_a_backup_overwrites_nothing_and_leaves_nothing_half_done(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "holdfast.dump"
    file.write_text("mine")
    assert holdfast("backup", file, database_url) == (1, f"holdfast: {file} is there already")
    assert file.read_text() == "mine"
    status, said = holdfast("backup", tmp_path / "other", "postgresql://holdfast:secret@127.0.0.1:1/nowhere")
    assert status == 1
    assert "secret" not in said
    assert list(tmp_path.iterdir()) == [file]
