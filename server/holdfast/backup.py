"""`holdfast backup` and `holdfast restore`: the whole database in one file, and back."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from holdfast.db.dumps import dump, restore
from holdfast.db.migrate import migrate
from holdfast.doctor import opened_database
from holdfast.errors import SettingsError
from holdfast.settings import Settings


async def backed_up(settings: Settings, file: Path) -> int:
    """Write everything to `file`, while servers work or not. Returns the exit status.

    Raises:
        SettingsError: the file is there already, or cannot be there.
        DatabaseError: it did not work; there is no file then.
    """
    _check_is_free(file)
    async with opened_database(settings) as url:
        size = await asyncio.to_thread(dump, url, file)
    print(f"backed up to {file}: {size} bytes", flush=True)  # noqa: T201 - the command's answer
    return 0


async def restored(settings: Settings, file: Path) -> int:
    """Fill an empty database from `file`, and bring it up to date. Returns the exit status.

    Raises:
        SettingsError: there is no such file.
        Conflict: the database is not empty.
        DatabaseError: it did not work; the database is as empty as before.
    """
    _check_is_there(file)
    async with opened_database(settings) as url:
        await asyncio.to_thread(restore, url, file)
        applied = await migrate(url)
    since = f", and then {', '.join(applied)}" if applied else ""
    print(f"restored from {file}{since}", flush=True)  # noqa: T201 - the command's answer
    return 0


def _check_is_free(file: Path) -> None:
    if file.exists():
        raise SettingsError(f"{file} is there already")
    if not os.access(file.resolve().parent, os.W_OK):
        raise SettingsError(f"{file.resolve().parent} is no directory that can be written to")


def _check_is_there(file: Path) -> None:
    if not file.is_file():
        raise SettingsError(f"there is no file {file}")
