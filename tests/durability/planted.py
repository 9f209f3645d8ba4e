"""A Holdfast with a fault planted in it: what a proof has to notice, or it proves nothing.

    python -m tests.durability.planted FAULT[,FAULT] serve --config ...

The product has no switch for any of this. The faults are planted from here, into the process's own copy of the code,
before the command line runs.
"""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.store.base import Op, Result, SearchOp

from graph import ledger
from holdfast.__main__ import main
from holdfast.db import admission, checkpoints, commits, events, pool, runs, sql, store
from holdfast.worker import execute

FAST_SECONDS = 3600


def no_fence() -> None:
    """Every write counts, whoever holds the run by now."""
    token = re.compile(r" AND (fencing_token|edit_token) = %\((fence_token|token)\)s| AND status = 'running'")
    for stem, verbs in {"checkpoints": ("run_fence",), "runs": ("end",), "events": ("append",)}.items():
        named = sql.statements(stem)
        for verb in verbs:
            named[verb] = token.sub("", named[verb])


def no_binding() -> None:
    """An answer is taken for whatever is asked when its turn comes, as often as it is sent."""
    admission.verify_binding = lambda *_: None
    named = sql.statements("runs")
    named["bind_answers"] = "SELECT unnest(%(interrupt_ids)s::text[]) AS interrupt_id"


def no_save_retry() -> None:
    """A save that loses its connection is lost."""

    async def once(self: pool.Database, work: Callable[[], object], **_: object) -> object:
        return await work()

    pool.Database.retrying = once


def commits_repeated_blindly() -> None:
    """A transaction whose commit was not answered counts as undone, and is done again."""

    async def undone(*_: object) -> str:
        return "undone"

    commits.ask = undone


def no_sync_commit() -> None:
    """Postgres says "committed" before it has written anything down."""
    configure = pool._configure

    async def careless(conn: Any) -> None:
        await configure(conn)
        await conn.execute("SET synchronous_commit = off")

    pool._configure = careless


def no_ledger() -> None:
    """Nothing that the ledger of effects holds is ever found, as if there were none."""
    found = store.PooledStore.abatch

    async def forgetful(self: store.PooledStore, ops: Iterable[Op]) -> list[Result]:
        asked = list(ops)
        results = await found(self, asked)
        of_effects = [isinstance(op, SearchOp) and ledger.ROOT in op.namespace_prefix for op in asked]
        return [[] if forgotten else result for result, forgotten in zip(results, of_effects, strict=True)]

    store.PooledStore.abatch = forgetful


def jsonb_values() -> None:
    """A thread's values are what JSONB makes of them."""
    named = sql.statements("threads")
    named["put_values"] = named["put_values"].replace("value::json", "value::jsonb")


def new_run_id() -> None:
    """A run that is taken up again comes to LangGraph as a new one: its input is applied once more."""
    config = execute.Execution._config

    def forgetful(self: execute.Execution) -> RunnableConfig:
        given = config(self)
        if self.claim.attempt > 1:
            given["run_id"] = uuid4()
            for part in ("configurable", "metadata"):
                given[part]["run_id"] = str(given["run_id"])
        return given

    execute.Execution._config = forgetful


def no_requeue() -> None:
    """Dead workers are forgotten together with what they held."""
    named = sql.statements("runs")
    for verb in ("requeue_dead", "requeue_orphans"):
        named[verb] = named[verb].replace("r.status = 'running'", "false")


def drop_events() -> None:
    """Every third block of events is not logged."""
    append, blocks = runs.Runs.append, itertools.count(1)

    async def forgetful(self: runs.Runs, run: runs.Claimed, block: runs.Block) -> None:
        if next(blocks) % 3:
            await append(self, run, block)

    runs.Runs.append = forgetful


def lost_terminal() -> None:
    """Followers are told that it is over when they have heard three times of a run."""
    follow = events.EventLog.follow

    async def briefly(self: events.EventLog, *given: object) -> AsyncIterator[events.Frames]:
        heard = 0
        async for frames in follow(self, *given):
            yield frames
            heard += 1
            if heard == 3:
                return

    events.EventLog.follow = briefly


def clocks_rule() -> None:
    """The ids of checkpoints are in order only as far as the clocks of the hosts are."""
    checkpoints.come_after = lambda _: None


def fast_clock() -> None:
    """The wall clock of this process is an hour fast. Not a fault: nothing may depend on it."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + FAST_SECONDS
    time.time_ns = lambda: now_ns() + FAST_SECONDS * 10**9


FAULTS: dict[str, Callable[[], None]] = {
    "no-fence": no_fence,
    "no-binding": no_binding,
    "no-save-retry": no_save_retry,
    "no-sync-commit": no_sync_commit,
    "commits-repeated-blindly": commits_repeated_blindly,
    "no-ledger": no_ledger,
    "jsonb-values": jsonb_values,
    "new-run-id": new_run_id,
    "no-requeue": no_requeue,
    "drop-events": drop_events,
    "lost-terminal": lost_terminal,
    "clocks-rule": clocks_rule,
    "fast-clock": fast_clock,
}

if __name__ == "__main__":
    for fault in sys.argv.pop(1).split(","):
        FAULTS[fault]()
    main()
