"""A server whose agents refuse broken histories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import new_thread

STRICT = Path(__file__).parents[1] / "support" / "healing" / "langgraph.json"


@pytest.fixture(scope="session")
def strict_url(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as url:
        yield url


@pytest.fixture(scope="session")
def strict(strict_url: str) -> Iterator[Server]:
    """A server of `tests/support/healing`."""
    with Server(database_url=strict_url, config=STRICT) as running:
        yield running


@pytest.fixture
def http(strict: Server) -> Iterator[httpx.Client]:
    with strict.http(timeout=30) as client:
        yield client


@pytest.fixture
def thread(http: httpx.Client) -> str:
    return new_thread(http)
