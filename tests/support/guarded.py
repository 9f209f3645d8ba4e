"""A server that two people have a key for, each way of telling them apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server

AUTH = Path(__file__).parent / "auth"
ADA, BOB = {"x-api-key": "key-a"}, {"x-api-key": "key-b"}
WAYS = ("keys", "bare", "filtered")
"""By our keys, by a project's own authentication without any handler, and by one whose handlers filter."""


@contextmanager
def guarded_server(cluster: Cluster, way: str, **environment: str) -> Iterator[Server]:
    config = PROJECT if way == "keys" else AUTH / f"{way}.json"
    keys = {"HOLDFAST_API_KEYS": "ada:key-a,bob:key-b"} if way == "keys" else {}
    with cluster.database() as url, Server(database_url=url, config=config, **keys, **environment) as running:
        yield running
