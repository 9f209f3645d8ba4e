"""API keys of every kind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass

import psycopg

from holdfast.db.apikeys import ApiKeys
from holdfast.db.pool import Database
from holdfast.keys import new_key
from tests.support.server import READY_SECONDS, ROOT


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a database, and `holdfast keys` on it. A key comes as its holder gets it."""

    database_url: str

    def valid(self, owner: str = "ada", *scopes: str, expires_in: float | None = None) -> str:
        """One that works. A process of its own takes a second, so this is what the command does, without it."""

        async def made() -> str:
            database = Database(self.database_url, size=4)
            await database.open()
            try:
                return await new_key(ApiKeys(database), owner, scopes, expires_in)
            finally:
                await database.close()

        return asyncio.run(made())

    def expired(self, owner: str = "ada", *scopes: str) -> str:
        """One that lived for an hour, and that hour is over."""
        key = self.valid(owner, *scopes, expires_in=3600)
        with psycopg.connect(self.database_url) as conn:
            conn.execute(
                "UPDATE holdfast.api_keys SET expires_at = now() - interval '1 second' WHERE key_id = %s", [id_of(key)]
            )
        return key

    def revoked(self, owner: str = "ada", *scopes: str) -> str:
        key = self.valid(owner, *scopes)
        with psycopg.connect(self.database_url) as conn:
            conn.execute("UPDATE holdfast.api_keys SET revoked_at = now() WHERE key_id = %s", [id_of(key)])
        return key

    def said(self, verb: str, *words: str) -> str:
        """What the command says on stdout; it has to work."""
        ended = self.run(verb, *words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def run(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "holdfast", "keys", verb, *words, "--database-url", self.database_url]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        return subprocess.run(
            command,
            env={**kept, "PYTHONPATH": str(ROOT / "server")},
            capture_output=True,
            text=True,
            timeout=READY_SECONDS,
            check=False,
        )


def id_of(key: str) -> str:
    return key.split("_")[1]


def kinds(keys: Keys) -> dict[str, dict[str, str]]:
    """The headers of a caller of each kind, all of them `ada` but the other user, for tests that go over all routes."""
    given = {
        "valid": keys.valid("ada"),
        "other user": keys.valid("bob"),
        "expired": keys.expired("ada"),
        "revoked": keys.revoked("ada"),
        "nothing": keys.valid("ada", "permission:nothing"),
        "read": keys.valid("ada", "read"),
        "write": keys.valid("ada", "write"),
        "run": keys.valid("ada", "run"),
        "approve": keys.valid("ada", "approve"),
        "admin": keys.valid("ada", "admin"),
    }
    return {"no credential": {}, **{kind: {"x-api-key": key} for kind, key in given.items()}}
