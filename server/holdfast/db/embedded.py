"""The embedded Postgres: one cluster per data directory, run by one of the processes that use it.

Theory of operation. Whoever holds the lock on `owner.lock` owns the cluster: it alone creates the data, removes what is
stale, starts the postmaster and ends it. Everybody else attaches: waits until the owner's postmaster accepts
connections and uses it. The lock is held for as long as the owner lives and given back by the kernel, so a lock that
can be had means that no owner lives, whatever pid files say. There is no second decision to take and no other lock.

An owner's death takes its postmaster along (`postmaster.py`). The next owner may come while that one is still going
down: it waits for every process of the cluster to end, and hurries those that stay. Only then is a pid file stale, even
when its pid is alive again as somebody else or lingers as a zombie that no init reaps.

`watch` keeps it so: an owner starts a postmaster that ended again; the attached wait for the lock and take over.
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from holdfast.db.cluster import (
    PORT,
    SUPERUSER,
    OwnerLock,
    PidFile,
    account_for,
    binaries_for,
    bound_log,
    create_cluster,
    evict,
    log_size,
    log_tail,
    make_private,
    marker_for,
    remove_stale_locks,
    sockets_for,
    working_name,
)
from holdfast.db.postmaster import Account, Postmaster
from holdfast.errors import DatabaseUnavailable

DATABASE = "holdfast"

START_SECONDS = 60.0
POLL_SECONDS = 0.02
SETTLE_SECONDS = 0.2
TAKEOVER_POLL_SECONDS = 0.5
LOG_CHECK_SECONDS = 60.0

# A start that fails or lasts less than this is followed by a pause that doubles; the last of so many may not fail.
STEADY_SECONDS = 10.0
PAUSE_SECONDS = 0.1
TRIES = 5

CONNECTIONS = 100

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    # Durability, on the command line so that no edited file can weaken it.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # A small machine, shared with the server itself.
    "shared_buffers": "96MB",
    "max_wal_size": "256MB",  # bounds the replay after a crash, and so the start
    "wal_compression": "on",
    "io_method": "sync",  # no worker processes for a database that fits in memory
    "max_parallel_workers_per_gather": "0",  # containers have little shared memory
    "jit": "off",
    "autovacuum": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # The log has no collector: errors, but neither checkpoints nor statements, which hold users' data.
    "logging_collector": "off",
    "log_checkpoints": "off",
    "log_min_error_statement": "panic",
}


class EmbeddedPostgres:
    """Postgres on a unix socket with its data under `data_dir`; ready when `start` returns.

    `owner` is False while another live process runs the postmaster. Every failure is a DatabaseUnavailable that ends
    with what Postgres logged. `start_sync` and `stop_sync` are the same without an event loop.
    """

    def __init__(self, data_dir: Path, *, connections: int = CONNECTIONS) -> None:
        """`connections`: how many have to fit at once, if those are more than usual."""
        self.owner = False
        self._connections = max(connections, CONNECTIONS)
        self._data_dir = data_dir.resolve()
        self._cluster = self._data_dir / "postgres"
        self._log = self._data_dir / "postgres.log"
        self._lock = OwnerLock(self._data_dir / "owner.lock")
        self._sockets: Path | None = None
        self._postmaster: Postmaster | None = None
        self._halt = threading.Event()
        self._one_at_a_time = threading.Lock()

    async def start(self) -> str:
        """Start Postgres or attach to it; returns the URL of the database `holdfast`."""
        self._halt.clear()
        return await self._start_in_thread()

    def start_sync(self) -> str:
        self._halt.clear()
        return self._start()

    async def stop(self) -> None:
        """End the postmaster if it is ours, within half a minute; abandons a start under way."""
        self._halt.set()
        await asyncio.to_thread(self.stop_sync)

    def stop_sync(self) -> None:
        self._halt.set()
        with self._one_at_a_time:
            self._release()

    async def watch(self) -> None:
        """Keep Postgres there until cancelled or stopped: restart what we own, take over from an owner that is gone.

        The URL stays the same. Raises DatabaseUnavailable when it cannot be brought back in several tries.
        """
        setbacks = 0
        while not self._halt.is_set():
            since = time.monotonic()
            await self._until_gone()
            setbacks = 0 if time.monotonic() - since > STEADY_SECONDS else min(setbacks + 1, TRIES)
            await asyncio.sleep(PAUSE_SECONDS * (2**setbacks - 1))
            if self._halt.is_set():
                return
            try:
                await self._start_in_thread()
            except DatabaseUnavailable:
                # The lock has been given back: the next turn tries again, unless somebody else is faster.
                if setbacks == TRIES and not self._halt.is_set():
                    raise

    async def _start_in_thread(self) -> str:
        try:
            return await asyncio.to_thread(self._start)
        except asyncio.CancelledError:
            self._halt.set()
            raise

    async def _until_gone(self) -> None:
        if not self.owner or self._postmaster is None:
            # Another process gives the lock back, mostly by dying: there is nobody to tell us.
            while not self._lock.acquire():  # noqa: ASYNC110
                await asyncio.sleep(TAKEOVER_POLL_SECONDS)
            return
        exited = asyncio.wrap_future(self._postmaster.exited)
        try:
            while not exited.done():
                await asyncio.wait({exited}, timeout=LOG_CHECK_SECONDS)
                bound_log(self._log)
        finally:
            exited.cancel()

    def _start(self) -> str:
        with self._one_at_a_time, self._explained():
            deadline = time.monotonic() + START_SECONDS
            self._data_dir.mkdir(parents=True, exist_ok=True)
            account = account_for(self._cluster)
            while not self._halt.is_set():
                if self._lock.acquire():
                    return self._own(account, deadline)
                url = self._attach()
                if url is not None:
                    return url
                if time.monotonic() > deadline:
                    raise DatabaseUnavailable("another process holds owner.lock, but its Postgres does not answer")
                self._halt.wait(POLL_SECONDS)
            raise DatabaseUnavailable("stopped while starting")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn a failure into one that names the place and ends with what Postgres has logged meanwhile."""
        start = log_size(self._log)
        try:
            yield
        except (OSError, psycopg.Error, subprocess.SubprocessError, DatabaseUnavailable) as error:
            tail = log_tail(self._log, start)
            reason = f"embedded Postgres in {self._data_dir}: {error}"
            raise DatabaseUnavailable(f"{reason}\n{tail}" if tail else reason) from error

    def _attach(self) -> str | None:
        """The URL of the owner's postmaster, once that accepts connections."""
        found = PidFile.read(self._cluster)
        if found is None or not found.ready:
            return None
        url = url_for(found.sockets)
        with suppress(psycopg.Error), psycopg.connect(url, connect_timeout=5) as connection:
            # An owner that was killed this instant may hold the lock still, but takes its postmaster along.
            self._halt.wait(SETTLE_SECONDS)
            connection.execute("SELECT 1")
            self._sockets = found.sockets
            self.owner = False
            return url
        return None

    def _own(self, account: Account, deadline: float) -> str:
        """Bring the cluster up; the lock is ours, and is given back when that fails."""
        # Whoever takes over keeps the socket where the pools of all others expect it.
        sockets = self._sockets = self._sockets or sockets_for(account, self._data_dir)
        try:
            if self._postmaster is None or self._postmaster.exited.done():
                self._postmaster = self._spawn(account, sockets)
            self._await_ready(self._postmaster, deadline)
            create_database(url_for(sockets, "postgres"))
        except BaseException:
            self._release()
            raise
        self.owner = True
        return url_for(sockets)

    def _spawn(self, account: Account, sockets: Path) -> Postmaster:
        binaries = binaries_for(account, self._data_dir)
        marker = marker_for(self._cluster)
        evict(marker, self._halt)
        bound_log(self._log)
        if not (self._cluster / "PG_VERSION").exists():
            create_cluster(self._cluster, binaries, account, self._log)
        make_private(sockets, account)
        remove_stale_locks(self._cluster, sockets)
        return Postmaster(
            self._command(binaries, account, sockets, marker),
            account=account,
            directory=self._cluster,
            log=self._log,
        )

    def _command(self, binaries: Path, account: Account, sockets: Path, marker: str) -> list[str]:
        quoted = str(sockets).replace('"', '""')  # the setting is a list
        settings = SETTINGS | {"unix_socket_directories": f'"{quoted}"', "cluster_name": marker}
        settings["max_connections"] = str(self._connections)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(binaries / "postgres"), "-D", working_name(account, self._cluster), *options]

    def _await_ready(self, postmaster: Postmaster, deadline: float) -> None:
        while not self._halt.is_set():
            if postmaster.wait(POLL_SECONDS):
                raise DatabaseUnavailable(f"the postmaster ended with status {postmaster.exited.result()}")
            found = PidFile.read(self._cluster)
            if found is not None and found.pid == postmaster.pid and found.ready:
                return
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(f"not ready after {START_SECONDS:.0f} s")
        raise DatabaseUnavailable("stopped while starting")

    def _release(self) -> None:
        self.owner = False
        postmaster, self._postmaster = self._postmaster, None
        if postmaster is not None:
            postmaster.end()
            if self._sockets is not None:
                with suppress(OSError):  # not empty, or somebody else's already
                    self._sockets.rmdir()
        self._lock.release()


def url_for(sockets: Path, database: str = DATABASE) -> str:
    """The libpq URL of a database behind the socket in `sockets`."""
    return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(sockets), safe='')}&port={PORT}"


def create_database(url: str) -> None:
    """Create the database `holdfast` where it is missing; `url` is that of another one."""
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
        if found is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
