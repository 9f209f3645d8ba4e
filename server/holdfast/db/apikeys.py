"""API keys: who holds which, and until when. Their secrets are not here; their hashes are."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.rows import DictRow

from holdfast.db.pool import Database, repeated
from holdfast.db.sql import statements
from holdfast.rules.apikey import ApiKey

USED_SECONDS = 60.0
"""How often, at most, it is written down that a key was used."""


class ApiKeys:
    """The repository of API keys. It has no owners: only the gate and the operator's command line come here."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("apikeys")

    @repeated
    async def find(self, key_id: str) -> DictRow | None:
        """What is known of a key that is neither revoked nor expired; from the primary, so that this is so now."""
        async with self._database.connection("api") as conn:
            return await (await conn.execute(self._sql["find"], {"key_id": key_id})).fetchone()

    async def used(self, key_id: str) -> None:
        """Write down that a key was used, unless that was done in the last minute."""
        await self._change("used", key_id=key_id, every=USED_SECONDS)

    async def create(self, key: ApiKey, *, owner: str, scopes: Sequence[str], expires_in: float | None) -> None:
        given = {"owner": owner, "scopes": list(scopes), "expires_in": expires_in}
        await self._change("create", key_id=key.key_id, digest=key.digest, **given)

    async def rotate(self, key: ApiKey, *, grace: float) -> bool:
        """Replace the secret of a key, which is good for `grace` more seconds; whether there is such a key."""
        return await self._change("rotate", key_id=key.key_id, digest=key.digest, grace=grace)

    async def revoke(self, key_id: str) -> bool:
        """Whether there was something to revoke."""
        return await self._change("revoke", key_id=key_id)

    @repeated
    async def all(self) -> list[DictRow]:
        """Every key that ever was, by owner."""
        async with self._database.connection("api") as conn:
            return await (await conn.execute(self._sql["all"])).fetchall()

    @repeated
    async def _change(self, verb: str, /, **params: object) -> bool:
        async with self._database.connection("api") as conn:
            return (await conn.execute(self._sql[verb], params)).rowcount > 0
