"""The heartbeat: a thread of its own, on a connection of its own.

Theory of operation. A node that blocks the event loop must not cost the worker its lease, so nothing here touches the
loop except to report. The thread holds a session advisory lock, renews the lease a few times per second and looks at
the other workers while it is there. Between beats it waits on the connection's socket: when Postgres or the network
cuts it, the thread wakes at once, connects again and takes the lock back long before anybody may judge it.

Behind a transaction pooler there are no sessions; then the lease alone counts.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import Connection
from psycopg.rows import DictRow, dict_row

from holdfast.db.sql import statements
from holdfast.rules.liveness import Signs, is_dead

logger = logging.getLogger(__name__)

LOCK_CLASS = 0x486F6C65
BEAT_SECONDS = 0.5
LOCK_GRACE_SECONDS = 1.0
"""A worker whose lock is free may be this late before it counts as dead: time to reconnect."""
RESTART_GRACE_SECONDS = 3.0
"""After Postgres itself restarted every lock is free; this long nobody concludes anything from that."""
RECONNECT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Reports:
    """Where the thread reports to; called from the thread."""

    dead: Callable[[Sequence[UUID]], None]
    """These workers are dead: their runs may be taken over. Said again with every beat until that has happened."""
    lost: Callable[[], None]
    """Somebody judged this worker dead: its runs are no longer its own."""
    back: Callable[[], None]
    """The connection was lost for a moment: whatever was asked of the database then may have gone wrong."""


class Liveness:
    """Keeps one worker's lease. `start` returns when the worker is registered."""

    def __init__(self, url: str, *, worker_id: UUID, lease: float, sessions: bool, reports: Reports) -> None:
        self._url = url
        self._worker_id = worker_id
        self._lease = lease
        self._sessions = sessions
        self._reports = reports
        self._sql = statements("workers")
        self._lock_key = int.from_bytes(worker_id.bytes[-4:]) & 0x7FFFFFFF
        self._place = _this_place()
        self._wake, self._waker = socket.socketpair()
        self._stopping = threading.Event()
        self._registered = threading.Event()
        self._unbroken_since = 0.0
        self._renewed = 0.0
        self._thread = threading.Thread(target=self._run, name="holdfast-liveness", daemon=True)

    def start(self, *, timeout: float = 30.0) -> None:
        """Start beating; blocks until the first registration.

        Raises:
            TimeoutError: the database could not be reached in time.
        """
        self._thread.start()
        if not self._registered.wait(timeout):
            self.stop()
            raise TimeoutError("the worker could not register with the database")

    def has_lease(self) -> bool:
        """Whether the lease, as this host's clock goes, has not run out."""
        return time.monotonic() - self._renewed < self._lease

    def stop(self) -> None:
        """Leave: the worker's row and lock go. Call it after the last run was ended or handed back."""
        self._stopping.set()
        self._waker.send(b"\0")
        if self._thread.ident is not None:
            self._thread.join(timeout=5.0)
        self._wake.close()
        self._waker.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._connect() as conn:
                    self._live(conn)
            except psycopg.Error as error:
                logger.warning("heartbeat connection lost: %s", error)
                self._unbroken_since = 0.0
                self._stopping.wait(RECONNECT_SECONDS)

    def _connect(self) -> Connection[DictRow]:
        return psycopg.connect(
            self._url,
            autocommit=True,
            row_factory=dict_row,
            prepare_threshold=None,
            connect_timeout=3,
            application_name="holdfast liveness",
            keepalives_idle=2,
            keepalives_interval=1,
            keepalives_count=3,
            tcp_user_timeout=3000,
        )

    def _live(self, conn: Connection[DictRow]) -> None:
        self._register(conn)
        self._unbroken_since = self._unbroken_since or time.monotonic()
        while not self._stopping.is_set():
            if not self._beat(conn):
                self._register(conn)
            self._look_around(conn)
            self._wait(conn)
        conn.execute(self._sql["leave"], {"worker_id": self._worker_id})

    def _register(self, conn: Connection[DictRow]) -> None:
        if self._sessions:
            conn.execute("SELECT pg_try_advisory_lock(%s, %s)", [LOCK_CLASS, self._lock_key])
        params: dict[str, Any] = {"worker_id": self._worker_id, "host": self._place, "pid": os.getpid()}
        params |= {"lock_key": self._lock_key, "has_lock": self._sessions, "lease": self._lease}
        asked = time.monotonic()
        row = conn.execute(self._sql["register"], params).fetchone()
        self._renewed = asked
        if self._registered.is_set():
            (self._reports.lost if row is not None and row["is_new"] else self._reports.back)()
        self._registered.set()

    def _beat(self, conn: Connection[DictRow]) -> bool:
        params = {"worker_id": self._worker_id, "lease": self._lease}
        asked = time.monotonic()
        kept = conn.execute(self._sql["beat"], params).fetchone() is not None
        if kept:
            self._renewed = asked
        return kept

    def _look_around(self, conn: Connection[DictRow]) -> None:
        params = {
            "worker_id": self._worker_id,
            "lock_class": LOCK_CLASS,
            "lock_grace": LOCK_GRACE_SECONDS,
            "restart_grace": RESTART_GRACE_SECONDS,
        }
        others = conn.execute(self._sql["others"], params).fetchall()
        observing_for = time.monotonic() - self._unbroken_since
        dead = [
            row["worker_id"]
            for row in others
            if is_dead(self._signs(row), observing_for=observing_for, lease=self._lease)
        ]
        if dead:
            self._reports.dead(dead)

    def _signs(self, row: DictRow) -> Signs:
        here = row["host"] == self._place
        return Signs(
            process_gone=here and (row["pid"] == os.getpid() or not _process_exists(row["pid"])),
            lock_free=row["lock_free"],
            lease_over=row["lease_over"],
        )

    def _wait(self, conn: Connection[DictRow]) -> None:
        readable, _, _ = select.select([conn.fileno(), self._wake.fileno()], [], [], BEAT_SECONDS)
        if conn.fileno() in readable:
            # Nothing is expected here: it is the server closing the connection. A query says so properly.
            conn.execute("SELECT 1")


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _this_place() -> str:
    """A name for the space in which process ids mean something: host, boot and pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    parts = [socket.gethostname()]
    if boot.exists():
        parts.append(boot.read_text().strip())
    if namespace.exists():
        parts.append(str(namespace.readlink()))
    return "/".join(parts)
