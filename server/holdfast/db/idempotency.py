"""Idempotency keys: a request that is sent twice is carried out once.

A key is claimed in the transaction that does the work. Of two equal requests at the same moment the second waits at the
key until the first has committed, and then finds what it made. A request that was refused rolls its claim back: its key
is free again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from holdfast.db.pool import Connection, Database, repeated
from holdfast.db.sql import statements
from holdfast.errors import Invalid
from holdfast.rules.caller import Caller

KEPT_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Key:
    """What a caller calls a request, and the digest by which it is known again."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Made:
    """What a request made: runs, each on the thread in the same place, or no run and one thread."""

    thread_ids: Sequence[UUID]
    run_ids: Sequence[UUID] = field(default_factory=list)


async def claim(conn: Connection, caller: Caller, key: Key, made: Made) -> Made | None:
    """Take the key for what this transaction makes; what was made under it before, if it is taken.

    Raises:
        Invalid: the key stands for another request.
    """
    params = {
        "owner": caller.owner,
        "key": key.name,
        "digest": key.digest,
        "thread_ids": list(made.thread_ids),
        "run_ids": list(made.run_ids),
    }
    row = await (await conn.execute(statements("idempotency")["claim"], params)).fetchone()
    assert row is not None
    return None if row["is_new"] else _made(row, key)


class IdempotencyKeys:
    """The repository of keys. A caller sees their own only."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("idempotency")

    @repeated
    async def find(self, caller: Caller, key: Key) -> Made | None:
        """What was made under the key.

        Raises:
            Invalid: the key stands for another request.
        """
        async with self._database.connection("api") as conn:
            cursor = await conn.execute(self._sql["find"], {"owner": caller.owner, "key": key.name})
            row = await cursor.fetchone()
        return _made(row, key) if row else None

    @repeated
    async def sweep(self, *, batch: int) -> int:
        """Forget keys older than `KEPT_SECONDS`. Returns how many."""
        async with self._database.connection("worker") as conn:
            return (await conn.execute(self._sql["sweep"], {"kept": KEPT_SECONDS, "batch": batch})).rowcount


def _made(row: Mapping[str, Any], key: Key) -> Made:
    if row["digest"] != key.digest:
        raise Invalid("This Idempotency-Key was used for another request.")
    return Made(row["thread_ids"], row["run_ids"])
