"""Pages of search and history over HTTP: a hundred thousand threads, and a thread of a thousand checkpoints.

The threads are made by one SQL statement, the checkpoints by state updates of a conversation. Half of the threads
belong to somebody else. A page has ten rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from bench.figures import Figures, Window, latencies
from bench.scenarios.scenario import Case, Scenario
from bench.servers import Server
from bench.site import Site
from bench.stage import Options, Stage

OWN_THREADS = 100_000
CHECKPOINTS = 1000
TIMES = 40
HISTORY = "history of 1,000 checkpoints"

THREADS = """
INSERT INTO holdfast.threads (thread_id, owner, status, metadata, created_at, updated_at, state_updated_at)
SELECT gen_random_uuid(), CASE WHEN n %% 2 = 0 THEN 'local' ELSE 'somebody' END,
       CASE WHEN n %% 10 = 0 THEN 'interrupted' ELSE 'idle' END,
       jsonb_build_object('graph_id', 'delta', 'user', 'u' || n %% 1000, 'number', n),
       now() - make_interval(secs => n), now() - make_interval(secs => n * 7 %% 100003),
       now() - make_interval(secs => n * 13 %% 100003)
FROM generate_series(1, %(count)s) n"""

SEARCHES: dict[str, dict[str, Any]] = {
    "search, newest first": {},
    "search by status": {"status": "interrupted"},
    "search by metadata that few have": {"metadata": {"user": "u10"}},
    "search by metadata that all have": {"metadata": {"graph_id": "delta"}},
    "search sorted by creation, oldest first": {"sort_by": "created_at", "sort_order": "asc"},
    "search sorted by thread_id": {"sort_by": "thread_id", "sort_order": "asc"},
    "search, page 500": {"offset": 5000},
}


class Pages(Scenario):
    name = "pages"
    about = (
        "Pages of ten of 100,000 threads (as many belong to somebody else) and of 1,000 checkpoints; costs are for one"
    )
    servers = ("holdfast",)
    takes_minutes = True
    shown = ("p50_ms", "max_ms", "server_cpu_ms", "postgres_cpu_ms", "statements")

    def cases(self, options: Options) -> Sequence[Case]:
        searches = [Case(name, {"path": "/threads/search", "body": terms}) for name, terms in SEARCHES.items()]
        return [
            *searches,
            Case("count", {"path": "/threads/count", "body": {}}),
            Case(HISTORY, {"path": "history", "body": {"limit": 10}}),
            Case("state after them", {"path": "state", "body": None}),
        ]

    def windows(self, stage: Stage) -> Iterator[Window]:
        """On a server of its own, whose threads are in nobody's way."""
        for name in stage.names(self.servers):
            with stage.fresh(name, f"pages_{name}") as server:
                server.start()
                _crowd(server)
                for case in self.cases(stage.options):
                    window = stage.window(self.name, case.name, server, case.terms)
                    if window is not None:
                        yield window

    async def prepare(self, site: Site, terms: dict[str, Any]) -> str:
        """The path that is asked."""
        if terms["path"].startswith("/"):
            return str(terms["path"])
        if HISTORY not in site.conversations:
            site.conversations[HISTORY] = await _long_history(site)
        return f"/threads/{site.conversations[HISTORY]}/{terms['path']}"

    async def play(self, site: Site, terms: dict[str, Any], prepared: str) -> Figures:
        taken = []
        async with site.connection() as connection:
            for _ in range(TIMES):
                asked = time.perf_counter()
                await connection.ask("GET" if terms["body"] is None else "POST", prepared, terms["body"])
                taken.append(time.perf_counter() - asked)
        return {"runs": TIMES, "seconds": sum(taken)} | latencies(taken)


def _crowd(server: Server) -> None:
    """Fill the table and let Postgres look at it, as its autovacuum does a minute later."""
    with psycopg.connect(str(server.database), autocommit=True) as conn:
        conn.execute(THREADS, {"count": 2 * OWN_THREADS})
        conn.execute("VACUUM ANALYZE holdfast.threads")


async def _long_history(site: Site) -> str:
    """A thread that was updated so often."""
    async with site.connection() as connection:
        created = await connection.ask("POST", "/threads", {"metadata": {"graph_id": "delta"}})
        thread = str(created.json()["thread_id"])
        for number in range(CHECKPOINTS):
            said = {"type": "ai" if number % 2 else "human", "content": f"message {number}", "id": f"m{number}"}
            update = {"values": {"messages": [said]}, "as_node": "agent"}
            await connection.ask("POST", f"/threads/{thread}/state", update)
    return thread
