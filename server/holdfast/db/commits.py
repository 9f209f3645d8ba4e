"""What became of a commit whose answer was lost.

Theory of operation. A transaction begins with its *ticket*: its id and the database's incarnation. If the connection
goes down while COMMIT is under way, another connection asks Postgres what became of that id, and waits while it is
still in progress. So a caller always learns whether it happened, and may repeat what did not.

Ids that a crash found unwritten are given out again, so an id that counts as committed after a crash may be somebody
else's. An unlogged table tells: Postgres empties it whenever it recovers from a crash or follows a lost primary, and
whoever finds it empty writes a new name into it. Of one case nothing can be said: "committed", in another incarnation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import DictRow

Fate = Literal["committed", "undone", "under way", "unknown"]

BEGIN: LiteralString = (
    "BEGIN; SELECT pg_current_xact_id()::text AS xid, (SELECT name FROM holdfast.incarnation) AS incarnation"
)
NAME: LiteralString = "INSERT INTO holdfast.incarnation DEFAULT VALUES ON CONFLICT DO NOTHING"
# An id from the future is an error; one beyond the newest that ended is under way, or was lost in a crash.
ASK: LiteralString = """
SELECT CASE WHEN %(xid)s::xid8 < pg_snapshot_xmax(pg_current_snapshot()) THEN pg_xact_status(%(xid)s::xid8) END AS fate,
       (SELECT name FROM holdfast.incarnation) AS incarnation"""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a transaction is known by."""

    xid: str
    incarnation: UUID


async def begin(conn: AsyncConnection[DictRow]) -> Ticket:
    """Begin a transaction, in one round trip."""
    while True:
        cursor = await conn.execute(BEGIN, prepare=False)
        cursor.nextset()
        row = await cursor.fetchone()
        assert row is not None
        if row["incarnation"] is not None:
            return Ticket(row["xid"], row["incarnation"])
        # Not in this transaction: the next one would wait for its end.
        await conn.execute("ROLLBACK")
        await conn.execute(NAME)


async def ask(conn: AsyncConnection[DictRow], ticket: Ticket) -> Fate:
    """What became of the transaction, asked on another connection."""
    row = await (await conn.execute(ASK, {"xid": ticket.xid})).fetchone()
    assert row is not None
    return fate(row["fate"], same=row["incarnation"] == ticket.incarnation)


def fate(status: Any, *, same: bool) -> Fate:
    """From what Postgres says of the id, and whether no crash came in between."""
    if status == "committed":
        return "committed" if same else "unknown"
    if status == "aborted":
        return "undone"
    # Nobody survives a crash: what is under way after it is somebody else's.
    return "under way" if same else "undone"
