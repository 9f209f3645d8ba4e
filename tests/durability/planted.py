"""A Holdfast with a fault planted in it: what a proof has to notice, or it proves nothing.

    python -m tests.durability.planted FAULT[,FAULT] serve --config ...

The product has no switch for any of this. The faults are planted from here, into the process's own copy of the code,
before the command line runs.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.store.base import Op, Result, SearchOp
from psycopg import AsyncConnection
from uvicorn.protocols.http import flow_control

from graph import ledger
from holdfast import working
from holdfast.__main__ import main
from holdfast.db import admission, checkpoints, commits, events, liveness, news, pool, runs, sql, store
from holdfast.worker import beginning, execute, exits, loop

Follow = Callable[..., AsyncIterator[Any]]
FAST_SECONDS = 3600


def _rewrite(stem: str, verb: str, pattern: str, replacement: str) -> None:
    """Change a statement; one that does not have what is to be changed is a fault that is not planted any more."""
    named = sql.statements(stem)
    named[verb], changed = re.subn(pattern, replacement, named[verb], flags=re.DOTALL)
    assert changed, f"{stem}.{verb} has no {pattern}"


def no_fence() -> None:
    """Every write counts, whoever holds the run by now."""
    token = r" AND (fencing_token|edit_token) = %\((fence_token|token)\)s| AND status = 'running'"
    for stem, verb in {"checkpoints": "run_fence", "runs": "end", "events": "append"}.items():
        _rewrite(stem, verb, token, "")


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
    _rewrite("threads", "put_values", "value::json", "value::jsonb")


def connection_each() -> None:
    """Every stream holds a connection to the database."""

    def holding(follow: Follow) -> Follow:
        async def held(self: events.EventLog, *args: Any) -> AsyncIterator[Any]:
            async with await AsyncConnection.connect(self._database.pool.conninfo):
                async for each in follow(self, *args):
                    yield each

        return held

    _around_streams(holding)


def look_each() -> None:
    """Every stream that waits looks for itself."""
    news.LOGS_PER_LOOK = 1


def ballast() -> None:
    """Every stream holds more memory than it needs."""

    def holding(follow: Follow) -> Follow:
        async def held(self: events.EventLog, *args: Any) -> AsyncIterator[Any]:
            weight = bytearray(b"x" * 2**16)
            async for each in follow(self, *args):
                yield each
            weight.clear()

        return held

    _around_streams(holding)


def no_flow_control() -> None:
    """Whatever a client does not read is kept in memory."""
    flow_control.FlowControl.pause_writing = lambda _: None


def _around_streams(wrapped: Callable[[Follow], Follow]) -> None:
    for verb in ("follow", "follow_thread"):
        setattr(events.EventLog, verb, wrapped(getattr(events.EventLog, verb)))


def no_requeue() -> None:
    """Dead workers are forgotten together with what they held."""
    for verb in ("requeue_dead", "requeue_orphans"):
        _rewrite("queue", verb, "r\\.status = 'running'", "false")


def new_run_id() -> None:
    """A run that is taken up again comes to LangGraph as a new one: its input is applied once more."""
    config = beginning.Beginning.config

    def forgetful(self: beginning.Beginning) -> RunnableConfig:
        given = config(self)
        if self._claim.attempt > 1:
            given["run_id"] = uuid4()
            for part in ("configurable", "metadata"):
                given[part]["run_id"] = str(given["run_id"])  # type: ignore[literal-required]
        return given

    beginning.Beginning.config = forgetful


def saves_late() -> None:
    """Checkpoints are written at a run's end, whatever was asked for."""
    loaded = execute.RunKwargs.load
    execute.RunKwargs.load = lambda kwargs: replace(loaded(kwargs), durability="exit")


def no_order() -> None:
    """Who comes last is served first, and whoever comes while nobody is served is served at once."""
    for verb in ("claim", "claim_this"):
        _rewrite("queue", verb, r"AND NOT EXISTS \(\s+SELECT FROM holdfast.runs earlier.+?NOT earlier\.held\)", "")
    _rewrite("queue", "claim", r"ORDER BY \(r\.available_at.+?, r\.seq", "ORDER BY r.seq DESC")
    # Of one thread only one may run: more at once would be refused, and nobody would be served at all.
    _rewrite("queue", "claim", r"LIMIT %\(limit\)s", "LIMIT least(%(limit)s, 1)")


def no_reject() -> None:
    """A thread is never busy."""
    admission.admission = lambda *_, **__: admission.Plan.WAIT


def no_death() -> None:
    """Only its lease tells that a worker is dead."""
    liveness.is_dead = lambda signs, *, observing_for, lease: signs.lease_over and observing_for >= lease


def no_budget() -> None:
    """A run may take down as many workers as it likes."""
    for verb in ("requeue_dead", "requeue_orphans"):
        _rewrite("queue", verb, r"CASE WHEN.+?END", "0")


def no_containment() -> None:
    """User code may end the process."""
    exits.contain = lambda _: None


def no_drain() -> None:
    """A process that leaves breaks its runs off instead of waiting for their step."""
    drain = loop.Worker.drain
    loop.Worker.drain = lambda self, _: drain(self, 0)


def no_reconcile() -> None:
    """A worker that was judged dead does not look what is still its own."""

    async def nothing(_: loop.Worker) -> None:
        return None

    loop.Worker.reconcile = nothing


def no_thread() -> None:
    """The event loop keeps the lease."""
    start, beat = working._start_worker, liveness.Liveness._beat

    async def start_on_the_loop(*given: object) -> None:
        loop = asyncio.get_running_loop()

        def beat_on_the_loop(self: liveness.Liveness, conn: object) -> bool:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
            return beat(self, conn)

        liveness.Liveness._beat = beat_on_the_loop
        await start(*given)

    working._start_worker = start_on_the_loop


def plant(faults: str) -> None:
    """Plant these, with commas between them, into this process."""
    for fault in filter(None, faults.split(",")):
        FAULTS[fault]()


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


def dies_after_repair() -> None:
    """The process is gone as soon as a history has been repaired, before the input is applied."""
    repair = beginning.answer_dangling_calls

    async def repair_and_die(*given: Any) -> Any:
        if await repair(*given) is not None:
            os.kill(os.getpid(), signal.SIGKILL)

    beginning.answer_dangling_calls = repair_and_die


FAULTS: dict[str, Callable[[], None]] = {
    "no-fence": no_fence,
    "no-binding": no_binding,
    "no-save-retry": no_save_retry,
    "no-sync-commit": no_sync_commit,
    "commits-repeated-blindly": commits_repeated_blindly,
    "no-ledger": no_ledger,
    "jsonb-values": jsonb_values,
    "connection-each": connection_each,
    "look-each": look_each,
    "ballast": ballast,
    "no-flow-control": no_flow_control,
    "no-requeue": no_requeue,
    "new-run-id": new_run_id,
    "saves-late": saves_late,
    "no-order": no_order,
    "no-reject": no_reject,
    "no-death": no_death,
    "no-budget": no_budget,
    "no-containment": no_containment,
    "no-drain": no_drain,
    "no-reconcile": no_reconcile,
    "no-thread": no_thread,
    "drop-events": drop_events,
    "lost-terminal": lost_terminal,
    "clocks-rule": clocks_rule,
    "fast-clock": fast_clock,
    "dies-after-repair": dies_after_repair,
}

if __name__ == "__main__":
    plant(sys.argv.pop(1))
    main()
