"""Replicas that stream from an embedded Postgres, made by pg_basebackup."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from holdfast.db.cluster import PidFile, account_for, binaries_for
from holdfast.db.embedded import DATABASE, EmbeddedPostgres, url_for
from holdfast.db.postmaster import Account, Postmaster, launch, open_log

START_SECONDS = 30.0


class Primary:
    """An embedded Postgres, and a place for the replicas made of it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._postgres = EmbeddedPostgres(place / "primary")
        self.url = self._postgres.start_sync()
        self.account = account_for(place / "primary" / "postgres")
        self.binaries = binaries_for(self.account, place / "primary")

    @property
    def pid(self) -> int:
        found = PidFile.read(self.place / "primary" / "postgres")
        assert found is not None
        return found.pid

    def stop(self) -> None:
        self._postgres.stop_sync()


class Standby:
    """A replica of a primary, in a directory of its own. It streams when `start` returns."""

    def __init__(self, primary: Primary, name: str, **settings: str) -> None:
        self._primary = primary
        self._data = self._made(f"{name}-data")
        self._sockets = self._made(f"{name}-run")
        self._log = primary.place / f"{name}.log"
        self._settings = {"listen_addresses": "", "unix_socket_directories": str(self._sockets), **settings}
        self._postmaster: Postmaster | None = None
        self.url = url_for(self._sockets)
        self._copy()

    def start(self, *, streaming: bool = True) -> None:
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._primary.binaries / "postgres"), "-D", str(self._data), *options]
        self._postmaster = Postmaster(command, account=self._primary.account, directory=self._data, log=self._log)
        said = (
            "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')"
            if streaming
            else "SELECT true"
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._says(said):
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def sql(self, statement: str) -> object:
        """The first column of the first row."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as conn:
            row = conn.execute(statement).fetchone()
        return None if row is None else row[0]

    @property
    def pid(self) -> int:
        assert self._postmaster is not None
        return self._postmaster.pid

    def promote(self) -> None:
        assert self.sql("SELECT pg_promote()") is True

    def kill(self) -> None:
        """kill -9; its processes notice and go."""
        assert self._postmaster is not None
        os.kill(self.pid, signal.SIGKILL)
        assert self._postmaster.wait(START_SECONDS)

    def stop(self) -> None:
        if self._postmaster is not None and not self._postmaster.wait(0):
            self._postmaster.end()

    def _says(self, question: str) -> bool:
        with suppress(psycopg.OperationalError):
            return self.sql(question) is True
        return False

    def _made(self, name: str) -> Path:
        directory = self._primary.place / name
        directory.mkdir(mode=0o700)
        account: Account = self._primary.account
        os.chown(directory, account.uid, account.gid)
        return directory

    def _copy(self) -> None:
        source = self._primary.url.replace(f"/{DATABASE}?", "/?")
        command = [str(self._primary.binaries / "pg_basebackup"), "-d", source, "-D", str(self._data)]
        options = ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]
        with (
            open_log(self._log) as output,
            launch([*command, *options], account=self._primary.account, directory=self._data, output=output) as copying,
        ):
            assert copying.wait(START_SECONDS) == 0, self._log.read_text()


@contextmanager
def primary() -> Iterator[Primary]:
    """A new Postgres without tables."""
    with tempfile.TemporaryDirectory(prefix="open-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        place.chmod(0o755)
        running = Primary(place)
        try:
            yield running
        finally:
            running.stop()


@contextmanager
def standby(of: Primary, name: str, **settings: str) -> Iterator[Standby]:
    """A replica that streams; the settings are Postgres'."""
    replica = Standby(of, name, **settings)
    try:
        replica.start()
        yield replica
    finally:
        replica.stop()
