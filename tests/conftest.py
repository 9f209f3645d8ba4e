"""Fixtures that all rooms share: a real Postgres with a fresh database per test, and real servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Cluster
from tests.support.server import Elsewhere, Server

PROJECT = Path(__file__).parent / "support" / "project" / "langgraph.json"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The Postgres of DATABASE_URL, or an embedded one of this test session."""
    given = os.environ.get("DATABASE_URL")
    with Cluster.at(given) if given else Cluster.embedded(tmp_path_factory.mktemp("postgres")) as cluster:
        yield cluster


@pytest.fixture
def database_url(cluster: Cluster) -> Iterator[str]:
    """A migrated database of the test's own."""
    with cluster.database() as url:
        yield url


@pytest.fixture
def empty_database_url(cluster: Cluster) -> Iterator[str]:
    """A database without any table."""
    with cluster.database(migrated=False) as url:
        yield url


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server | Elsewhere]:
    """One server for all tests that only talk to it; its project is `tests/support/project`.

    With BASE_URL it is the server there, which has to serve the same project.
    """
    if given := os.environ.get("BASE_URL"):
        yield Elsewhere(given)
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    with cluster.database() as url, Server(database_url=url, config=PROJECT) as running:
        yield running
