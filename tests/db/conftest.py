from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from tests.db.clusters import data_dir as data_dir
from tests.db.clusters import open_dir as open_dir
from tests.db.clusters import postgres as postgres
from tests.db.clusters import spawn as spawn
from tests.db.stage import Process, Stage, emptied, opened, process
from tests.support.postgres import Cluster


@pytest.fixture(scope="session")
def shared_url(cluster: Cluster) -> Iterator[str]:
    """A migrated database that the tests of this room share; `stage` and `clean_url` empty it."""
    with cluster.database() as url:
        yield url


@pytest.fixture
def clean_url(shared_url: str) -> str:
    """The shared database without a row; a database of one's own costs a third of a second."""
    with psycopg.connect(shared_url, autocommit=True) as conn:
        emptied(conn)
    return shared_url


@pytest.fixture
async def stage(clean_url: str) -> AsyncIterator[Stage]:
    """Repositories over an empty migrated database."""
    async with opened(clean_url) as stage:
        yield stage


@pytest.fixture
async def here(clean_url: str) -> AsyncIterator[Process]:
    """A process on that database."""
    async with process(clean_url) as running:
        yield running


@pytest.fixture
async def elsewhere(here: Process, clean_url: str) -> AsyncIterator[Process]:
    """Another one beside it."""
    async with process(clean_url) as running:
        yield running
