"""A database that stops: at once and for a while, together with the server, and because its disk is full.

    R7    Postgres stops at once (SIGQUIT), is away for 4 s and for 30 s, and comes back
    R8    server and Postgres are killed together, and the server starts first
    R10   the disk of the database is full (a small tmpfs), until there is room again

Meanwhile requests wait or are answered 503 with Retry-After; nothing that was acknowledged is lost.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg

from holdfast.db.cluster import PidFile
from holdfast.db.embedded import EmbeddedPostgres
from tests.durability.effects import EffectLog
from tests.durability.goals import Control, Goal, Trial
from tests.durability.ledger import doubled
from tests.durability.tally import Tally
from tests.durability.traffic import FAULTS, RUNS, Traffic
from tests.durability.walk import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import until

CLIENTS = 6
AWAY_SECONDS = (4.0, 30.0)
BEFORE_SECONDS = 3.0
HEALS_WITHIN = 2.0
DONE_WITHIN = 5.0
HEALS_WITHIN_OF_SPACE = 10.0
FULL_SECONDS = 8.0
DISK = "512m"
SUBMITS = 4
ANSWERS_WITHIN = 25.0
PROBE = {"assistant_id": "walk", "input": {"count": 1, "pause": 0.0, "done": []}, "if_not_exists": "create"}


class Stoppable:
    """A Postgres of the proof's own, which an operator stops and starts."""

    def __init__(self, directory: Path) -> None:
        self._postgres = EmbeddedPostgres(directory)
        self._cluster = directory / "postgres"
        self.url = self._postgres.start_sync()

    def revive(self) -> bool:
        """What an operator does when it is said to be down: whether it had died."""
        died = False

        def is_back() -> bool:
            nonlocal died
            found = PidFile.read(self._cluster)
            if found is None or not _exists(found.pid):
                died = True
                self.start()
            with suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=2):
                return True
            return False

        until(is_back, "Postgres is back", 60.0)
        return died

    def stop_at_once(self) -> None:
        """As `pg_ctl -m immediate stop`: no checkpoint, no goodbye."""
        found = PidFile.read(self._cluster)
        assert found is not None
        os.kill(found.pid, signal.SIGQUIT)
        until(lambda: not _exists(found.pid), "Postgres is gone")

    def start(self) -> None:
        """Returns when it accepts connections."""
        self._postgres.start_sync()

    def close(self) -> None:
        self._postgres.stop_sync()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def stoppable(directory: Path, planted: str = "") -> Iterator[tuple[Stoppable, str]]:
    """A Postgres and a database in it."""
    postgres = Stoppable(directory)
    try:
        with Cluster(postgres.url).database() as url:
            if "no-sync-commit" in planted:
                _forget_fast(postgres.url)
            yield postgres, url
    finally:
        postgres.close()


def _forget_fast(url: str) -> None:
    """What is not written at once shall stay unwritten for long, so that its loss shows."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        conn.execute("SELECT pg_reload_conf()")


class Probe:
    """A client that runs one step after the other, to see when the server works again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._succeeded: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def first_after(self, moment: float, seconds: float = 30.0) -> float:
        """When a run that was asked for after this moment had succeeded."""
        return until(lambda: [each for each in self._succeeded if each > moment], "the server works again", seconds)[0]

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=5.0) as http:
            while not self._over.is_set():
                with suppress(httpx.TransportError):
                    answer = http.post("/runs/wait", json=PROBE)
                    if answer.status_code == 200 and len(answer.json().get("done", ())) == 1:
                        self._succeeded.append(time.monotonic())
                time.sleep(0.05)


def away(trial: Trial) -> Tally:
    """Each round Postgres stops at once, for 4 s or for 30 s."""
    with stoppable(trial.directory / "database", trial.planted) as (postgres, url):
        return outage(trial, postgres, url, url)


def outage(trial: Trial, postgres: Stoppable, url: str, through: str, **environment: str) -> Tally:
    """The server reaches the database `url` through another URL."""
    tally = Tally("Postgres stopped at once, and started again", *FAULTS)
    effects = EffectLog(trial.directory / "effects.jsonl")
    with Server(
        config=PROJECT, database_url=through, planted=trial.planted, EFFECT_LOG=str(effects.path), **environment
    ) as server:
        for number in range(trial.rounds):
            traffic = Traffic(server.url, tally, effects, trial.chance, waits=True)
            with traffic.during(CLIENTS, *RUNS), Probe(server.url) as probe:
                probe.first_after(time.monotonic())
                time.sleep(BEFORE_SECONDS)  # Work shall be under way.
                tally.count("runs in flight when it stopped", _in_flight(url))
                postgres.stop_at_once()
                time.sleep(AWAY_SECONDS[number % len(AWAY_SECONDS)])  # The length of the outage.
                _says_so(server, tally)
                postgres.start()
                back = time.monotonic()
                _healed(tally, probe, back, HEALS_WITHIN)
                tally.count("outages")
            traffic.judge()
        if not trial.planted:
            for question, found in doubled(url).items():
                tally.fault(question, found)
    return tally


def _in_flight(url: str) -> int:
    with psycopg.connect(url) as conn:
        row = conn.execute("SELECT count(*) FROM holdfast.runs WHERE status = 'running'").fetchone()
    return row[0] if row else 0


def _says_so(server: Server, tally: Tally) -> None:
    """While the database is away the process is alive, and says that it is not ready."""
    with server.http(timeout=10.0) as http:
        alive, ready = http.get("/ok").status_code, http.get("/ready").status_code
    tally.fault("wrong health", [] if (alive, ready) == (200, 503) else [f"/ok {alive}, /ready {ready}"])


def _healed(tally: Tally, probe: Probe, since: float, within: float) -> None:
    try:
        took = probe.first_after(since) - since
    except AssertionError:
        tally.fault("healed too late", ["not at all"])
        return
    tally.timed("healed", took)
    tally.fault("healed too late", [f"{took:.1f} s"] if took > within else [])


def together(trial: Trial) -> Tally:
    """Each round server and Postgres die together; the server is started while Postgres is away."""
    tally = Tally("server and Postgres killed together, the server started first", *FAULTS)
    effects = EffectLog(trial.directory / "effects.jsonl")
    with stoppable(trial.directory / "database", trial.planted) as (postgres, url):
        server = Server(config=PROJECT, database_url=url, planted=trial.planted, EFFECT_LOG=str(effects.path))
        with server:
            for _ in range(trial.rounds):
                _die_together(trial, postgres, server, url, tally, effects)
    return tally


def _die_together(
    trial: Trial, postgres: Stoppable, server: Server, url: str, tally: Tally, effects: EffectLog
) -> None:
    traffic = Traffic(server.url, tally, effects, trial.chance, waits=True)
    with traffic.during(CLIENTS, "submitted"):
        until(lambda: len(traffic.acknowledged) >= 4 * CLIENTS, "work is under way", 60.0)
        tally.count("runs in flight when they died", _in_flight(url))
        server.kill()
        postgres.stop_at_once()
        starting = threading.Thread(target=server.start)
        starting.start()
        with server.http(timeout=10.0) as http:
            until(lambda: _status(http, "/ok") == 200, "the server is alive without its database", 60.0)
            alive, ready, work = _status(http, "/ok"), _status(http, "/ready"), _status(http, "/threads/search")
        found = f"/ok {alive}, /ready {ready}, work {work}"
        tally.fault("wrong health", [] if (alive, ready, work) == (200, 503, 503) else [found])
        tally.fault("servers that did not stay up", [] if server.is_up else [server.log[-500:]])
        postgres.start()
        back = time.monotonic()
        starting.join()
        tally.timed("ready after the database", time.monotonic() - back)
        before = list(traffic.acknowledged)
        with httpx.Client(base_url=server.url, timeout=60.0) as http:
            waiting = [each for each in before if _active(http, each.thread, each.run)]
            while waiting and time.monotonic() < back + 60.0:
                waiting = [each for each in waiting if _active(http, each.thread, each.run)]
        took = time.monotonic() - back
    tally.timed("all done after the database", took)
    tally.fault("done too late", [f"{took:.1f} s"] if took > DONE_WITHIN else [])
    tally.count("deaths")
    traffic.judge(started_again=CLIENTS * 8)


def _status(http: httpx.Client, path: str) -> int:
    try:
        return (http.post(path, json={}) if "search" in path else http.get(path)).status_code
    except httpx.TransportError:
        return 0


def _active(http: httpx.Client, thread: str, run: str) -> bool:
    answer = http.get(f"/threads/{thread}/runs/{run}")
    return answer.status_code != 404 and (
        answer.status_code != 200 or answer.json()["status"] in ("pending", "running")
    )


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of a few megabytes; only root may make one."""
    directory.mkdir(parents=True)
    options = f"size={DISK},mode=0755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def full(trial: Trial) -> Tally:
    """Each round something else fills the disk while runs are under way, and goes away again."""
    tally = Tally("the database's disk full, until there is room again", *FAULTS)
    effects = EffectLog(trial.directory / "effects.jsonl")
    with small_disk(trial.directory / "disk") as disk, stoppable(disk / "database", trial.planted) as (postgres, url):
        given: dict[str, Any] = {"planted": trial.planted, "EFFECT_LOG": str(effects.path)}
        with Server(config=PROJECT, database_url=url, **given) as server:
            for number in range(trial.rounds):
                _fill(trial, disk, postgres, server, url, tally, log_too=number % 2 == 1)
            for question, found in doubled(url).items():
                tally.fault(question, found)
    return tally


def _fill(
    trial: Trial, disk: Path, postgres: Stoppable, server: Server, url: str, tally: Tally, *, log_too: bool
) -> None:
    effects = EffectLog(trial.directory / "effects.jsonl")
    traffic = Traffic(server.url, tally, effects, trial.chance, waits=True)
    ballast = disk / "ballast"
    with traffic.during(CLIENTS, *RUNS, "bulky"), Probe(server.url) as probe:
        probe.first_after(time.monotonic())
        tally.count("runs in flight when it was full", _in_flight(url))
        full_at = time.monotonic()
        while time.monotonic() < full_at + FULL_SECONDS:
            _take_all(ballast)
            if log_too:
                _write_log(url)
            time.sleep(0.2)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda _: _submit_bulk(traffic), range(SUBMITS)))
        ballast.unlink()
        room = time.monotonic()
        tally.count("times that Postgres died of it", postgres.revive())
        _healed(tally, probe, room, HEALS_WITHIN_OF_SPACE)
        tally.count("full disks")
    traffic.judge()


def _take_all(ballast: Path) -> None:
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def _write_log(url: str) -> None:
    """Have Postgres fill its write-ahead log: where it finds no room for that, it cannot live on."""
    with suppress(psycopg.OperationalError), psycopg.connect(url, autocommit=True, connect_timeout=2) as conn:
        for _ in range(100):
            conn.execute("SELECT pg_logical_emit_message(false, 'ballast', repeat('x', 1000000))")


def _submit_bulk(traffic: Traffic) -> None:
    """A submit is answered within the time that a client waits, and not by a bare 500."""
    begun = time.monotonic()
    bulky = {**PROBE, "input": {"count": 1, "pause": 0, "done": [os.urandom(2_000_000).hex()]}}
    with httpx.Client(base_url=traffic.url, timeout=60.0) as http:
        answer = http.post("/runs", json=bulky)
    took = time.monotonic() - begun
    told = answer.status_code == 200 or (answer.status_code == 503 and "retry-after" in answer.headers)
    traffic.note(lambda tally: tally.timed("answer while it was full", took))
    traffic.note(lambda tally: tally.count(f"answers {answer.status_code} while it was full"))
    traffic.note(lambda tally: tally.fault("5xx answers", [] if told else [answer.text[:200]]))
    traffic.note(lambda tally: tally.fault("hanging answers", [f"{took:.0f} s"] if took > ANSWERS_WITHIN else []))


AWAY = Goal(
    id="R7",
    title="Postgres immediate stop, 4 s and 30 s",
    play=away,
    rounds=2,
    at_least={"outages": 2, "runs in flight when it stopped": 6, "runs acknowledged": 50},
    controls=(
        # Four seconds are waited for in the pool's queue; it takes the longer outage.
        Control(
            "no-save-retry", ("runs that did not succeed", "effects doubled or missing", "wrong answers"), rounds=2
        ),
        Control("no-sync-commit", ("acknowledged runs lost", "effects doubled or missing"), rounds=1),
    ),
)

TOGETHER = Goal(
    id="R8",
    title="server and database die together, server starts first",
    play=together,
    rounds=5,
    at_least={"deaths": 5, "runs in flight when they died": 10, "runs acknowledged": 120},
    controls=(Control("no-sync-commit", ("acknowledged runs lost", "wrong answers"), rounds=3),),
)

FULL = Goal(
    id="R10",
    title="disk full (small tmpfs)",
    play=full,
    rounds=3,
    at_least={"full disks": 3, "answers 503 while it was full": 3, "times that Postgres died of it": 1},
    controls=(Control("no-save-retry", ("runs that did not succeed", "effects doubled or missing"), rounds=1),),
)
