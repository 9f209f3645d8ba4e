"""The instruments of the proofs: the proxy, and servers with a planted fault."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.durability.planted import FAULTS
from tests.durability.walk import PROJECT
from tests.support.proxy import Proxy
from tests.support.server import Server
from tests.support.talk import until


def test_the_proxy_passes_on_and_cuts(database_url: str) -> None:
    with Proxy(database_url) as proxy, psycopg.connect(proxy.url, autocommit=True) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
        assert proxy.cut() == 1
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")


def test_the_proxy_refuses_until_it_is_healed(database_url: str) -> None:
    with Proxy(database_url) as proxy:
        proxy.cut(refuse=True)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(proxy.url)
        proxy.heal()
        with psycopg.connect(proxy.url) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_stalled_proxy_keeps_what_arrives(database_url: str) -> None:
    seen = "SELECT FROM pg_stat_activity WHERE pid = %s AND query = 'SELECT 1 AS one' AND state = 'idle'"
    with (
        ThreadPoolExecutor() as pool,
        Proxy(database_url) as proxy,
        psycopg.connect(proxy.url, autocommit=True) as conn,
        psycopg.connect(database_url, autocommit=True) as witness,
    ):
        proxy.stall("back")
        asked = pool.submit(conn.execute, "SELECT 1 AS one")
        until(lambda: witness.execute(seen, [conn.info.backend_pid]).fetchone() is not None, "it was answered")
        assert not asked.done()
        proxy.heal()
        assert asked.result(10).fetchone() == (1,)


def test_an_answer_can_be_lost_after_the_work_was_done(database_url: str) -> None:
    with Proxy(database_url, watch=lambda piece: b"CREATE TABLE" in piece) as proxy:
        with psycopg.connect(proxy.url, autocommit=True) as conn, pytest.raises(psycopg.OperationalError):
            conn.execute("CREATE TABLE done (id integer)")
        with psycopg.connect(database_url) as conn:
            assert conn.execute("SELECT count(*) FROM done").fetchone() == (0,)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_planted_fault_lets_the_server_start(database_url: str, fault: str, tmp_path: Path) -> None:
    given = {"config": PROJECT, "database_url": database_url, "EFFECT_LOG": str(tmp_path / "effects")}
    with Server(planted=fault, **given) as server, server.http() as http:
        assert http.get("/ok").json()["ok"]
