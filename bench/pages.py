"""Pages of search and history over HTTP: a hundred thousand threads, and a thread of a thousand checkpoints.

    python -m bench.pages [--threads 100000] [--steps 1000] [--times 40]

The threads are made by one SQL statement, the checkpoints by state updates of the reference agent. Half of the
threads belong to somebody else. A page has ten rows.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg

from bench.spine import row, server
from holdfast.db.embedded import EmbeddedPostgres

THREADS = """
INSERT INTO holdfast.threads (thread_id, owner, status, metadata, created_at, updated_at, state_updated_at)
SELECT gen_random_uuid(), CASE WHEN n %% 2 = 0 THEN 'local' ELSE 'somebody' END,
       CASE WHEN n %% 10 = 0 THEN 'interrupted' ELSE 'idle' END,
       jsonb_build_object('graph_id', 'agent', 'user', 'u' || n %% 1000, 'number', n),
       now() - make_interval(secs => n), now() - make_interval(secs => n * 7 %% 100003),
       now() - make_interval(secs => n * 13 %% 100003)
FROM generate_series(1, %(count)s) n"""

SEARCHES: dict[str, dict[str, Any]] = {
    "search, newest first": {},
    "search by status": {"status": "interrupted"},
    "search by metadata that few have": {"metadata": {"user": "u10"}},
    "search by metadata that all have": {"metadata": {"graph_id": "agent"}},
    "search sorted by creation, oldest first": {"sort_by": "created_at", "sort_order": "asc"},
    "search sorted by thread_id": {"sort_by": "thread_id", "sort_order": "asc"},
    "search, page 500": {"offset": 5000},
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--threads", type=int, default=100_000, help="of the caller; as many belong to somebody else")
    asked.add_argument("--steps", type=int, default=1000)
    asked.add_argument("--times", type=int, default=40)
    options = asked.parse_args()
    row("page, ms: median", "slowest")
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        data_dir = Path(scratch) / "data"
        with server(data_dir) as (url, _, _), httpx.Client(base_url=url, timeout=600) as http:
            crowd(data_dir, 2 * options.threads)
            for name, terms in SEARCHES.items():
                measured(name, options.times, lambda terms=terms: http.post("/threads/search", json=terms))
            measured("count", options.times, lambda: http.post("/threads/count", json={}))
            thread = long_history(http, options.steps)
            page = {"limit": 10}
            measured("history", options.times, lambda: http.post(f"/threads/{thread}/history", json=page))
            measured("state", options.times, lambda: http.get(f"/threads/{thread}/state"))


def measured(name: str, times: int, ask: Any) -> None:
    """Ask so often, and say the median and the slowest."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        ask().raise_for_status()
        taken.append(1000 * (time.perf_counter() - started))
    row(f"{name}: {statistics.median(taken):.1f}", f"{max(taken):.1f}")


def crowd(data_dir: Path, count: int) -> None:
    """Fill the table and let Postgres look at it, as its autovacuum does a minute later."""
    with psycopg.connect(EmbeddedPostgres(data_dir).start_sync(), autocommit=True) as conn:
        conn.execute(THREADS, {"count": count})
        conn.execute("VACUUM ANALYZE holdfast.threads")


def long_history(http: httpx.Client, steps: int) -> str:
    """A thread that was updated so often."""
    thread = str(http.post("/threads", json={"metadata": {"graph_id": "agent"}}).json()["thread_id"])
    for number in range(steps):
        said = {"type": "ai" if number % 2 else "human", "content": f"message {number}", "id": f"m{number}"}
        update = {"values": {"messages": [said]}, "as_node": "agent"}
        http.post(f"/threads/{thread}/state", json=update).raise_for_status()
    return thread


if __name__ == "__main__":
    main()
