"""What one `wait` run asks of the database, counted: a regression shows here without any timing.

The figures are those of today's code. A change that lowers one lowers it here; one that raises one says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from bench.cluster import Postgres
from bench.ledger import Ledger
from bench.servers import PROJECT
from bench.site import conversation
from tests.support.server import Server

RUNS = 40
"""What the server does for itself meanwhile comes a few times each, and is rounded away."""

CLIENTS = 32

HEARTBEAT = "UPDATE holdfast.workers"
"""The one thing that an idle server commits often enough to count."""


@dataclass(frozen=True)
class Cost:
    """Of a run with three supersteps and five checkpoints.

    `statements` by their texts, without BEGIN and COMMIT; `commits` are transactions that took an id.
    """

    statements: dict[str, int]
    commits: int


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres.embedded(tmp_path_factory.mktemp("cost")) as postgres:
        yield postgres


@pytest.fixture(scope="module")
def cost(postgres: Postgres) -> Cost:
    """Of runs one after the other."""
    return played(postgres, clients=1)


@pytest.fixture(scope="module")
def crowded(postgres: Postgres) -> Cost:
    """Of runs by many clients at once."""
    return played(postgres, clients=CLIENTS)


def played(postgres: Postgres, *, clients: int) -> Cost:
    url = postgres.fresh_database(f"counted_{clients}")
    with Server(database_url=url, config=PROJECT / "langgraph.json") as server, server.http(timeout=30) as http:
        return counted(http, Ledger(postgres.url), url, clients=clients)


def counted(http: httpx.Client, ledger: Ledger, url: str, *, clients: int) -> Cost:
    threads = [str(http.post("/threads", json={}).json()["thread_id"]) for _ in range(RUNS + 1)]
    wait(http, threads.pop())
    commits, calls = ledger.read(url).commits, ledger.calls(url)
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda thread: wait(http, thread), threads))
    commits, later = ledger.read(url).commits - commits, ledger.calls(url)
    ledger.close()
    added = {query: count - calls.get(query, 0) for query, count in later.items()}
    commits -= sum(count for query, count in added.items() if query.startswith(HEARTBEAT))
    each = {query: round(count / RUNS) for query, count in added.items()}
    return Cost({query: count for query, count in each.items() if count}, round(commits / RUNS))


def wait(http: httpx.Client, thread: str) -> None:
    http.post(f"/threads/{thread}/runs/wait", json=conversation()).raise_for_status()


def test_a_run_that_comes_alone_takes_8_statements(cost: Cost) -> None:
    assert sum(cost.statements.values()) == 8, cost.statements


def test_a_run_that_comes_alone_takes_7_commits(cost: Cost) -> None:
    """Two of them are for its record; four are checkpoints, as the input's goes with the
    next one; and one rings for other processes."""
    assert cost.commits == 7


def test_of_runs_that_come_together_each_takes_less_than_half_of_it(crowded: Cost) -> None:
    assert sum(crowded.statements.values()) <= 4, crowded.statements
    assert crowded.commits <= 4
