"""The database that everything stands on: the one that is given, or a Postgres of our own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from holdfast.db.embedded import EmbeddedPostgres
from holdfast.db.pool import GROUP_CONNECTIONS
from holdfast.db.presence import wait_for
from holdfast.process import Tasks
from holdfast.settings import Settings

SPARE_CONNECTIONS = 8 + GROUP_CONNECTIONS
"""What a process takes beside its pool: group commits, bell, heartbeat, migration, a suspect's process."""


async def laid(
    settings: Settings, stack: AsyncExitStack, tasks: Tasks, absent: Callable[[], object]
) -> tuple[str, str | None]:
    """The pool's URL, and the one for LISTEN and session locks if there are sessions; the database is there then.

    Args:
        absent: called once for each URL where nobody answers yet.

    Raises:
        DatabaseUnavailable: it cannot be had.
    """
    if settings.database_url is not None:
        for url in dict.fromkeys((settings.listen_url or settings.database_url, settings.database_url)):
            await wait_for(url, absent)
        return settings.database_url, settings.listen_url
    connections = settings.processes * (settings.pool_size + SPARE_CONNECTIONS)
    postgres = EmbeddedPostgres(settings.data_dir, connections=connections)
    url = await postgres.start()
    stack.push_async_callback(postgres.stop)
    tasks.start("embedded-postgres", postgres.watch())
    return url, url
