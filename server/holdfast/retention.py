"""`holdfast prune`: make a database smaller now, or say what that would do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import UUID

from holdfast.db.bell import Bell
from holdfast.db.events import EventLog
from holdfast.db.pool import Database
from holdfast.db.pruning import Pruning
from holdfast.db.runs import Runs
from holdfast.db.threads import Threads
from holdfast.doctor import opened_database
from holdfast.errors import SettingsError
from holdfast.project import load_project
from holdfast.rules.caller import SERVER
from holdfast.rules.duration import seconds_of
from holdfast.rules.thread import Strategy
from holdfast.settings import Settings
from holdfast.wire import sse
from holdfast.worker.checkpointers import opened_checkpointer
from holdfast.worker.graphs import Graphs
from holdfast.worker.pruning import Pruner
from holdfast.worker.stores import opened_store

BATCH = 100
MOST_DUE = 1_000_000


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be pruned: threads unused for so many seconds; None: those whose own time is up, each in its way."""

    older_than: int | None
    strategy: Strategy
    interrupted: bool
    dry_run: bool


def age(text: str) -> int:
    """`90m`, `12h`, `30d`, `8w` in seconds.

    Raises:
        SettingsError: anything else.
    """
    try:
        return seconds_of(text)
    except ValueError as problem:
        raise SettingsError(f"--older-than: {problem}") from None


async def pruned(settings: Settings, wish: Wish) -> int:
    """Prune, or estimate, all owners' threads; one line of result. Returns the exit status."""
    project = load_project(settings.config)
    threads = freed = 0
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(opened_database(settings))
        database = Database(url, size=4)
        await database.open()
        stack.push_async_callback(database.close)
        graphs = await Graphs.load(project)
        stack.callback(graphs.close)
        checkpointer = opened_checkpointer(project, settings, graphs)
        database.checkpoints_elsewhere = await stack.enter_async_context(checkpointer)
        store = await stack.enter_async_context(opened_store(project, graphs, database))
        bell = Bell(database, None)
        stack.push_async_callback(bell.close)
        events = EventLog(database, Runs(database), bell, sse.split)
        pruner = Pruner(database, Threads(database), graphs, store, events)
        async for strategy, thread_ids in _found(Pruning(database), wish):
            if wish.dry_run:
                count, size = await pruner.estimate(SERVER, thread_ids, strategy, interrupted=wish.interrupted)
                threads, freed = threads + count, freed + size
            else:
                threads += len(await pruner.prune(SERVER, thread_ids, strategy, interrupted=wish.interrupted))
    said = (
        f"would prune {threads} threads and free about {freed} bytes" if wish.dry_run else f"pruned {threads} threads"
    )
    print(said, flush=True)  # noqa: T201 - this is what the command is for
    return 0


async def _found(pruning: Pruning, wish: Wish) -> AsyncIterator[tuple[Strategy, Sequence[UUID]]]:
    """The threads in question, some at a time."""
    if wish.older_than is None:
        strategies: tuple[Strategy, ...] = ("delete", "keep_latest")
        for strategy in strategies:
            due = await pruning.expired(strategy, limit=MOST_DUE, interrupted=wish.interrupted)
            for start in range(0, len(due), BATCH):
                yield strategy, due[start : start + BATCH]
        return
    after = UUID(int=0)
    while found := await pruning.unused(
        seconds=wish.older_than, interrupted=wish.interrupted, after=after, limit=BATCH
    ):
        yield wish.strategy, found
        after = found[-1]
