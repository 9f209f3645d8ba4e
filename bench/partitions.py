"""Whether the tables that grow should be partitioned (docs/sharding.md, "Partitions").

    python -m bench.partitions               # some ten minutes, 10 GB of disk
    python -m bench.partitions --events 200000 --checkpoints 500000

Two databases with the same rows on the shipped embedded Postgres: `plain` as Holdfast makes it, and `parted`, where the
event log is partitioned by time (ten minutes each) and LangGraph's checkpoints by a hash of their thread (16). What is
asked of both are Holdfast's own statements, where a partitioned table can have them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from langgraph.checkpoint.postgres.base import SELECT_SQL
from psycopg import Connection
from psycopg.rows import dict_row

from bench import machine
from bench.cluster import Postgres
from bench.figures import share
from holdfast.db.migrate import migrate
from holdfast.db.sql import statements

BLOCKS_PER_RUN = 20
RUNS_PER_THREAD = 5
CHECKPOINTS_PER_THREAD = 25
TTL_SECONDS = 3600.0
"""The oldest block is of two hours ago: half of the log has expired."""

LOOKS = 2_000
GROUPS = 400
GROUP = 32

EVENTS_PARTED = """
DROP TABLE holdfast.event_blocks;
CREATE TABLE holdfast.event_blocks (
    thread_id uuid NOT NULL REFERENCES holdfast.threads ON DELETE CASCADE,
    first_seq bigint NOT NULL, last_seq bigint NOT NULL,
    run_id uuid REFERENCES holdfast.runs ON DELETE CASCADE,
    first_in_run bigint NOT NULL, frames bytea NOT NULL, created_at timestamptz NOT NULL,
    ended_runs uuid[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (thread_id, last_seq, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX ON holdfast.event_blocks (run_id, last_seq);
DO $$ BEGIN
    FOR n IN -13..1 LOOP
        EXECUTE format('CREATE TABLE holdfast.event_blocks_%s PARTITION OF holdfast.event_blocks'
                       ' FOR VALUES FROM (%L) TO (%L)',
                       n + 13, date_trunc('hour', now()) + n * interval '10 minutes',
                       date_trunc('hour', now()) + (n + 1) * interval '10 minutes');
    END LOOP;
END $$
"""

CHECKPOINTS_PARTED = """
DROP TABLE checkpoints;
CREATE TABLE checkpoints (
    thread_id text NOT NULL, checkpoint_ns text NOT NULL DEFAULT '', checkpoint_id text NOT NULL,
    parent_checkpoint_id text, type text, checkpoint jsonb NOT NULL, metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
) PARTITION BY HASH (thread_id);
CREATE INDEX checkpoints_thread_id_idx ON checkpoints (thread_id);
DO $$ BEGIN
    FOR n IN 0..15 LOOP
        EXECUTE format('CREATE TABLE checkpoints_%s PARTITION OF checkpoints'
                       ' FOR VALUES WITH (MODULUS 16, REMAINDER %s)', n, n);
    END LOOP;
END $$
"""

# Ids that both databases share; the times are those of a log that grew evenly until now.
FILL = {
    "threads": """
INSERT INTO holdfast.threads (thread_id, owner, created_at, updated_at, state_updated_at)
SELECT md5('t' || n)::uuid, 'ann', now(), now(), now() FROM generate_series(1, %(threads)s::integer) AS n""",
    "runs": """
INSERT INTO holdfast.runs (run_id, thread_id, owner, assistant_id, graph_id, status, kwargs, multitask_strategy,
                           resumable, logged, ephemeral, available_at, created_at, updated_at)
SELECT md5('r' || t || '.' || r)::uuid, md5('t' || t)::uuid, 'ann', md5('a')::uuid, 'g', 'success', '{}', 'enqueue',
       true, true, false, now(), now(), now()
FROM generate_series(1, %(logged)s::integer) AS t, generate_series(1, 5) AS r""",
    "events": """
INSERT INTO holdfast.event_blocks (thread_id, first_seq, last_seq, run_id, first_in_run, frames, created_at)
SELECT md5('t' || t)::uuid, r * 100 + b * 4 + 1, r * 100 + b * 4 + 4, md5('r' || t || '.' || r)::uuid, b * 4 + 1,
       decode(repeat(md5(t || '.' || b), 24), 'hex'),
       now() - interval '2 hours' + (t::float / %(logged)s::integer) * interval '119 minutes'
           + b * interval '50 milliseconds'
FROM generate_series(1, %(logged)s::integer) AS t, generate_series(1, 5) AS r, generate_series(0, 19) AS b""",
    "checkpoints": """
INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT md5('t' || t)::uuid::text, '', lpad(c::text, 36, '0'), lpad((c - 1)::text, 36, '0'),
       jsonb_build_object('v', 4, 'id', md5(c::text), 'pad', md5(t::text),
                          'channel_versions', jsonb_build_object('messages', md5(t::text || c)),
                          'channel_values', jsonb_build_object('status', 'so far')),
       jsonb_build_object('step', c, 'source', 'loop', 'run_id', md5('r' || t))
FROM generate_series(%(first)s::integer, %(last)s::integer) AS t, generate_series(1, 25) AS c""",
}


OLD = """
SELECT relid::regclass::text AS name
FROM pg_partition_tree('holdfast.event_blocks') JOIN pg_class c ON c.oid = relid
WHERE isleaf
  AND substring(pg_get_expr(relpartbound, c.oid) FROM $$TO \\('([^']+)$$)::timestamptz < now() - interval '1 hour'
"""

KEY = """
SELECT max((bt_metap(relname)).level) || ' levels above the leaves, '
       || round(sum(pg_relation_size(oid)) / 2 ^ 20) || ' MB'
FROM pg_class
WHERE relname ~ '^checkpoints(_[0-9]+)?_pkey$' AND relkind = 'i'
"""

APPEND = """
INSERT INTO holdfast.event_blocks (thread_id, first_seq, last_seq, run_id, first_in_run, frames, created_at)
SELECT t, %(s)s::bigint + n, %(s)s::bigint + n, r, 1, decode(repeat('ab', 400), 'hex'), now()
FROM unnest(%(t)s::uuid[], %(r)s::uuid[]) WITH ORDINALITY AS new (t, r, n)
"""

NEWEST = """
WHERE thread_id = md5('t' || %(thread)s::integer)::uuid::text AND checkpoint_ns = ''
ORDER BY checkpoint_id DESC
LIMIT 1
"""


class Place:
    """One of the two databases."""

    def __init__(self, postgres: Postgres, name: str, n_events: int, n_checkpoints: int) -> None:
        self.name = name
        self.postgres = postgres
        self.url = postgres.fresh_database(name)
        self.logged = max(1, n_events // (RUNS_PER_THREAD * BLOCKS_PER_RUN))
        self.threads = max(self.logged, n_checkpoints // CHECKPOINTS_PER_THREAD)
        asyncio.run(migrate(self.url))
        self.conn: Connection[dict[str, Any]] = psycopg.connect(
            self.url, autocommit=True, row_factory=dict_row, prepare_threshold=1
        )
        if name == "parted":
            self.conn.execute(EVENTS_PARTED, prepare=False)
            self.conn.execute(CHECKPOINTS_PARTED, prepare=False)
        # Nothing is checked while it is filled: what refers to what is known.
        self.conn.execute("SET session_replication_role = replica")
        self.conn.execute(FILL["threads"], {"threads": self.threads})
        self.conn.execute(FILL["runs"], {"logged": self.logged})
        self.conn.execute(FILL["events"], {"logged": self.logged})
        for first in range(1, self.threads + 1, 10_000):
            self.conn.execute(FILL["checkpoints"], {"first": first, "last": min(first + 9_999, self.threads)})
        self.conn.execute("RESET session_replication_role")
        self.conn.execute("VACUUM ANALYZE")
        self.conn.execute("CREATE EXTENSION pageinspect")

    def value(self, query: str) -> Any:
        row = self.conn.execute(query).fetchone()
        assert row is not None
        return next(iter(row.values()))

    @contextmanager
    def measured(self, what: str, per: float = 1.0, unit: str = "") -> Iterator[None]:
        """Says how long the block took, what CPU it cost Postgres, and how much log it wrote."""
        assert self.postgres.pid is not None
        before, cpu = self.value("SELECT pg_current_wal_insert_lsn()"), machine.cpu_seconds(self.postgres.pid)
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        cpu = machine.cpu_seconds(self.postgres.pid) - cpu
        wal = float(self.value(f"SELECT pg_current_wal_insert_lsn() - '{before}'")) / 2**20
        each = f"{1000 * took / per:.3f} ms {unit}" if unit else f"{took:.2f} s"
        print(f"| {self.name} | {what} | {each} | CPU {cpu:.2f} s | WAL {wal:.1f} MB |", flush=True)

    def timed(self, what: str, query: str, params: Callable[[], Mapping[str, Any]], times: int = LOOKS) -> None:
        """Says how long a statement takes, planned once as those of the pool are."""
        taken = []
        for _ in range(times):
            asked = params()
            began = time.perf_counter()
            cursor = self.conn.execute(query, asked)
            if cursor.description:
                cursor.fetchall()
            taken.append(1000 * (time.perf_counter() - began))
        median, high = share(taken[10:], 0.5), share(taken[10:], 0.95)
        print(f"| {self.name} | {what} | {median:.3f} ms, P95 {high:.3f} | | |", flush=True)


def ids(conn: Connection[dict[str, Any]], n: int) -> Sequence[dict[str, Any]]:
    """Threads and runs whose events are there still."""
    return conn.execute(
        "SELECT r.thread_id, r.run_id FROM holdfast.runs r TABLESAMPLE BERNOULLI (20)"
        " WHERE EXISTS (SELECT FROM holdfast.event_blocks b WHERE b.run_id = r.run_id) LIMIT %s",
        [n],
    ).fetchall()


def followed(place: Place) -> None:
    """What followers, claims and admissions ask of the log, and what runs add to it."""
    known = ids(place.conn, 5_000)
    events = statements("events")
    place.timed(
        "follow a run (read)",
        events["read"],
        lambda: {"run_id": random.choice(known)["run_id"], "after": 0, "limit": 100, "bytes": 2**18},
    )
    place.timed(
        "newest block of a thread (part of claim and admit)",
        "SELECT b.last_seq FROM holdfast.event_blocks b WHERE b.thread_id = %(thread_id)s"
        " ORDER BY b.last_seq DESC LIMIT 1",
        lambda: {"thread_id": random.choice(known)["thread_id"]},
    )
    place.timed(
        "whether runs have grown (32 at once)",
        events["grown_runs"],
        lambda: {"ids": [row["run_id"] for row in random.sample(known, GROUP)], "after": [10**6] * GROUP},
    )
    for name, runs in (("of the same runs, 20 in a row", BLOCKS_PER_RUN), ("of other runs each time", 1)):
        with place.measured(f"append 32 blocks in one commit, {name}", GROUPS, "a commit"):
            for number in range(0, GROUPS, runs):
                appended(place, random.sample(known, GROUP), 10**6 * (1 + (runs == 1)) + number * GROUP, runs)


def appended(place: Place, rows: Sequence[dict[str, Any]], first: int, times: int) -> None:
    for number in range(times):
        new = {"t": [row["thread_id"] for row in rows], "r": [row["run_id"] for row in rows]}
        place.conn.execute(APPEND, {**new, "s": first + number * GROUP})


def expired(place: Place) -> None:
    """What it takes to forget the half of the log that is older than an hour."""
    size = "SELECT sum(pg_total_relation_size(oid)) / 2 ^ 20 FROM pg_class WHERE relname ~ '^event_blocks(_[0-9]+)?$'"
    before = place.value(size)
    if place.name == "plain":
        gone = 0
        with place.measured("expire half of the log by batches of 500"):
            while n := place.conn.execute(statements("events")["expire"], {"ttl": TTL_SECONDS, "batch": 500}).rowcount:
                gone += n
        with place.measured("and vacuum it"):
            place.conn.execute("VACUUM holdfast.event_blocks")
        print(f"| plain | blocks that went | {gone} | | |")
    else:
        with place.measured("expire half of the log by dropping partitions"):
            for row in place.conn.execute(OLD).fetchall():
                place.conn.execute(f"DROP TABLE {row['name']}")
    print(
        f"| {place.name} | the log's size before and after | {before:.0f}, {place.value(size):.0f} MB | | |", flush=True
    )


def checkpointed(place: Place) -> None:
    def one() -> dict[str, Any]:
        return {"thread": random.randint(1, place.threads)}

    place.timed("newest checkpoint (LangGraph's own statement)", SELECT_SQL + NEWEST, one)
    number = iter(range(1000, 10**9))

    def group() -> dict[str, Any]:
        return {"t": random.sample(range(1, place.threads), GROUP), "c": next(number)}

    place.timed(
        "save 32 checkpoints in one commit",
        "INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)"
        " SELECT md5('t' || t)::uuid::text, '', lpad(%(c)s::integer::text, 36, '0'), '{\"v\": 4}', '{\"step\": 1}'"
        " FROM unnest(%(t)s::integer[]) AS t",
        group,
        GROUPS,
    )
    names = [f"t{n}" for n in range(1, place.threads, 100)]
    with place.measured(f"delete {len(names)} threads' checkpoints", len(names), "a thread"):
        for start in range(0, len(names), 50):
            query = (
                "DELETE FROM checkpoints WHERE thread_id = ANY"
                " (ARRAY(SELECT md5(n)::uuid::text FROM unnest(%(names)s::text[]) AS n))"
            )
            place.conn.execute(query, {"names": names[start : start + 50]})
    with place.measured("and vacuum"):
        place.conn.execute("VACUUM checkpoints")
    print(f"| {place.name} | primary key of checkpoints | {place.value(KEY)} | | |", flush=True)


def main(n_events: int, n_checkpoints: int) -> None:
    random.seed(7)
    with tempfile.TemporaryDirectory(prefix="open-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        with Postgres.embedded(Path(name) / "cluster") as postgres:
            print("| database | what | time | CPU | WAL |\n|---|---|---|---|---|")
            for which in ("plain", "parted"):
                place = Place(postgres, which, n_events, n_checkpoints)
                followed(place)
                expired(place)
                checkpointed(place)
                place.conn.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--checkpoints", type=int, default=5_000_000)
    given = parser.parse_args()
    main(given.events, given.checkpoints)
