"""The outbox of webhooks.

A run that ends leaves a delivery here in the same transaction (`post`, called by `db/runs.py`). A worker takes it under
a lease, and whatever happens to that worker, the delivery is settled or comes up again: at least once.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from psycopg.rows import DictRow

from holdfast.db.pool import Connection, Database, repeated
from holdfast.db.sql import statements


class Deliveries:
    """The repository of deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("webhooks")

    @repeated
    async def take(
        self,
        sender: UUID | None,
        *,
        limit: int,
        lease: float,
        busy: Sequence[str] = (),
        channels: Sequence[str] = (),
    ) -> list[DictRow]:
        """Up to `limit` deliveries that are due, none of them for the receivers in `busy`; `sent_at` is now.

        Args:
            sender: a worker; None takes alerts alone.
            channels: the alert webhooks that the sender knows; alerts for others are left to others.
        """
        params = {
            "sender": sender,
            "limit": limit,
            "lease": lease,
            "busy": list(busy),
            "channels": list(channels),
        }
        async with self._database.transaction("worker") as conn:
            return await (await conn.execute(self._sql["take"], params)).fetchall()

    async def deliver(self, delivery_id: UUID) -> None:
        """It got through."""
        await self._change("deliver", delivery_id=delivery_id)

    async def postpone(self, delivery_id: UUID, attempt: int, *, pause: float, error: str) -> None:
        """It did not; try again later, unless somebody else tries already."""
        await self._change("postpone", delivery_id=delivery_id, attempt=attempt, pause=pause, error=error)

    async def give_up(self, delivery_id: UUID, attempt: int, *, error: str) -> None:
        """It did not, and will not; the row stays for a while to be looked at."""
        await self._change("give_up", delivery_id=delivery_id, attempt=attempt, error=error)

    async def release(self) -> int:
        """Take back what dead workers were sending. Returns how many."""
        return await self._change("release")

    async def sweep(self, *, keep: float, batch: int) -> int:
        """Remove what was settled more than `keep` seconds ago. Returns how many.

        Alerts that nobody took up for as long are given up: their webhooks have left the configuration.
        """
        await self._change("give_up_unknown", keep=keep)
        return await self._change("sweep", keep=keep, batch=batch)

    @repeated
    async def _change(self, verb: str, /, **params: object) -> int:
        async with self._database.connection("worker") as conn:
            return (await conn.execute(self._sql[verb], params)).rowcount


async def post(conn: Connection, run_id: UUID, values: bytes | None) -> None:
    """Put the end of a run that names a webhook into the outbox; part of the transaction that ends it."""
    await conn.execute(statements("webhooks")["post"], {"run_id": run_id, "values": values})
