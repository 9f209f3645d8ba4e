"""Replicas are restarted one after the other while clients work with them, and two versions share one queue (R11).

A round: three replicas, fifty runs of which twenty are streamed, every replica is stopped and started again in turn. A
client whose stream breaks joins it again with the last id that it saw, at whatever replica answers; in the end it must
have exactly what a replay has. With nginx on the machine all of them go through it, as deploy/nginx.conf sets it up.

The other version is a tree of this repository from before issue 4. It starts first, on its own schema; then today's
tree migrates the database, and both serve and work on it.
"""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.durability.client import Client
from tests.durability.effects import EffectLog, starts_per_key
from tests.durability.goals import Control, Goal, Trial
from tests.durability.tally import Tally
from tests.durability.walk import PROJECT
from tests.support.nginx import binary, nginx
from tests.support.postgres import Cluster
from tests.support.server import ROOT, Server
from tests.support.talk import Event, join, parse, start, wait

REPLICAS = 3
LEAVES_WITHIN = 10.0
PATIENCE = 120.0
PAUSE = 0.1
AWAY = {502, 503, 504}
BEFORE = "e4358d4ce9d7aec8ed9dc873c6432807d1261f38"
SIDE_BY_SIDE_SECONDS = 300.0
TALKERS = 3


@dataclass(frozen=True, slots=True)
class Load:
    """What the replicas have to do while they are restarted."""

    runs: int
    streams: int
    """How many of the runs are streamed."""
    slow: int
    """How many have steps of nearly five seconds."""
    seconds: tuple[float, float]
    """How long the others take: long enough to outlast the restart of a replica or two."""

    def steps(self, chance: random.Random, *, slow: bool) -> dict[str, Any]:
        """The input of a run."""
        pause = 4.5 if slow else chance.uniform(0.1, 0.8)
        return {"count": 3 if slow else round(chance.uniform(*self.seconds) / pause), "pause": pause, "done": []}


MANY = Load(runs=50, streams=20, slow=2, seconds=(8.0, 14.0))
FEW = Load(runs=8, streams=4, slow=0, seconds=(4.0, 8.0))


class Door:
    """Where clients find the replicas: one address behind which they are, or all of theirs."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._turn = 0
        self.http = httpx.Client(timeout=30.0, limits=httpx.Limits(max_connections=None))

    def url(self) -> str:
        """The next one to try."""
        self._turn += 1
        return self._urls[self._turn % len(self._urls)]

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        """Ask until somebody answers; a request that is repeated has to bear that.

        Raises:
            TimeoutError: nobody did.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                answer = self.http.request(method, self.url() + path, **given)
                if answer.status_code not in AWAY:
                    return answer.raise_for_status()
            time.sleep(PAUSE)
        raise TimeoutError(f"{method} {path}")


class Follower:
    """Starts a run and follows it to its end, over as many connections as it takes."""

    def __init__(self, door: Door, thread: str, steps: dict[str, Any]) -> None:
        self.events: list[Event] = []
        self.rejoined = 0
        self.ended = False
        self.path: str | None = None
        self._door = door
        self._begin = f"/threads/{thread}/runs/stream"
        self._body = {"assistant_id": "walk", "input": steps, "stream_mode": ["updates"], "stream_resumable": True}
        self._key = str(uuid4())
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def join(self) -> None:
        self._reading.join()

    def _read(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.ended and time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                self._connect()
            if not self.ended:
                time.sleep(PAUSE)

    def _connect(self) -> None:
        if self.path is None:
            method, path, given = "POST", self._begin, {"json": self._body, "headers": {"Idempotency-Key": self._key}}
        else:
            last = str(self.events[-1].id) if self.events else "-1"
            method, path, given = "GET", self.path, {"headers": {"Last-Event-ID": last}}
        with self._door.http.stream(method, self._door.url() + path, **given) as answer:
            if answer.status_code in AWAY:
                return
            answer.raise_for_status()
            self.rejoined += self.path is not None
            self.path = answer.headers["location"]
            self._take(answer)
            self.ended = True

    def _take(self, answer: httpx.Response) -> None:
        rest = b""
        for chunk in answer.iter_raw():
            whole, end, rest = (rest + chunk).rpartition(b"\r\n\r\n")
            self.events += parse(whole + end)


def play(trial: Trial) -> Tally:
    """Rounds of restarts; then, if nothing is planted, two versions side by side."""
    tally = Tally(f"rolling restarts of {REPLICAS} replicas{' behind nginx' if binary() else ''}")
    with Cluster.embedded(trial.directory / "postgres") as cluster:
        restarts(trial, tally, cluster, MANY)
        if not trial.planted:
            seconds = SIDE_BY_SIDE_SECONDS * min(1.0, trial.rounds / R11.rounds)
            side_by_side(trial, tally, cluster, seconds)
    return tally


def restarts(trial: Trial, tally: Tally, cluster: Cluster, load: Load) -> None:
    """Rounds of restarts under this load."""
    effects = EffectLog(trial.directory / "effects.jsonl")
    with _replicas(trial, cluster, effects) as replicas, ExitStack() as stack:
        ports = [replica.port for replica in replicas]
        urls = [stack.enter_context(nginx(ports))] if binary() else [replica.url for replica in replicas]
        door = Door(urls)
        stack.callback(door.http.close)
        for _ in range(trial.rounds):
            _restarted_under_load(door, replicas, effects, tally, trial.chance, load)


@contextmanager
def _replicas(trial: Trial, cluster: Cluster, effects: EffectLog) -> Iterator[list[Server]]:
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        url = stack.enter_context(cluster.database())
        servers = [
            Server(
                config=PROJECT,
                database_url=url,
                planted=trial.planted,
                EFFECT_LOG=str(effects.path),
                HOLDFAST_SLOTS="24",
            )
            for _ in range(REPLICAS)
        ]
        yield list(pool.map(stack.enter_context, servers))


def _restarted_under_load(
    door: Door, replicas: list[Server], effects: EffectLog, tally: Tally, chance: random.Random, load: Load
) -> None:
    threads = [door.ask("POST", "/threads", json={}).json()["thread_id"] for _ in range(load.runs)]
    steps = [load.steps(chance, slow=number < load.slow) for number in range(load.runs)]
    for thread, walk in zip(threads[load.streams :], steps[load.streams :], strict=True):
        body = {"assistant_id": "walk", "input": walk}
        door.ask("POST", f"/threads/{thread}/runs", json=body, headers={"Idempotency-Key": str(uuid4())})
    followers = [Follower(door, thread, walk) for thread, walk in zip(threads[: load.streams], steps, strict=False)]
    tally.count("runs", load.runs)
    tally.count("streams", load.streams)
    for replica in replicas:
        _restarted(replica, tally)
    for follower in followers:
        follower.join()
        _judge_stream(follower, door, tally)
    for thread, walk in zip(threads, steps, strict=True):
        _judge_run(thread, walk, door, effects, tally)


def _restarted(replica: Server, tally: Tally) -> None:
    asked = time.monotonic()
    replica.signal(signal.SIGTERM)
    status = replica.wait()
    took = time.monotonic() - asked
    tally.count("restarts")
    tally.timed("until a replica had left", took)
    tally.fault("replicas that left too late", [f"{took:.1f} s"] if took > LEAVES_WITHIN else [])
    tally.fault("replicas that left in disorder", [f"status {status}: {replica.log[-500:]}"] if status else [])
    replica.start()


def _judge_stream(follower: Follower, door: Door, tally: Tally) -> None:
    tally.count("streams joined again", follower.rejoined)
    tally.fault("streams that never completed", [] if follower.ended else [f"{follower.path}"])
    if follower.path is None:
        return
    replay = Counter(event.raw for event in _replay(door, follower.path))
    heard = Counter(event.raw for event in follower.events)
    tally.count("events", heard.total())
    tally.fault("events missing", [f"{follower.path}: {raw!r}" for raw in replay - heard])
    tally.fault("events twice", [f"{follower.path}: {raw!r}" for raw, times in heard.items() if times > 1])
    tally.fault("events that no replay has", [f"{follower.path}: {raw!r}" for raw in heard.keys() - replay.keys()])
    numbers = [int(str(event.id).partition("-")[2]) for event in follower.events]
    tally.fault("streams out of order", [f"{follower.path}: {numbers}"] if numbers != sorted(numbers) else [])


def _replay(door: Door, path: str) -> list[Event]:
    return parse(door.ask("GET", path, headers={"Last-Event-ID": "-1"}).content)


def _judge_run(thread: str, walk: dict[str, Any], door: Door, effects: EffectLog, tally: Tally) -> None:
    [run] = door.ask("GET", f"/threads/{thread}/runs").json()
    values = door.ask("GET", f"/threads/{thread}/runs/{run['run_id']}/join").json()
    status = door.ask("GET", f"/threads/{thread}/runs/{run['run_id']}").json()["status"]
    tally.fault("runs that failed", [] if status == "success" else [f"{run['run_id']}: {status}"])
    executions = effects.of(thread)
    twice = {key: number for key, number in starts_per_key(executions).items() if number > 1}
    tally.count("nodes", len(executions))
    tally.fault("nodes started twice", [f"{thread}: {twice}"] if twice else [])
    done = values.get("done", []) if isinstance(values, dict) else []
    tally.fault("wrong final states", [] if len(done) == walk["count"] else [f"{run['run_id']}: {values}"])


def side_by_side(trial: Trial, tally: Tally, cluster: Cluster, seconds: float) -> None:
    """The other version and today's, on one database, with clients who use both for everything."""
    old_tree = trial.directory / "before"
    _check_out(BEFORE, old_tree)
    effects = EffectLog(trial.directory / "side-by-side.jsonl")
    with ExitStack() as stack:
        url = stack.enter_context(cluster.database(migrated=False))
        given: dict[str, Any] = {"config": PROJECT, "database_url": url, "EFFECT_LOG": str(effects.path)}
        old = stack.enter_context(Server(**given, tree=old_tree, HOLDFAST_SLOTS="3"))
        new = stack.enter_context(Server(**given, HOLDFAST_SLOTS="3"))
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor(TALKERS) as pool:
            talks = [pool.submit(_talk, old, new, tally, effects, deadline) for _ in range(TALKERS)]
        for talk in talks:
            talk.result()
        for version, server in (("old", old), ("new", new)):
            bad = [line for line in server.log.splitlines() if line.startswith("Traceback") or _is_error(line)]
            tally.fault(f"errors in the log of the {version} version", bad)


def _is_error(line: str) -> bool:
    # As the old version says it, and as the new one does.
    return any(level in line for level in (" ERROR ", " CRITICAL ", "[error ", "[critical "))


def _check_out(commit: str, place: Path) -> None:
    place.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "server", "migrations"], capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(place)], input=archive.stdout, check=True)


def _talk(old: Server, new: Server, tally: Tally, effects: EffectLog, deadline: float) -> None:
    """Conversations until the time is over; whatever one version begins the other goes on with."""
    pids = {old.pid: "nodes executed by the old version", new.pid: "nodes executed by the new version"}
    with Client(old.url) as one, Client(new.url) as other:
        while time.monotonic() < deadline:
            one, other = other, one
            try:
                threads = [_streamed(one, other, tally), _answered(one, other, tally), _cancelled(one, other, tally)]
            except (httpx.HTTPError, AssertionError, KeyError) as error:
                tally.fault("conversations that failed", [repr(error)])
                continue
            tally.count("conversations with two versions", 3)
            for each in threads:
                for execution in effects.of(each):
                    tally.count(pids[execution.pid])


def _streamed(one: Client, other: Client, tally: Tally) -> str:
    thread = one.thread()
    run = start(one.http, thread, "walk", input={"count": 4, "pause": 0.05, "done": []}, stream_resumable=True)
    path, all_of_it = f"/threads/{thread}/runs/{run}/stream", {"Last-Event-ID": "-1"}
    heard = [each.http.get(path, headers=all_of_it).raise_for_status().content for each in (other, one, other)]
    frames = [[event.raw for event in parse(body)] for body in heard]
    tally.fault("streams that differ from their replay", [] if frames[0] == frames[1] == frames[2] else [path])
    assert other.run_status(thread, run) == "success"
    return thread


def _answered(one: Client, other: Client, tally: Tally) -> str:
    thread = one.thread()
    run = start(one.http, thread, "errand", input={"messages": []})
    join(other.http, thread, run)
    assert other.thread_row(thread)["status"] == "interrupted"
    values = wait(other.http, thread, "errand", command={"resume": {"decisions": [{"type": "approve"}]}})
    done = values["messages"][-1]["content"] == "all done"
    tally.fault("answers that did not arrive", [] if done else [thread])
    return thread


def _cancelled(one: Client, other: Client, tally: Tally) -> str:
    thread = one.thread()
    wait(other.http, thread, "walk", input={"count": 1, "pause": 0.0, "done": []})
    one.http.post(f"/threads/{thread}/state", json={"values": {"count": 100, "pause": 0.05}}).raise_for_status()
    run = start(other.http, thread, "walk", input={"done": []})
    one.http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": "true"}).raise_for_status()
    status = other.run_status(thread, run)
    tally.fault("runs that could not be cancelled", [] if status == "interrupted" else [f"{run}: {status}"])
    return thread


R11 = Goal(
    "R11",
    "rolling restarts, and two versions side by side",
    play,
    rounds=3,
    at_least={
        "runs": 150,
        "streams": 60,
        "restarts": 9,
        "streams joined again": 30,
        "conversations with two versions": 100,
        "nodes executed by the old version": 50,
        "nodes executed by the new version": 50,
    },
    controls=(
        Control("no-drain", ("nodes started twice",), rounds=1),
        Control("drop-events", ("events missing", "events that no replay has"), rounds=1),
    ),
)
