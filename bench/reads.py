"""What a read replica takes off the primary, and what a read costs that goes there (docs/read-replicas.md).

    python -m bench.reads                    # some two minutes

Two Postgres on this machine, one streaming from the other, and one process that searches threads by both: its 20
newest with their values, and all whose values contain something (which looks at every thread). Meanwhile another
connection commits all the time, so that there is always something to catch up with. CPU is that of the whole tree of
each Postgres for one search; on the replica it includes the replay of what is committed meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection

from bench import machine
from bench.figures import share
from holdfast.db.migrate import migrate
from holdfast.db.pool import Database
from holdfast.db.replica import Replica
from holdfast.db.threads import Threads
from holdfast.db.threadsearch import Page, ThreadFilter
from holdfast.rules.caller import Caller
from tests.db.standbys import Primary, Standby, primary, standby

WHO = Caller("ann")
FILL = """
INSERT INTO holdfast.threads (thread_id, owner, checkpoint_id, created_at, updated_at, state_updated_at)
SELECT gen_random_uuid(), 'ann', 'c', t, t, t
FROM (SELECT now() - n * interval '1 second' AS t FROM generate_series(1, %s) AS n) AS times;
"""
FILL_VALUES = """
INSERT INTO holdfast.thread_values (thread_id, channel, idx, value)
SELECT thread_id, 'messages', i, json_build_object('type', 'ai', 'content', repeat(md5(thread_id::text || i), 15))
FROM holdfast.threads, generate_series(0, 19) AS i
"""
HEAD = """| search | commits/s | answered by | median, ms | P95, ms | CPU: primary, ms | replica, ms | by replica |
|---|---|---|---|---|---|---|---|"""
CASES: Mapping[str, tuple[ThreadFilter, int]] = {
    "the 20 newest, with values": (ThreadFilter(), 600),
    "whose values contain": (ThreadFilter(values={"messages": [{"content": "nothing"}]}), 10),
}


@dataclass(frozen=True)
class Cost:
    """Of one search."""

    median_ms: float
    p95_ms: float
    primary_cpu_ms: float
    replica_cpu_ms: float
    by_replica: float


async def measured(source: Primary, copy: Standby, terms: ThreadFilter, times: int, *, by_replica: bool) -> Cost:
    database = Database(source.url, size=8)
    await database.open()
    replica = Replica(database, copy.url, wait=0.05)
    await replica.open()
    watching = asyncio.create_task(replica.watch())
    if by_replica:
        database.reader = replica
        while not replica.is_fit:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    threads, page = Threads(database), Page(20)
    for _ in range(5):
        await threads.search(WHO, terms, page)
    replica.reads.clear()
    pids = [source.pid, copy.pid]
    before, taken = [machine.cpu_seconds(pid) for pid in pids], []
    for _ in range(times):
        began = time.perf_counter()
        await threads.search(WHO, terms, page)
        taken.append(1000 * (time.perf_counter() - began))
    at_primary, at_replica = (
        1000 * (machine.cpu_seconds(pid) - had) / times for pid, had in zip(pids, before, strict=True)
    )
    watching.cancel()
    await asyncio.wait([watching])
    await replica.close()
    await database.close()
    return Cost(share(taken, 0.5), share(taken, 0.95), at_primary, at_replica, replica.reads["replica"] / times)


@asynccontextmanager
async def committing(url: str, per_second: float) -> AsyncIterator[None]:
    """Somebody else's commits, all the while."""

    async def commit() -> None:
        async with await AsyncConnection.connect(url, autocommit=True) as conn:
            while True:
                await conn.execute("UPDATE holdfast.workers SET seen_at = now()")
                await asyncio.sleep(1 / per_second)

    task = asyncio.create_task(commit())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def main(n_threads: int) -> None:
    with primary() as source:
        await migrate(source.url)
        with psycopg.connect(source.url, autocommit=True) as conn:
            conn.execute(FILL, [n_threads], prepare=False)
            conn.execute(FILL_VALUES)
            conn.execute(
                "INSERT INTO holdfast.workers"
                " (worker_id, host, pid, lock_key, has_lock, started_at, seen_at, lease_until)"
                " VALUES (gen_random_uuid(), 'bench', 1, 1, false, now(), now(), now())"
            )
            conn.execute("VACUUM ANALYZE")
        with standby(source, "copy") as copy:
            print(HEAD)
            for name, (terms, times) in CASES.items():
                for rate in (0.1, 200.0):
                    for by_replica in (False, True):
                        async with committing(source.url, rate):
                            cost = await measured(source, copy, terms, times, by_replica=by_replica)
                        print(
                            f"| {name} | {rate:g} | {'replica' if by_replica else 'primary'} | {cost.median_ms:.1f} |"
                            f" {cost.p95_ms:.1f} | {cost.primary_cpu_ms:.2f} | {cost.replica_cpu_ms:.2f} |"
                            f" {100 * cost.by_replica:.0f}% |",
                            flush=True,
                        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=5_000)
    asyncio.run(main(parser.parse_args().threads))
