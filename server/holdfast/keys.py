"""`holdfast keys`: make, show, rotate and revoke API keys.

A key is shown once, on stdout and alone, so that it can be piped to where it belongs; all else is said on stderr.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from holdfast.db.apikeys import ApiKeys
from holdfast.db.migrate import pending
from holdfast.db.pool import Database
from holdfast.doctor import opened_database
from holdfast.errors import SettingsError
from holdfast.rules.apikey import ID_BYTES, SECRET_BYTES, parsed, written
from holdfast.rules.caller import SERVER
from holdfast.rules.duration import seconds_of
from holdfast.rules.scope import ALL, USUAL, unknown
from holdfast.settings import Settings

LONGEST_OWNER = 256
COLUMNS = ("id", "owner", "state", "scopes", "created", "expires", "last used")


async def created(settings: Settings, owner: str, scopes: Sequence[str], expires: str | None) -> int:
    """Make a key and show it. Returns the exit status.

    Raises:
        SettingsError: no such scope, no such duration, or no name to own anything.
    """
    if not owner.isprintable() or not 0 < len(owner) <= LONGEST_OWNER or owner == SERVER.owner:
        raise SettingsError(f"{owner!r} cannot be an owner: 1 to {LONGEST_OWNER} printable characters")
    if strange := unknown(scopes):
        known = ", ".join(sorted(ALL))
        raise SettingsError(f"--scope: {', '.join(strange)}: must be one of {known}, or permission:<name>")
    expires_in = _seconds("--expires", expires) if expires is not None else None
    if expires_in == 0:
        raise SettingsError("--expires: a key has to live for a while")
    async with _opened(settings) as keys:
        text = await new_key(keys, owner, scopes, expires_in)
    _show(text, f"a key of {owner}, shown this once")
    return 0


async def new_key(keys: ApiKeys, owner: str, scopes: Sequence[str], expires_in: float | None) -> str:
    """Make a key; without scopes it has the usual ones."""
    text = _minted(secrets.token_bytes(ID_BYTES))
    key = parsed(text)
    assert key is not None
    await keys.create(key, owner=owner, scopes=sorted(set(scopes) or USUAL), expires_in=expires_in)
    return text


async def listed(settings: Settings) -> int:
    """Show all keys, without their secrets. Returns the exit status."""
    async with _opened(settings) as keys:
        rows = await keys.all()
    lines = [COLUMNS]
    for row in rows:
        when = [_day(row[name]) for name in ("created_at", "expires_at", "last_used_at")]
        lines.append((row["key_id"], row["owner"], row["condition"], " ".join(row["scopes"]), *when))
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    for line in lines:
        shown = "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True))
        print(shown.rstrip(), flush=True)  # noqa: T201 - this is what the command is for
    return 0


async def rotated(settings: Settings, key_id: str, grace: str) -> int:
    """Give a key a new secret and show it; the old one lives on for `grace`. Returns the exit status.

    Raises:
        SettingsError: no such key, or no such duration.
    """
    seconds = _seconds("--grace", grace)
    text = _minted(_id_bytes(key_id))
    key = parsed(text)
    assert key is not None
    async with _opened(settings) as keys:
        if not await keys.rotate(key, grace=seconds):
            raise _no_such_key(key_id)
    _show(text, f"key {key_id}; the old secret {f'works for {grace}' if seconds else 'stops working within seconds'}")
    return 0


async def revoked(settings: Settings, key_id: str) -> int:
    """Make a key worthless. Returns the exit status.

    Raises:
        SettingsError: no such key.
    """
    _id_bytes(key_id)
    async with _opened(settings) as keys:
        if not await keys.revoke(key_id):
            raise _no_such_key(key_id)
    print(f"key {key_id} is revoked; no server accepts it a few seconds from now", file=sys.stderr)  # noqa: T201
    return 0


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[ApiKeys]:
    async with opened_database(settings) as url:
        if missing := await pending(url):
            raise SettingsError(f"the database is not up to date, run holdfast migrate: {', '.join(missing)}")
        database = Database(url, size=4)
        await database.open()
        try:
            yield ApiKeys(database)
        finally:
            await database.close()


def _minted(key_id: bytes) -> str:
    return written(key_id, secrets.token_bytes(SECRET_BYTES))


def _id_bytes(text: str) -> bytes:
    """A key's id; never what was given, which may be a whole key, in an error."""
    try:
        key_id = bytes.fromhex(text)
    except ValueError:
        key_id = b""
    if len(key_id) != ID_BYTES or key_id.hex() != text:
        raise SettingsError(f"that is no key's id: {2 * ID_BYTES} digits, the part between the underscores of hf_…_…")
    return key_id


def _no_such_key(key_id: str) -> SettingsError:
    return SettingsError(f"there is no key {key_id} that works")


def _seconds(option: str, text: str) -> int:
    try:
        return seconds_of(text)
    except ValueError as problem:
        raise SettingsError(f"{option}: {problem}") from None


def _day(moment: datetime | None) -> str:
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M")


def _show(key: str, about: str) -> None:
    print(about, file=sys.stderr, flush=True)  # noqa: T201
    print(key, flush=True)  # noqa: T201 - this is what the command is for
