"""The proxies that deploy/ has files for, really run before two replicas: streams, HTTP/2, and restarts behind them.

Over HTTP/1.1 a browser has six connections to a host; `MANY` streams over one connection are what HTTP/2 is there for.
IDLE_SECONDS=600 is `make idle`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from uuid import uuid4

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from tests.conftest import PROJECT
from tests.support import proxies
from tests.support.nginx import binary as nginx_binary
from tests.support.nginx import nginx
from tests.support.postgres import Cluster
from tests.support.proxies import Certificate, caddy, traefik
from tests.support.server import Server
from tests.support.talk import new_thread, run_status, until, wait

IDLE_SECONDS = float(os.environ.get("IDLE_SECONDS", "20"))
MANY = 20
AWAY = {502, 503, 504}
PROXIES: dict[str, Callable[[list[int], Certificate], AbstractContextManager[str]]] = {
    "nginx": lambda ports, _: nginx(ports),
    "nginx-tls": nginx,
    "caddy": caddy,
    "traefik": traefik,
}
IS_THERE = {
    "nginx": nginx_binary(),
    "nginx-tls": nginx_binary(),
    "caddy": proxies.binary("caddy"),
    "traefik": proxies.binary("traefik"),
}

pytestmark = pytest.mark.timeout(IDLE_SECONDS + 120)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.made(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def replicas(cluster: Cluster) -> Iterator[list[Server]]:
    with cluster.database() as url, ExitStack() as stack, ThreadPoolExecutor() as pool:
        servers = [Server(config=PROJECT, database_url=url) for _ in range(2)]
        yield list(pool.map(stack.enter_context, servers))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.skipif(not there, reason=f"{name} is not installed: make test does"))
        for name, there in IS_THERE.items()
    ],
)
def proxy(request: pytest.FixtureRequest, replicas: list[Server], certificate: Certificate) -> Iterator[str]:
    """The URL of each proxy in turn."""
    with PROXIES[request.param]([replica.port for replica in replicas], certificate) as url:
        yield url


@pytest.fixture
def trusting(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate.file)


@pytest.fixture
def http(proxy: str, trusting: ssl.SSLContext) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy, verify=trusting, http2=True, timeout=30.0) as client:
        yield client


def test_an_event_is_passed_on_while_its_run_goes_on(http: httpx.Client, proxy: str, trusting: ssl.SSLContext) -> None:
    thread = new_thread(http)
    body = {"assistant_id": "steps", "input": {"log": [], "pause": 60, "count": 2}, "on_disconnect": "cancel"}
    with (
        httpx.Client(base_url=proxy, verify=trusting, http2=True) as leaving,
        leaving.stream("POST", f"/threads/{thread}/runs/stream", json=body) as answer,
    ):
        run = answer.headers["content-location"].rpartition("/")[2]
        assert b"event: metadata" in next(answer.iter_raw())
        assert run_status(http, thread, run) in ("pending", "running")
    until(lambda: run_status(http, thread, run) == "interrupted", "the proxy tells that the client has left")


def test_a_stream_on_which_nothing_happens_stays_open_and_tells_what_happens_then(http: httpx.Client) -> None:
    thread, began, frames = new_thread(http), time.monotonic(), b""
    told = threading.Timer(IDLE_SECONDS, wait, (http, thread, "steps"), {"input": {"log": [], "pause": 0, "count": 1}})
    told.start()
    with http.stream("GET", f"/threads/{thread}/stream") as answer:
        for chunk in answer.iter_raw():
            frames += chunk
            if b"run_done" in frames:
                break
    told.join()
    assert b"run_done" in frames
    assert frames.count(b": heartbeat") >= IDLE_SECONDS / 5 - 2
    assert time.monotonic() - began >= IDLE_SECONDS


@asynccontextmanager
async def one_connection(url: str, trusting: ssl.SSLContext, *, http2: bool) -> AsyncIterator[httpx.AsyncClient]:
    """A client that has one connection, as browsers do over HTTP/2, and waits for it for two seconds."""
    limits, patience = httpx.Limits(max_connections=1), httpx.Timeout(30.0, pool=2.0)
    async with httpx.AsyncClient(base_url=url, verify=trusting, http2=http2, limits=limits, timeout=patience) as client:
        yield client


@pytest.mark.anyio
async def test_many_streams_are_open_over_one_connection_and_others_ask_beside_them(
    proxy: str, trusting: ssl.SSLContext
) -> None:
    if proxy.startswith("http:"):
        pytest.skip("HTTP/2 comes with TLS")
    async with one_connection(proxy, trusting, http2=True) as client, AsyncExitStack() as stack:

        async def opened() -> httpx.Response:
            thread = (await client.post("/threads", json={})).json()["thread_id"]
            return await stack.enter_async_context(client.stream("GET", f"/threads/{thread}/stream"))

        # At the same time: nginx may keep an answer's head until its first heartbeat.
        answers = await asyncio.gather(*(opened() for _ in range(MANY)))
        assert {(answer.status_code, answer.http_version) for answer in answers} == {(200, "HTTP/2")}
        assert (await client.get("/ok")).status_code == 200


@pytest.mark.anyio
async def test_over_http_1_a_stream_keeps_its_connection_to_itself(proxy: str, trusting: ssl.SSLContext) -> None:
    async with one_connection(proxy, trusting, http2=False) as client:
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        async with client.stream("GET", f"/threads/{thread}/stream"):
            with pytest.raises(httpx.PoolTimeout):
                await client.get("/ok")


@contextmanager
def breaking() -> Iterator[tuple[int, list[bytes]]]:
    """A server that is well when asked for its health and breaks off everything else; its port and what was sent."""
    asked: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if request.startswith(b"GET /ready"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
        else:
            asked.append(request)
        writer.close()

    async def listen() -> asyncio.Server:
        return await asyncio.start_server(take, "127.0.0.1", 0)

    with start_blocking_portal() as portal:
        listener = portal.call(listen)
        yield listener.sockets[0].getsockname()[1], asked
        portal.call(listener.close)


@pytest.mark.parametrize("name", PROXIES)
def test_no_post_is_sent_twice(
    name: str, replicas: list[Server], certificate: Certificate, trusting: ssl.SSLContext
) -> None:
    if not IS_THERE[name]:
        pytest.skip(f"{name} is not installed: make test does")
    with (
        breaking() as (port, asked),
        PROXIES[name]([port, replicas[0].port], certificate) as url,
        httpx.Client(base_url=url, verify=trusting) as http,
    ):
        answers = [http.post("/threads", json={}).status_code for _ in range(6)]
    assert set(answers) <= {200, *AWAY}
    assert len(asked) == sum(answer in AWAY for answer in answers) > 0


def test_a_rolling_restart_of_both_replicas_loses_no_run(http: httpx.Client, replicas: list[Server]) -> None:
    over = threading.Event()

    def ask() -> list[str]:
        """Runs, one after the other, each repeated with its key until it is answered."""
        done = []
        while not over.is_set():
            body = {"assistant_id": "steps", "input": {"log": [], "pause": 0.1, "count": 2}, "if_not_exists": "create"}
            thread, key = str(uuid4()), {"Idempotency-Key": str(uuid4())}
            until(lambda: _answered(http, thread, body, key), "an answer")  # noqa: B023
            done.append(thread)
        return done

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for replica in replicas:
                assert replica.stop() == 0
                replica.start()
        finally:
            over.set()
        threads = [thread for each in asking for thread in each.result()]
    assert len(threads) > 8
    for thread in threads:
        [run] = http.get(f"/threads/{thread}/runs").json()
        assert run["status"] == "success"


def _answered(http: httpx.Client, thread: str, body: dict[str, object], key: dict[str, str]) -> bool:
    try:
        answer = http.post(f"/threads/{thread}/runs/wait", json=body, headers=key)
    except httpx.TransportError:
        return False
    assert answer.status_code in {200, *AWAY}, answer.text
    return answer.status_code == 200 and len(answer.json()["log"]) == 2
