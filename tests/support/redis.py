"""Debian's redis-server, on a port of its own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import ConnectionError as RedisConnectionError
from redis import Redis

from tests.support.server import free_port

STARTS_WITHIN_SECONDS = 10


@contextmanager
def redis_server(place: Path, port: int | None = None) -> Iterator[str]:
    """Its URL; it remembers nothing when it ends."""
    port = port or free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(place), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            _wait(port)
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait(port: int) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    with Redis(port=port) as client:
        while True:
            try:
                client.ping()
            except RedisConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            else:
                return
