"""Reads by a replica of the database (a hot standby), which see what the database itself would show.

Theory of operation. A replica replays the primary's log, a moment later. A read goes there only once it has replayed
all that was committed when the read was asked, in whichever process: the **horizon**, for which the primary is asked
first. That question touches no table and is one for all reads that have it at the same time (`shared.py`). So nobody
can tell who answered: what a client was told to be there, it finds.

A place in the log means something within one cluster and on one timeline only. A replica that was promoted, follows
another primary, or is ahead of a primary that took over answers nothing.

The primary answers whatever the replica does not: while all its connections are busy, when it has not caught up within
`wait` seconds, and when a read fails there (it is gone, or its replay cancels the read: SQLSTATE 40001). Such a read
leaves as `DatabaseUnavailable`, and since every verb that reads is repeated, it is done again, by the primary: one that
fails makes the replica unfit until `watch`, which looks every second, finds it fit. So a replica that is away costs
nothing but the reads that it had.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from holdfast.db.pool import SHORT_SILENCE, Connection, Database, borrowed, read_pool, translated
from holdfast.db.shared import Shared
from holdfast.db.sql import statements
from holdfast.errors import DatabaseError, DatabaseUnavailable, Unsaveable

logger = logging.getLogger(__name__)

CONNECTIONS = 6
"""Of a process. When all are busy the primary answers."""

CONNECT_SECONDS = 0.5
LOOK_SECONDS = 1.0
LOOK_TIMEOUT_SECONDS = 3
POLL_SECONDS = 0.002
SAY_EVERY_SECONDS = 60.0


Horizon = Mapping[str, Any]
"""All that is committed: `{lsn, timeline, cluster}`, the end of the primary's log."""


class Replica:
    """The replica behind a URL, or the replicas where that names several hosts: each connection is asked for itself."""

    def __init__(self, database: Database, url: str, *, wait: float, transaction_pooler: bool = False) -> None:
        """`wait`: seconds that a read waits for the replica to catch up."""
        self._database = database
        self._url = make_conninfo(url, connect_timeout=LOOK_TIMEOUT_SECONDS, **SHORT_SILENCE)
        self._wait = wait
        self._pool = read_pool(url, CONNECTIONS, transaction_pooler=transaction_pooler)
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._horizons: Shared[str, Horizon] = Shared()
        self._sql = statements("replica")
        self._said_at: dict[str, float] = {}
        self.is_fit = False
        self.reads: Counter[str] = Counter()
        """Reads by who was to answer them: `replica`, `primary`."""

    async def open(self) -> None:
        """Open the pool; the replica need not be there."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection | None]:
        """A connection that sees all that is committed by now; None: the primary has to answer.

        Raises:
            DatabaseUnavailable: the replica did not do it; done again, it is for the primary.
        """
        if not self.is_fit or self._free.locked():
            self.reads["primary"] += 1
            yield None
            return
        async with self._free:
            horizon = await self._horizons.ask("now", self._horizon)
            try:
                async with borrowed(self._pool, CONNECT_SECONDS) as conn:
                    await self._catch_up(conn, horizon)
                    self.reads["replica"] += 1
                    yield conn
            except Unsaveable:
                raise
            except DatabaseError as error:
                self._give_up(error)
                raise DatabaseUnavailable(str(error)) from error

    async def watch(self) -> None:
        """Find out again and again whether the replica is fit, until cancelled."""
        while True:
            if not self.is_fit:
                await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        try:
            horizon = await self._horizon()
            # Not of the pool, which logs every connection that it cannot have.
            with translated():
                async with await AsyncConnection.connect(self._url, autocommit=True, row_factory=dict_row) as conn:
                    await self._catch_up(conn, horizon)
        except DatabaseError as error:
            self._say(logger.warning, "reads go to the primary: %s", error)
        else:
            self.is_fit = True
            self._say(logger.info, "reads go to the replica")

    async def _horizon(self) -> Horizon:
        async with self._database.connection("api") as conn:
            row = await (await conn.execute(self._sql["horizon"])).fetchone()
        assert row is not None
        return row

    async def _catch_up(self, conn: Connection, horizon: Horizon) -> None:
        """Wait until this replica has all before the horizon.

        Raises:
            DatabaseUnavailable: it does not follow this primary, or not closely enough.
        """
        deadline = time.monotonic() + self._wait
        while True:
            row = await (await conn.execute(self._sql["standing"], horizon)).fetchone()
            assert row is not None
            if not row["follows"]:
                raise DatabaseUnavailable("DATABASE_READ_URL leads to no replica of this primary")
            if row["has_all"]:
                return
            if time.monotonic() >= deadline:
                raise DatabaseUnavailable(f"the replica is more than {self._wait:g} s behind")
            await asyncio.sleep(POLL_SECONDS)

    def _give_up(self, why: DatabaseError) -> None:
        if self.is_fit:
            self.is_fit = False
            self._say(logger.warning, "reads go to the primary: %s", why)

    def _say(self, log: Callable[..., None], message: str, *about: object) -> None:
        """The same once in a while: a replica at its limit comes and goes every second."""
        if time.monotonic() - self._said_at.get(message, float("-inf")) >= SAY_EVERY_SECONDS:
            self._said_at[message] = time.monotonic()
            log(message, *about)
