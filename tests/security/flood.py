"""What one client's flood does to another's answers.

    python -m tests.security.flood

One client asks for short runs, thirty a second at most, and is timed; in turns with and without another who, with a key
of its own, does all it can: requests as fast as they are answered, streams, runs that take long, bodies of 300 MB,
heads that drip. The server has the limits of docs/limits.md. The flood comes from a process of the lowest priority: on
this machine it would take the CPU that a client elsewhere has of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

import httpx

from bench import machine
from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import ROOT, Server

LIMITS = {
    "HOLDFAST_API_KEYS": "ada:key-a,mallory:key-m",
    "HOLDFAST_RATE_LIMIT": "60/second",
    "HOLDFAST_MAX_RUNS_PER_OWNER": "5",
    "HOLDFAST_MAX_STREAMS_PER_OWNER": "20",
    "LOG_LEVEL": "error",
}
RUN = {"assistant_id": "steps", "input": {"count": 1}}
LONG = {"assistant_id": "steps", "input": {"count": 1000, "pause": 0.05}}
AT_ONCE = 16
EVERY_SECONDS = 0.03
"""How often she asks at most: below the limit herself."""
MOST_TIMES = 2.0
HUGE = 300 * 2**20


def timed(client: httpx.Client, seconds: float) -> list[float]:
    """Milliseconds of each run, for so long."""
    taken = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        began = time.monotonic()
        client.post("/runs/wait", json=RUN).raise_for_status()
        taken.append(1000 * (time.monotonic() - began))
        time.sleep(max(0.0, began + EVERY_SECONDS - time.monotonic()))
    return taken


@contextmanager
def flooded(url: str) -> Iterator[Counter[str]]:
    """While the other one does all it can; what it was answered, once it is over."""
    answers: Counter[str] = Counter()
    with Popen(
        [sys.executable, "-m", "tests.security.flood", "--mallory", url], cwd=ROOT, stdin=PIPE, stdout=PIPE
    ) as it:
        assert it.stdout is not None
        it.stdout.readline()
        yield answers
        told, _ = it.communicate()
        for line in told.decode().splitlines():
            status, count = line.split()
            answers[status] = int(count)


async def flood(url: str) -> None:
    """All that one client can do, until its standard input ends."""
    os.nice(19)
    answers: Counter[str] = Counter()
    tasks = [
        asyncio.create_task(_forever(kind, url, answers))
        for kind in (_ask, _start, _stream, _huge, _drip)
        for _ in range(AT_ONCE)
    ]
    print("flooding", flush=True)  # noqa: T201 - to the process that measures
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for status, count in answers.items():
        print(status, count)  # noqa: T201


async def _forever(kind, url: str, answers: Counter[str]) -> None:  # type: ignore[no-untyped-def]
    async with httpx.AsyncClient(base_url=url, headers={"x-api-key": "key-m"}, timeout=60) as client:
        while True:
            try:
                answers[str(await kind(client))] += 1
            except (httpx.HTTPError, OSError):
                answers["broken"] += 1


async def _ask(client: httpx.AsyncClient) -> int:
    return (await client.post("/threads/search", json={"limit": 1000})).status_code


async def _start(client: httpx.AsyncClient) -> int:
    return (await client.post("/runs", json=LONG)).status_code


async def _stream(client: httpx.AsyncClient) -> int:
    async with client.stream("POST", "/runs/stream", json=LONG) as answer:
        if answer.status_code == 200:
            await asyncio.sleep(5)
        return answer.status_code


async def _huge(client: httpx.AsyncClient) -> int:
    async def body():  # type: ignore[no-untyped-def]
        for _ in range(HUGE // 65536):
            yield b" " * 65536

    return (await client.post("/threads", content=body())).status_code


async def _drip(client: httpx.AsyncClient) -> str:
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    try:
        writer.write(b"POST /threads HTTP/1.1\r\nhost: localhost\r\n")
        while not reader.at_eof():
            writer.write(b"x-a: b\r\n")
            await asyncio.sleep(1)
            if reader._buffer:  # type: ignore[attr-defined]
                break
    finally:
        writer.close()
    return "dripped"


def main(rounds: int, seconds: float) -> float:
    """How many times the P95 is with the flood what it is without."""
    with (
        tempfile.TemporaryDirectory() as place,
        Cluster.embedded(Path(place)) as cluster,
        cluster.database() as database,
        Server(database_url=database, config=PROJECT, **LIMITS) as server,
        server.http(headers={"x-api-key": "key-a"}, timeout=60) as ada,
    ):
        timed(ada, 2)
        before = machine.rss_mb(server.pid)
        calm: list[float] = []
        stormy: list[float] = []
        answers: Counter[str] = Counter()
        for _ in range(rounds):
            calm += timed(ada, seconds)
            with flooded(server.url) as told:
                stormy += timed(ada, seconds)
            answers += told
        ratio = _p95(stormy) / _p95(calm)
        grown = machine.rss_mb(server.pid) - before
    print(f"P95 without the flood {_p95(calm):.1f} ms (n={len(calm)}), with it {_p95(stormy):.1f} ms (n={len(stormy)})")  # noqa: T201
    print(f"{ratio:.2f} times; the server's memory grew by {grown:.0f} MB; the flood was answered {dict(answers)}")  # noqa: T201
    return ratio


def _p95(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=20)[-1]


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--mallory", metavar="URL", help="be the flood")
    words.add_argument("--rounds", type=int, default=4)
    words.add_argument("--seconds", type=float, default=8.0)
    asked = words.parse_args()
    if asked.mallory:
        asyncio.run(flood(asked.mallory))
    else:
        sys.exit(main(asked.rounds, asked.seconds) > MOST_TIMES)
