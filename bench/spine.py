"""What the spine has to reach, measured against a server started as a subprocess with the shipped settings.

    python -m bench.spine [--turns 200] [--streams 50] [--idle 20]

Start-up (process start to the first `/ok`), idle memory and CPU of the server process, time to the first event of a
stream, and how latency and storage grow over the turns of one conversation. Absolute times belong to the machine
that they were taken on; the ratios (last turn to first, bytes of late turns to early ones) are the point.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg

from holdfast.db.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[1]
FILLER = "some words to remember, " * 40
WARM_UP = 5
WINDOW = 10


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--turns", type=int, default=200)
    asked.add_argument("--streams", type=int, default=50)
    asked.add_argument("--idle", type=float, default=20.0, help="seconds to watch the idle server")
    options = asked.parse_args()
    print(f"| {'figure':<58} | {'value':>12} |\n|{'-' * 60}|{'-' * 14}|")
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        data_dir = Path(scratch) / "data"
        with server(data_dir) as (_, _, cold):
            row("start on an empty data directory, s", f"{cold:.2f}")
        with server(data_dir) as (url, pid, warm):
            row("start on an existing data directory, s", f"{warm:.2f}")
            idle(pid, options.idle)
            first_event(url, options.streams)
            growth(url, data_dir, options.turns)
            row("memory of the server process afterwards, MB", f"{rss_mb(pid):.0f}")


def row(figure: str, value: str) -> None:
    print(f"| {figure:<58} | {value:>12} |", flush=True)


@contextmanager
def server(data_dir: Path) -> Iterator[tuple[str, int, float]]:
    """A server of the reference agent; its URL, its pid, and the seconds until `/ok` answered."""
    url = "http://127.0.0.1:20240"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "server")}
    environment.pop("OPENAI_API_KEY", None)
    config = ROOT / "langgraph.json"
    command = [sys.executable, "-m", "holdfast", "serve", "--port", "20240", "--data-dir", str(data_dir)]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--config", str(config)], env=environment, stdout=subprocess.DEVNULL)
    try:
        await_ok(url, process)
        yield url, process.pid, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(30)


def await_ok(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"{url}/ok").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit("the server did not start")


def idle(pid: int, seconds: float) -> None:
    time.sleep(2)
    before = cpu_seconds(pid)
    time.sleep(seconds)
    row("idle CPU of the server process, %", f"{100 * (cpu_seconds(pid) - before) / seconds:.2f}")
    row("idle memory of the server process, MB", f"{rss_mb(pid):.0f}")


def first_event(url: str, streams: int) -> None:
    times: dict[str, list[float]] = {"first event (metadata)": [], "first event of the graph": []}
    with httpx.Client(base_url=url, timeout=30) as http:
        for number in range(streams + WARM_UP):
            thread = http.post("/threads", json={}).json()["thread_id"]
            began = time.perf_counter()
            with http.stream("POST", f"/threads/{thread}/runs/stream", json=turn("hello")) as answer:
                seen = 0
                for line in answer.iter_lines():
                    if line.startswith("event:") and seen < len(times):
                        if number >= WARM_UP:
                            list(times.values())[seen].append(time.perf_counter() - began)
                        seen += 1
    for name, values in times.items():
        row(f"{name}, median of {streams}, ms", f"{1000 * statistics.median(values):.1f}")


def growth(url: str, data_dir: Path, turns: int) -> None:
    """Every turn appends a message of 1 kB and an answer; a turn is a stream of tokens and updates, read to its end."""
    latencies: list[float] = []
    sizes: list[dict[str, int]] = []
    database = EmbeddedPostgres(data_dir).start_sync()
    with httpx.Client(base_url=url, timeout=60) as http, psycopg.connect(database, autocommit=True) as conn:
        thread = http.post("/threads", json={}).json()["thread_id"]
        for number in range(turns):
            began = time.perf_counter()
            said = turn(f"hello number {number}: {FILLER}")
            with http.stream("POST", f"/threads/{thread}/runs/stream", json=said) as answer:
                for _ in answer.iter_raw():
                    pass
            latencies.append(time.perf_counter() - began)
            sizes.append(live_bytes(conn, thread))
    first, last = statistics.median(latencies[WARM_UP : WARM_UP + WINDOW]), statistics.median(latencies[-WINDOW:])
    row(f"turns {WARM_UP + 1} to {WARM_UP + WINDOW}, median, ms", f"{1000 * first:.1f}")
    row(f"last {WINDOW} of {turns} turns, median, ms", f"{1000 * last:.1f}")
    row("ratio, last to first", f"{last / first:.2f}")
    totals = [sum(size.values()) for size in sizes]
    quarter = max(1, turns // 4)
    row("bytes a turn, first quarter", f"{(totals[quarter] - totals[0]) / quarter:.0f}")
    row("bytes a turn, last quarter", f"{(totals[-1] - totals[-1 - quarter]) / quarter:.0f}")
    for table, size in sizes[-1].items():
        row(f"  {table} after {turns} turns, kB", f"{size / 1024:.0f}")


def live_bytes(conn: psycopg.Connection[Any], thread: str) -> dict[str, int]:
    """The bytes of one thread's rows, by table: what a vacuumed table would hold."""
    tables = {
        "checkpoints": "checkpoints",
        "checkpoint_blobs": "checkpoint_blobs",
        "checkpoint_writes": "checkpoint_writes",
        "values": "holdfast.thread_values",
        "threads": "holdfast.threads",
        "runs": "holdfast.runs",
        "event log": "holdfast.event_blocks",
    }
    found = {}
    for name, table in tables.items():
        query = f"SELECT coalesce(sum(pg_column_size(t.*)), 0) FROM {table} t WHERE thread_id::text = %s"
        row_ = conn.execute(query, [thread]).fetchone()
        found[name] = int(row_[0]) if row_ else 0
    return found


def turn(text: str) -> dict[str, Any]:
    return {
        "assistant_id": "agent",
        "input": {"messages": [{"role": "user", "content": text}]},
        "stream_mode": ["updates", "messages-tuple"],
    }


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
