"""Embedded clusters for tests: processes that own or attach to one, and the fixtures that start them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from holdfast.db import cluster as cluster_module
from holdfast.db.cluster import PidFile, marker_for
from holdfast.db.embedded import EmbeddedPostgres
from holdfast.db.postmaster import residents

SERVER = Path(cluster_module.__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands Postgres to another account")

# A process that uses the data directory until its standard input closes; `before` and `after` surround the start.
USER = """
import os, signal, sys
from pathlib import Path
from holdfast.db.embedded import EmbeddedPostgres
{before}
postgres = EmbeddedPostgres(Path(sys.argv[1]))
print(postgres.start_sync(), postgres.owner, flush=True)
{after}
sys.stdin.read()
postgres.stop_sync()
"""


def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll until `holds`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


class Process:
    """Another process with an EmbeddedPostgres, in a session of its own."""

    def __init__(self, data_dir: Path, *, before: str = "", after: str = "", path: str = "", **env: str) -> None:
        self.data_dir = data_dir
        self._child = subprocess.Popen(
            [sys.executable, "-c", USER.format(before=before, after=after), str(data_dir)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (path, str(SERVER))))} | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._child.pid

    def read(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()

    def started(self) -> tuple[str, bool]:
        """The URL, and whether the process owns the postmaster."""
        url, owner = self.read().split()
        return url, owner == "True"

    def kill(self) -> None:
        self._child.kill()
        self.end()

    def end(self) -> int:
        """Close its standard input; returns the exit status."""
        for stream in (self._child.stdin, self._child.stdout):
            assert stream is not None
            stream.close()
        return self._child.wait(60)


Spawn = Callable[..., Process]


def pids_of(data_dir: Path) -> list[int]:
    return residents(marker_for(data_dir / "postgres"))


def postmaster_of(data_dir: Path) -> int:
    found = PidFile.read(data_dir / "postgres")
    assert found is not None
    return found.pid


def remember(url: str, word: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        connection.execute("INSERT INTO words VALUES (%s)", [word])


def remembered(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT word FROM words ORDER BY word")]


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def has_another_postmaster(url: str, data_dir: Path, pid: int) -> bool:
    return answers(url) and postmaster_of(data_dir) != pid


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts processes, and sees to it that none outlives the test."""
    spawned: list[Process] = []

    def spawn_one(data_dir: Path, **options: str) -> Process:
        spawned.append(Process(data_dir, **options))
        return spawned[-1]

    yield spawn_one
    for process in spawned:
        process.kill()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Not there yet; for root, pytest's directories are closed to every other account."""
    return tmp_path / ".holdfast"


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """An empty data directory that every account can pass through."""
    with tempfile.TemporaryDirectory(prefix="open-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def postgres(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    embedded = EmbeddedPostgres(data_dir)
    yield embedded
    embedded.stop_sync()
