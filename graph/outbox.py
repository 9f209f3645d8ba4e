"""The outbox: where a sent message becomes a fact, at most once per idempotency key.

SQLite from the standard library: one row per key, inserted or ignored in one durable transaction, so a
repeat after a crash, from another process or another thread, is no second effect, and a `kill -9` leaves
all or nothing.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from graph.errors import BusinessRuleError

DEFAULT_PATH = ".holdfast/outbox.sqlite3"
_BUSY_SECONDS = 10.0

_CREATE = """
CREATE TABLE IF NOT EXISTS outbox (
    idempotency_key TEXT PRIMARY KEY,
    recipient       TEXT NOT NULL,
    body            TEXT NOT NULL,
    created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)
"""


@dataclass(frozen=True, slots=True)
class Message:
    """One message in the outbox."""

    idempotency_key: str
    recipient: str
    body: str


def path() -> Path:
    """The file, from OUTBOX_PATH at the time of the call."""
    return Path(os.environ.get("OUTBOX_PATH") or DEFAULT_PATH)


def put(message: Message) -> bool:
    """Add `message` unless its key is there already; True if it was added now. Blocks on the disk.

    Raises BusinessRuleError if the key was used for a different message: then this call is not a repeat of
    that one (a fork of the thread, say, approved with other words), and calling it done would be untrue.
    """
    with closing(_open()) as connection:
        with connection:
            added = connection.execute(
                "INSERT OR IGNORE INTO outbox (idempotency_key, recipient, body) VALUES (?, ?, ?)",
                (message.idempotency_key, message.recipient, message.body),
            ).rowcount
        if added:
            return True
        kept = connection.execute(
            "SELECT recipient, body FROM outbox WHERE idempotency_key = ?", (message.idempotency_key,)
        ).fetchone()
    if kept != (message.recipient, message.body):
        raise BusinessRuleError("this tool call has already sent another message; nothing was sent now")
    return False


def sent() -> list[Message]:
    """Everything in the outbox, oldest first. Blocks on the disk."""
    with closing(_open()) as connection:
        rows = connection.execute("SELECT idempotency_key, recipient, body FROM outbox ORDER BY rowid")
        return [Message(*row) for row in rows]


def _open() -> sqlite3.Connection:
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file, timeout=_BUSY_SECONDS)
    connection.execute(_CREATE)
    return connection
