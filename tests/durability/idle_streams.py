"""Thousands of streams that only wait, on one process, and a few clients that behave badly (R12).

A third of the streams follow a thread of their own, a third a run of its own that is not due yet, a third share some
runs that are being executed. While they are open, the process is asked for its health, executes other runs and tells
what happens on a followed thread. Then come clients that read one byte a second of a long stream, and clients that
vanish; at last all leave, and as many come again.
"""

from __future__ import annotations

import os
import resource
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg

from tests.durability.client import Client
from tests.durability.crowd import Crowd
from tests.durability.goals import Control, Goal, Trial
from tests.durability.tally import Tally
from tests.durability.walk import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import start, until, wait

STREAMS_A_ROUND = 500
POOL = 16
OTHER_CONNECTIONS = 3
"""Beside the pool: the bell, the heartbeat, and who counts."""
EXECUTED = 10
SECONDS_LISTENED = 11.0
"""At least one heartbeat for everybody, and at least one look for lost rings."""
LATE_COUNTS = 11.0
"""Seconds until Postgres has counted what idle connections did last."""
KIB_EACH = 50
TRANSACTIONS = 30.0
"""A second, of a process whose streams only wait."""
HEALTH_P90 = 0.050
CONVERSATIONS = 20
SLOWER, NOISE = 2.0, 0.05
"""How much longer runs may take beside the streams: so many times, and seconds more."""
SLOW_READERS = 20
LONG = {"count": 24, "pause": 0.05, "done": ["x" * 2**20]}
"""The states of this walk come to more than 24 MiB."""
SLOW_MIB_EACH = 6
SOFT_LIMIT = 1024
"""Of open files, as most machines have it when nobody changed it."""
OUR_OWN = POOL + 16
"""Connections that may come meanwhile and are not a stream's."""
LEFT = "connections left behind"


@dataclass(frozen=True, slots=True)
class Site:
    """A server, and what looks at it."""

    server: Server
    client: Client
    database: psycopg.Connection[tuple[int]]

    def memory(self) -> int:
        """Resident bytes of the server."""
        pages = Path(f"/proc/{self.server.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def files(self) -> int:
        """Open files of the server."""
        return sum(1 for _ in Path(f"/proc/{self.server.pid}/fd").iterdir())

    def connections(self) -> int:
        """How many connections to its database are open."""
        return self._number("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")

    def transactions(self) -> int:
        """How many transactions its database has seen."""
        return self._number("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")

    def _number(self, query: str) -> int:
        row = self.database.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def play(trial: Trial) -> Tally:
    """One round is 500 streams."""
    tally = Tally("idle streams on one process")
    with Cluster.embedded(trial.directory / "postgres") as cluster, site(trial, cluster) as place:
        number = trial.rounds * STREAMS_A_ROUND
        before = place.memory()
        waited(place, tally, number, measured=True)
        once = place.memory()
        waited(place, tally, number, measured=False)
        grown = place.memory() - once
        # What the first ones left is used again by the second; it need not go back to the system.
        tally.fault("memory that is not used again", [f"{grown >> 20} MiB"] if grown > (once - before) / 2 else [])
    return tally


def waited(site: Site, tally: Tally, number: int, *, measured: bool) -> None:
    """Open so many streams, use the server beside them, and close them."""
    paths = _paths(site, number)
    with Crowd("127.0.0.1", site.server.port) as warming:
        warming.open(paths[::10][:100])
    conversations = _conversations(site, tally, "runs without the streams")
    files, before = site.files() + OUR_OWN, site.memory()
    with Crowd("127.0.0.1", site.server.port) as crowd:
        _opened(crowd, paths, tally)
        if measured:
            _listened(site, crowd, tally, number)
            _judge_memory(tally, site.memory() - before, number)
            _healthy(site, tally)
            beside = _conversations(site, tally, "runs beside the streams")
            slow = beside > SLOWER * conversations + NOISE
            tally.fault("runs slowed down", [f"{conversations:.3f} s to {beside:.3f} s"] if slow else [])
        _told(site, crowd, paths, tally)
        _bad_clients(site, tally)
        crowd.leave("reset")
    _all_gone(site, tally, files)


@contextmanager
def site(trial: Trial, cluster: Cluster) -> Iterator[Site]:
    """A server of its own, on a machine that allows few open files unless it is asked for more."""
    with ExitStack() as stack:
        url = stack.enter_context(cluster.database())
        server = Server(
            config=PROJECT,
            database_url=url,
            planted=trial.planted,
            EFFECT_LOG=str(trial.directory / "effects.jsonl"),
            HOLDFAST_POOL_SIZE=str(POOL),
            HOLDFAST_DRAIN_SECONDS="0",
        )
        with _few_files():
            stack.enter_context(server)
        client = stack.enter_context(Client(server.url))
        database = stack.enter_context(psycopg.connect(url, autocommit=True))
        yield Site(server, client, database)


@contextmanager
def _few_files() -> Iterator[None]:
    """What starts inside has the soft limit of an ordinary machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(SOFT_LIMIT, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _paths(site: Site, number: int) -> list[str]:
    """So many streams, of all three kinds in turn."""
    executed = [_of_a_run(site, pause=3600.0) for _ in range(EXECUTED)]
    makers: list[Callable[[int], str]] = [
        lambda _: f"/threads/{site.client.thread()}/stream",
        lambda _: _of_a_run(site, pause=0.0, after_seconds=3600),
        lambda place: executed[place % EXECUTED],
    ]
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda place: makers[place % 3](place), range(number)))


def _of_a_run(site: Site, *, pause: float, **given: int) -> str:
    walk = {"count": 1, "pause": pause, "done": []}
    thread = site.client.thread()
    run = start(site.client.http, thread, "walk", input=walk, stream_resumable=True, **given)
    return f"/threads/{thread}/runs/{run}/stream"


def _opened(crowd: Crowd, paths: list[str], tally: Tally) -> None:
    begun = time.monotonic()
    opened = crowd.open(paths, **{"Last-Event-ID": "-1"})
    tally.count("streams", opened)
    tally.timed("to open them all", time.monotonic() - begun)
    tally.fault("streams that were refused", [len(paths) - opened] if opened < len(paths) else [])


def _listened(site: Site, crowd: Crowd, tally: Tally, number: int) -> None:
    """Nothing happens for a while."""
    time.sleep(LATE_COUNTS)
    before, transactions = crowd.standing(), site.transactions()
    time.sleep(SECONDS_LISTENED)
    standing = crowd.standing()
    each_second = (site.transactions() - transactions) / SECONDS_LISTENED
    connections = site.connections()
    tally.count("transactions a second while nothing happens", round(each_second))
    tally.count("database connections", connections)
    tally.fault("queries of streams that wait", [f"{each_second:.0f}/s"] if each_second > TRANSACTIONS else [])
    tally.fault("connections of streams", [connections] if connections > POOL + OTHER_CONNECTIONS else [])
    silent = standing["bytes"] - before["bytes"] < number * len(": heartbeat\r\n\r\n")
    tally.fault("heartbeats missing", [f"{before}, {standing}"] if silent else [])
    tally.fault("streams that ended by themselves", [standing["open"]] if standing["open"] < number else [])


def _judge_memory(tally: Tally, grown: int, number: int) -> None:
    each = grown / number / 1024
    tally.count("KiB a stream", round(each))
    tally.fault("streams too dear", [f"{each:.0f} KiB"] if each > KIB_EACH else [])


def _healthy(site: Site, tally: Tally) -> None:
    took = []
    for _ in range(200):
        asked = time.monotonic()
        assert site.client.http.get("/ok").status_code == 200
        took.append(time.monotonic() - asked)
        tally.timed("health beside the streams", took[-1])
        time.sleep(0.01)
    p90 = statistics.quantiles(took, n=10)[-1]
    tally.timed("health beside the streams, p90", p90)
    tally.fault("health too late", [f"p90 {p90 * 1000:.0f} ms"] if p90 > HEALTH_P90 else [])


def _conversations(site: Site, tally: Tally, name: str) -> float:
    """Runs of three steps, one after the other; the median of their durations."""
    took = []
    for _ in range(CONVERSATIONS):
        thread, begun = site.client.thread(), time.monotonic()
        values = wait(site.client.http, thread, "walk", input={"count": 3, "pause": 0.0, "done": []})
        took.append(time.monotonic() - begun)
        tally.timed(name, took[-1])
        tally.fault("runs with a wrong result", [] if len(values["done"]) == 3 else [values])
    return statistics.median(took)


def _told(site: Site, crowd: Crowd, paths: list[str], tally: Tally) -> None:
    """Who follows a thread hears what happens on it, however many others listen."""
    before = crowd.standing()["bytes"]
    followed = [path.split("/")[2] for path in paths[::3]][:20]
    for thread in followed:
        wait(site.client.http, thread, "walk", input={"count": 1, "pause": 0.0, "done": []})
    least = len(followed) * len('event: metadata\r\ndata: {"status":"run_done","run_id":""}\r\n\r\n')
    until(lambda: crowd.standing()["bytes"] - before > least, "the followers hear of the runs")
    tally.count("followed threads on which something happened", len(followed))


def _bad_clients(site: Site, tally: Tally) -> None:
    """Some read a long stream a byte a second; one beside them reads it as fast as it comes."""
    thread = site.client.thread()
    run = start(site.client.http, thread, "walk", input=LONG, stream_mode=["values"], stream_resumable=True)
    path = f"/threads/{thread}/runs/{run}/stream"
    before = site.memory()
    with ExitStack() as stack:
        slow = [stack.enter_context(_slow_reader(site.server.port, path)) for _ in range(SLOW_READERS)]
        received = _read(site, path)
        tally.count("MiB beside slow readers", received >> 20)
        long_enough = received > LONG["count"] * 2**20  # type: ignore[operator]
        tally.fault("streams cut short beside slow readers", [] if long_enough else [received])
        for _ in range(3):
            for each in slow:
                each.recv(1)
            time.sleep(1.0)
        grown = (site.memory() - before) / SLOW_READERS / 2**20
        tally.count("MiB a slow reader", round(grown))
        tally.fault("memory of slow readers", [f"{grown:.1f} MiB each"] if grown > SLOW_MIB_EACH else [])


def _read(site: Site, path: str) -> int:
    """Bytes of a stream that is read as fast as it comes."""
    received = 0
    with (
        suppress(httpx.TransportError),
        site.client.http.stream("GET", path, headers={"last-event-id": "-1"}) as answer,
    ):
        for chunk in answer.iter_raw():
            received += len(chunk)
    return received


@contextmanager
def _slow_reader(port: int, path: str) -> Iterator[socket.socket]:
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(30.0)
        reader.connect(("127.0.0.1", port))
        reader.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\nLast-Event-ID: -1\r\n\r\n".encode())
        assert reader.recv(12) == b"HTTP/1.1 200"
        yield reader


def _all_gone(site: Site, tally: Tally, files: int) -> None:
    """Nothing is left of clients that left, whichever way."""
    try:
        until(lambda: site.files() <= files, "the connections are closed", 30.0)
    except AssertionError:
        tally.fault(LEFT, [site.files() - files])


R12 = Goal(
    "R12",
    "10,000 idle streams on one process",
    play,
    rounds=20,
    at_least={"streams": 20_000, "followed threads on which something happened": 20, "MiB beside slow readers": 24},
    controls=(
        Control("connection-each", ("connections of streams", "streams that were refused"), rounds=1),
        Control("look-each", ("queries of streams that wait",), rounds=1),
        Control("ballast", ("streams too dear",), rounds=1),
        Control("no-flow-control", ("memory of slow readers",), rounds=1),
    ),
)
