"""Keys that the database knows, as a way in.

What the database said of a key is good for `KNOWN_SECONDS` in this process, counted from before it was asked: a key
that is revoked opens no door after that, in any process, and a key in use costs no query per request. What is
remembered is bounded, and so are the lookups under way: made-up keys push no real one out, and do not take the
database's connections.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from holdfast.api.newest import Newest
from holdfast.db.apikeys import USED_SECONDS, ApiKeys
from holdfast.errors import DatabaseError
from holdfast.rules.apikey import parsed
from holdfast.rules.caller import Caller
from holdfast.rules.scope import Scope, granted, permissions

KNOWN_SECONDS = 3.0
MOST_KNOWN = 4096
MOST_UNKNOWN = 1024
LOOKUPS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a key until `stale`; all times are the process's own."""

    stale: float
    caller: Caller | None
    digest: bytes
    until: float
    old_digest: bytes
    old_until: float
    used: float


class StoredKeys:
    """API keys of the database."""

    def __init__(self, keys: ApiKeys, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._known: Newest[str, _Known] = Newest(MOST_KNOWN)
        self._unknown: Newest[str, _Known] = Newest(MOST_UNKNOWN)
        self._noted: Newest[str, float] = Newest(MOST_KNOWN)
        self._lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        # Nobody has the key that this is of; who asks for a key that is not there is compared with it all the same.
        self._nobodys = secrets.token_bytes(32)

    async def caller(self, credential: str) -> Caller | None:
        key = parsed(credential)
        if key is None:
            return None
        known = await self._find(key.key_id)
        now = self._clock()
        current = hmac.compare_digest(known.digest, key.digest) & (now < known.until)
        former = hmac.compare_digest(known.old_digest, key.digest) & (now < known.old_until)
        if not (current | former):
            return None
        await self._note_use(key.key_id, known, now)
        return known.caller

    async def _find(self, key_id: str) -> _Known:
        if found := self._remembered(key_id):
            return found
        async with self._lookups:
            # Whoever was here before has asked the same, when a key becomes stale that is in much use.
            return self._remembered(key_id) or await self._look_up(key_id)

    def _remembered(self, key_id: str) -> _Known | None:
        found = self._known.get(key_id) or self._unknown.get(key_id)
        return found if found is not None and self._clock() < found.stale else None

    async def _look_up(self, key_id: str) -> _Known:
        asked = self._clock()
        row = await self._keys.find(key_id)
        if row is None:
            nobodys = self._nobodys
            found = _Known(asked + KNOWN_SECONDS, None, nobodys, -inf, nobodys, -inf, inf)
            self._unknown.put(key_id, found)
            return found
        found = _Known(
            stale=asked + KNOWN_SECONDS,
            caller=_caller(row["owner"], row["scopes"]),
            digest=bytes(row["digest"]),
            until=inf if row["lives"] is None else asked + row["lives"],
            old_digest=bytes(row["old_digest"] or self._nobodys),
            old_until=-inf if row["old_lives"] is None else asked + row["old_lives"],
            used=asked - row["unused"],
        )
        self._known.put(key_id, found)
        return found

    async def _note_use(self, key_id: str, known: _Known, now: float) -> None:
        last = self._noted.get(key_id)
        if now - max(known.used, -inf if last is None else last) < USED_SECONDS:
            return
        self._noted.put(key_id, now)
        with suppress(DatabaseError):  # nobody is turned away for this
            await self._keys.used(key_id)


def _caller(owner: str, names: list[str]) -> Caller:
    scopes = granted(names)
    return Caller(owner, scopes=scopes, permissions=permissions(names), alone=Scope.ADMIN in scopes)
