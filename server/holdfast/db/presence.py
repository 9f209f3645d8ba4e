"""Waiting for a database that is not there yet: a server may be started before its Postgres."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import psycopg
from psycopg import AsyncConnection

from holdfast.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 3
PAUSE_SECONDS = 0.1
SAY_EVERY_SECONDS = 10.0

# libpq has no code for why a connection was refused. Without FATAL nobody answered at all.
_SOON = ("the database system is", "too many", "server login has been failing", "cannot connect to server")


async def wait_for(url: str, absent: Callable[[], object]) -> None:
    """Until the database accepts connections; says in the log what it waits for.

    Args:
        absent: called once if it is not there at once.

    Raises:
        DatabaseUnavailable: it is there, but not for us (a wrong password, no such database): waiting cannot help.
    """
    said = float("-inf")
    while (problem := await _problem(url)) is not None:
        if said == float("-inf"):
            absent()
        if time.monotonic() - said >= SAY_EVERY_SECONDS:
            logger.warning("waiting for the database: %s", problem)
            said = time.monotonic()
        await asyncio.sleep(PAUSE_SECONDS)
    if said > float("-inf"):
        logger.warning("the database is there")


async def _problem(url: str) -> str | None:
    try:
        async with await AsyncConnection.connect(url, connect_timeout=CONNECT_SECONDS):
            return None
    except psycopg.OperationalError as error:
        problem = str(error)
    except psycopg.Error as error:
        raise DatabaseUnavailable(str(error)) from error
    if "FATAL" in problem and not any(soon in problem for soon in _SOON):
        raise DatabaseUnavailable(problem)
    return problem
