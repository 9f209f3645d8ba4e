"""Several processes on one database are one server: whatever one of them begins, any other goes on with.

Everything is played three times: with clients who choose a replica for each request, behind nginx, which does, and with
events that go through Redis.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from tests.conftest import PROJECT
from tests.durability import rolling
from tests.durability.goals import Trial
from tests.durability.tally import Tally
from tests.support.follow import following
from tests.support.nginx import binary, nginx
from tests.support.postgres import Cluster
from tests.support.redis import redis_server
from tests.support.server import Server, free_port
from tests.support.talk import LONG, get_thread, join, new_thread, parse, run_status, start, until, until_running, wait

MODES = ["values", "updates"]
FROM_THE_START = {"Last-Event-ID": "-1"}
BIG = {"log": [], "count": 8, "pause": 0.02}


@dataclass(frozen=True, slots=True)
class Replicas:
    """Three clients, each of another replica, or all of the nginx before them."""

    a: httpx.Client
    b: httpx.Client
    c: httpx.Client

    @property
    def all(self) -> tuple[httpx.Client, ...]:
        return (self.a, self.b, self.c)


@contextmanager
def four_servers(cluster: Cluster, **environment: str) -> Iterator[list[Server]]:
    """Two that only answer, one that does both, and one that only works."""
    with cluster.database() as url, ExitStack() as stack, ThreadPoolExecutor() as pool:
        servers = [
            Server(
                part=part, config=PROJECT, database_url=url, HOLDFAST_SLOTS="2", HOLDFAST_POOL_SIZE="4", **environment
            )
            for part in ("api", "api", "serve", "worker")
        ]
        yield list(pool.map(stack.enter_context, servers))


@pytest.fixture(scope="module")
def servers(cluster: Cluster) -> Iterator[list[Server]]:
    with four_servers(cluster) as servers:
        yield servers


@pytest.fixture(
    scope="module",
    params=[
        "each at its port",
        pytest.param(
            "behind nginx",
            marks=pytest.mark.skipif(binary() is None, reason="there is no nginx binary on this machine"),
        ),
        "with a fan-out",
    ],
)
def replicas(
    cluster: Cluster, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    with ExitStack() as stack:
        if request.param == "with a fan-out":
            redis = stack.enter_context(redis_server(tmp_path_factory.mktemp("redis")))
            servers = stack.enter_context(four_servers(cluster, FANOUT_URL=redis))
        else:
            servers = request.getfixturevalue("servers")
        urls = [server.url for server in servers[:3]]
        if request.param == "behind nginx":
            urls = 3 * [stack.enter_context(nginx([server.port for server in servers[:3]]))]
        yield Replicas(*[stack.enter_context(httpx.Client(base_url=url, timeout=30.0)) for url in urls])


def test_a_run_begun_at_one_replica_is_streamed_and_joined_at_the_others(replicas: Replicas) -> None:
    thread = new_thread(replicas.a)
    run = start(replicas.a, thread, "steps", input=BIG, stream_mode=MODES, stream_resumable=True)
    path = f"/threads/{thread}/runs/{run}/stream"
    with ThreadPoolExecutor() as pool:
        streams = list(pool.map(lambda at: at.get(path, headers=FROM_THE_START), 2 * replicas.all))
    results = [join(at, thread, run) for at in replicas.all]
    replays = [at.get(path, headers=FROM_THE_START).content for at in replicas.all]
    frames = [[event.raw for event in parse(stream.content)] for stream in streams]
    assert frames == [[event.raw for event in parse(replays[0])]] * len(frames), "live equals replay"
    assert replays == [replays[0]] * 3
    ids = [event.id for event in parse(replays[0])]
    assert len(set(ids)) == len(ids) > 2 * int(BIG["count"])  # type: ignore[call-overload]
    assert results == [results[0]] * 3
    assert len(results[0]["log"]) == BIG["count"]


def test_a_stream_goes_on_at_another_replica_where_it_broke_off(replicas: Replicas) -> None:
    thread = new_thread(replicas.a)
    run = start(replicas.a, thread, "steps", input=BIG, stream_mode=MODES, stream_resumable=True)
    path = f"/threads/{thread}/runs/{run}/stream"
    whole = parse(replicas.b.get(path, headers=FROM_THE_START).content)
    for place, last in enumerate(whole):
        rest = replicas.all[place % 3].get(path, headers={"Last-Event-ID": str(last.id)})
        assert parse(rest.content) == whole[place + 1 :]


def test_a_run_begun_at_one_replica_is_cancelled_at_another(replicas: Replicas) -> None:
    threads = [new_thread(at) for at in replicas.all]
    for thread in threads:
        run = start(replicas.a, thread, "steps", **LONG)
        until_running(replicas.b, thread, run)
        answer = replicas.c.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": "true"})
        assert answer.status_code == 200
        assert run_status(replicas.a, thread, run) == "interrupted"
        assert len({get_thread(at, thread)["status"] for at in replicas.all}) == 1


def test_a_question_asked_at_one_replica_is_answered_at_another_once(replicas: Replicas) -> None:
    thread = new_thread(replicas.a)
    wait(replicas.a, thread, "approve", input={"log": ["begin"]})
    assert get_thread(replicas.b, thread)["status"] == "interrupted"
    body = {"assistant_id": "approve", "command": {"resume": "yes"}}
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda at: at.post(f"/threads/{thread}/runs/wait", json=body), replicas.all))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
    assert get_thread(replicas.c, thread)["values"]["log"] == ["begin", "yes", "done"]


def test_a_state_written_at_one_replica_is_where_a_run_at_another_goes_on(replicas: Replicas) -> None:
    thread = new_thread(replicas.a)
    wait(replicas.a, thread, "steps", input={"log": [], "count": 1, "pause": 0})
    written = replicas.b.post(f"/threads/{thread}/state", json={"values": {"log": ["by hand"]}})
    assert written.status_code == 200
    states = [at.get(f"/threads/{thread}/state").json() for at in replicas.all]
    assert states == [states[0]] * 3
    assert states[0]["checkpoint"]["checkpoint_id"] == written.json()["checkpoint"]["checkpoint_id"]
    values = wait(replicas.c, thread, "steps", input={"count": 4, "pause": 0})
    assert values["log"] == [0, "by hand", 1, 2, 3]


def test_lists_are_the_same_at_every_replica(replicas: Replicas) -> None:
    threads = {new_thread(at, metadata={"story": "lists"}) for at in replicas.all for _ in range(2)}
    for at in replicas.all:
        found = at.post("/threads/search", json={"metadata": {"story": "lists"}}).json()
        assert {row["thread_id"] for row in found} >= threads


def test_the_stream_of_a_thread_tells_of_runs_begun_anywhere(replicas: Replicas) -> None:
    thread = new_thread(replicas.a)
    path = f"/threads/{thread}/stream"
    with following(str(replicas.b.base_url), path) as one, following(str(replicas.c.base_url), path) as other:
        for at in replicas.all:
            wait(at, thread, "steps", input={"count": 1, "pause": 0, "log": []})
        for follower in (one, other):
            follower.until(lambda each: each.whole.count(b"run_done") == 3, "three runs have ended")
        assert one.whole.replace(b": heartbeat\r\n\r\n", b"") == other.whole.replace(b": heartbeat\r\n\r\n", b"")


def test_a_client_that_leaves_ends_its_run_through_nginx_too(replicas: Replicas) -> None:
    thread = new_thread(replicas.a)
    body = {"assistant_id": "steps", "on_disconnect": "cancel", **LONG}
    with replicas.b.stream("POST", f"/threads/{thread}/runs/stream", json=body) as answer:
        run = answer.headers["content-location"].rpartition("/")[2]
        until_running(replicas.c, thread, run)
    until(lambda: run_status(replicas.a, thread, run) == "interrupted", "the run was cancelled")


@contextmanager
def breaking() -> Iterator[tuple[int, list[bytes]]]:
    """A server that takes requests and answers none; its port, and what it was asked."""
    asked: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async def listen() -> asyncio.Server:
        return await asyncio.start_server(take, "127.0.0.1", 0)

    with start_blocking_portal() as portal:
        listener = portal.call(listen)
        yield listener.sockets[0].getsockname()[1], asked
        portal.call(listener.close)


@pytest.mark.skipif(binary() is None, reason="there is no nginx binary on this machine")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nginx_asks_another_replica_when_one_breaks_off_but_sends_no_post_twice(
    servers: list[Server], method: str
) -> None:
    with breaking() as (port, asked), nginx([port, servers[0].port]) as url:
        answers = [httpx.request(method, f"{url}/threads/search", json={}) for _ in range(3)]
    assert len(asked) == 1, "who breaks off is not asked again for a while"
    others = {"GET": 422, "POST": 200}[method]
    assert [answer.status_code for answer in answers] == [502 if method == "POST" else others, others, others]


@pytest.mark.skipif(binary() is None, reason="there is no nginx binary on this machine")
def test_nginx_sends_a_post_elsewhere_when_a_replica_is_not_there(servers: list[Server]) -> None:
    with nginx([free_port(), servers[0].port]) as url:
        assert [httpx.post(f"{url}/threads", json={}).status_code for _ in range(4)] == [200] * 4


@pytest.mark.timeout(300)
def test_a_rolling_restart_loses_nothing_and_repeats_nothing(cluster: Cluster, tmp_path: Path) -> None:
    tally = Tally("rolling restart")
    rolling.restarts(Trial(1, random.Random(7), tmp_path), tally, cluster, rolling.FEW)
    late = [f"replicas that left too late: {found}" for found in tally.found("replicas that left too late")]
    assert [failure for failure in tally.failures if failure not in late] == []
    assert tally.counted("streams") == 4
