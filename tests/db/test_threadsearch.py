"""Searching among a hundred thousand threads, and reading a long history, goes along the indexes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from hashlib import md5
from typing import Any
from uuid import UUID

import psycopg
import pytest
from langgraph.checkpoint.postgres.base import SELECT_SQL

from holdfast.db.pool import Connection
from holdfast.db.threadsearch import Page, SortBy, ThreadFilter, counting, getting, searching
from holdfast.rules.caller import Caller, Sight
from tests.db.stage import ANN, BOB, Stage, opened, outcome
from tests.support.postgres import Cluster

pytestmark = pytest.mark.anyio

THREADS = """
INSERT INTO holdfast.threads
    (thread_id, owner, status, metadata, checkpoint_id, created_at, updated_at, state_updated_at)
SELECT md5(n::text)::uuid, CASE WHEN n <= 100000 THEN 'ann' ELSE 'other' || n % 100 END,
       (ARRAY['interrupted', 'error', 'idle', 'idle', 'idle', 'idle', 'idle', 'idle', 'idle', 'idle'])[1 + n % 10],
       jsonb_build_object('graph_id', 'agent', 'user', 'u' || n % 1000, 'number', n), 'c',
       now() - make_interval(secs => n * 7 % 100003), now() - make_interval(secs => n * 13 % 100003),
       now() - make_interval(secs => n * 29 % 100003)
FROM generate_series(1, 150000) n"""

CHECKPOINTS = """
INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT 't' || n % 20, '', to_char(n, 'FM00000000'), to_char(n - 20, 'FM00000000'),
       '{"channel_versions": {}}', '{"source": "loop"}'
FROM generate_series(1, 20000) n"""


@pytest.fixture(scope="module")
def crowded_url(cluster: Cluster) -> Iterator[str]:
    """A hundred thousand threads of Ann's, half as many of others', and twenty histories of a thousand checkpoints."""
    with cluster.database() as url:
        with psycopg.connect(url, autocommit=True) as conn:
            # Until somebody says VACUUM ANALYZE there are no statistics at all.
            for table in ("holdfast.threads", "checkpoints"):
                conn.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
            conn.execute(THREADS)
            conn.execute(CHECKPOINTS)
        yield url


@pytest.fixture(scope="module", params=["fresh", "analysed"])
def statistics(crowded_url: str, request: pytest.FixtureRequest) -> str:
    if request.param == "analysed":
        with psycopg.connect(crowded_url, autocommit=True) as conn:
            conn.execute("VACUUM ANALYZE")
    return str(request.param)


@pytest.fixture
async def conn(crowded_url: str, statistics: str) -> AsyncIterator[Connection]:
    """A connection as requests get one."""
    async with opened(crowded_url, size=1) as stage, stage.database.connection("api") as conn:
        yield conn


def numbered(*numbers: int) -> list[UUID]:
    """The ids of threads by number."""
    return [UUID(md5(str(number).encode()).hexdigest()) for number in numbers]


TERMS: Mapping[str, ThreadFilter] = {
    "all": ThreadFilter(),
    "metadata of one": ThreadFilter(metadata={"number": 777}),
    "metadata of a hundred": ThreadFilter(metadata={"user": "u7"}),
    "metadata of everything": ThreadFilter(metadata={"graph_id": "agent"}),
    "status": ThreadFilter(status="interrupted"),
    "ids": ThreadFilter(ids=numbered(1, 2, 3, 140_000)),
    "metadata and status": ThreadFilter(metadata={"user": "u7"}, status="idle"),
}
analysed = pytest.mark.parametrize("statistics", ["analysed"], indirect=True)
SORTS: tuple[SortBy, ...] = ("thread_id", "status", "created_at", "updated_at", "state_updated_at")


@pytest.mark.parametrize("descending", [True, False], ids=["down", "up"])
@pytest.mark.parametrize("sort_by", SORTS)
@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
async def test_no_search_reads_the_whole_table(
    conn: Connection, terms: ThreadFilter, sort_by: SortBy, descending: bool
) -> None:
    page = Page(limit=11, sort_by=sort_by, descending=descending)
    assert "Seq Scan" not in await scans(conn, searching(ANN, terms, page), "threads")


@analysed
@pytest.mark.parametrize("sort_by", SORTS)
async def test_a_sorted_page_reads_little_more_than_the_page(conn: Connection, sort_by: SortBy) -> None:
    query = searching(ANN, ThreadFilter(), Page(limit=11, sort_by=sort_by))
    # Threads of others lie in between only where the order is that of the ids.
    assert sum(await rows_read(conn, query, "threads")) <= 100


@pytest.mark.parametrize("terms", ["metadata of one", "metadata of a hundred", "status", "ids"])
async def test_no_count_of_a_part_reads_the_whole_table(conn: Connection, terms: str) -> None:
    assert "Seq Scan" not in await scans(conn, counting(ANN, TERMS[terms]), "threads")


async def test_counting_everything_of_ones_own_reads_an_index(conn: Connection) -> None:
    assert "Seq Scan" not in await scans(conn, counting(ANN, ThreadFilter()), "threads")


async def test_one_thread_is_read_by_its_key(conn: Connection) -> None:
    [thread_id] = numbered(5)
    assert await rows_read(conn, getting(ANN, thread_id), "threads") == [1]


async def test_somebody_with_few_threads_reads_only_those(conn: Connection) -> None:
    query = searching(Caller("other7"), ThreadFilter(), Page(limit=1000))
    assert sum(await rows_read(conn, query, "threads")) <= 500


@analysed
async def test_what_a_filter_of_the_project_lets_through_is_found_by_its_index(conn: Connection) -> None:
    matching = Caller("x", Sight.MATCHING, ({"user": "u7"}, {"user": "u8"}))
    assert await scans(conn, searching(matching, ThreadFilter(), Page(limit=11)), "threads") == ["Bitmap Heap Scan"]


@pytest.mark.parametrize("before", ["", " AND checkpoint_id < '00010000'"])
async def test_a_page_of_a_long_history_reads_the_page(conn: Connection, before: str) -> None:
    where = f"WHERE thread_id = 't7' AND checkpoint_ns = ''{before} ORDER BY checkpoint_id DESC LIMIT 10"
    assert await rows_read(conn, (SELECT_SQL + where, {}), "checkpoints") == [10]


# --- what is found ---


async def test_an_order_by_status_goes_on_by_the_last_activity(stage: Stage) -> None:
    busy, first, second = [await stage.thread() for _ in range(3)]
    await stage.admit(busy)
    await stage.threads.patch(ANN, first, {"touched": True})
    for descending, expected in ((True, [first, second, busy]), (False, [busy, second, first])):
        page = Page(limit=5, sort_by="status", descending=descending)
        rows = await stage.threads.search(ANN, ThreadFilter(), page)
        assert [row["thread_id"] for row in rows] == expected


async def test_only_what_is_asked_for_leaves_the_database(stage: Stage) -> None:
    thread_id = await stage.thread()
    token = await stage.threads.begin_edit(ANN, thread_id)
    await stage.threads.end_edit(thread_id, token, outcome({"log": [b'{"a":1}', b'{"a":2}'], "text": b'"x"'}))
    page = Page(limit=1, with_values=False, extract={"last": ("values", "log", -1, "a")})
    [row] = await stage.threads.search(ANN, ThreadFilter(), page)
    assert (row["values"], json.loads(row["extracted"])) == (None, {"last": 2})


EXTRACTS: list[tuple[tuple[str | int, ...], Any]] = [
    (("values",), {"log": [{"a": [0]}, {"a": [1]}, {"a": [2]}], "empty": [], "text": "x", "deep": {"l": [1, 2]}}),
    (("values", "log"), [{"a": [0]}, {"a": [1]}, {"a": [2]}]),
    (("values", "log", 0, "a"), [0]),
    (("values", "log", 2, "a", 0), 2),
    (("values", "log", 3), None),
    (("values", "log", -1, "a", -1), 2),
    (("values", "log", -3), {"a": [0]}),
    (("values", "log", -4), None),
    (("values", "log", "a"), None),
    (("values", "empty"), []),
    (("values", "empty", 0), None),
    (("values", "empty", -1), None),
    (("values", "empty", -2), None),
    (("values", "text"), "x"),
    (("values", "text", 0), None),
    (("values", "text", -1), None),
    (("values", "deep", "l", -1), 2),
    (("values", "nothing", "at", "all"), None),
    (("metadata", "k", 0, "x"), 1),
    (("metadata",), {"k": [{"x": 1}]}),
    (("config",), {}),
    (("interrupts", "task", 0, "id"), "i1"),
]


async def test_a_path_leads_to_its_value_however_the_channel_is_kept(stage: Stage) -> None:
    thread_id = await stage.thread()
    await stage.threads.patch(ANN, thread_id, {"k": [{"x": 1}]})
    values = {
        "log": [b'{"a":[0]}', b'{"a":[1]}', b'{"a":[2]}'],
        "empty": [],
        "text": b'"x"',
        "deep": b'{"l":[1,2]}',
    }
    token = await stage.threads.begin_edit(ANN, thread_id)
    await stage.threads.end_edit(thread_id, token, outcome(values, asks=("i1",)))
    found = {}
    for start in range(0, len(EXTRACTS), 10):
        paths = {str(number): EXTRACTS[number][0] for number in range(start, min(start + 10, len(EXTRACTS)))}
        [row] = await stage.threads.search(ANN, ThreadFilter(), Page(limit=1, extract=paths))
        found |= json.loads(row["extracted"])
    assert found == {str(number): value for number, (_, value) in enumerate(EXTRACTS)}


async def test_a_thread_without_values_has_nothing_to_extract(stage: Stage) -> None:
    await stage.thread()
    paths: dict[str, tuple[str | int, ...]] = {
        "whole": ("values",), "channel": ("values", "log"), "place": ("values", "log", -1)
    }  # fmt: skip
    [row] = await stage.threads.search(ANN, ThreadFilter(), Page(limit=1, extract=paths))
    assert (row["values"], json.loads(row["extracted"])) == (None, {"whole": {}, "channel": None, "place": None})


async def test_an_alias_may_be_any_text(stage: Stage) -> None:
    await stage.thread()
    alias = "'; DROP TABLE holdfast.threads; -- %(x)s %s"
    [row] = await stage.threads.search(ANN, ThreadFilter(), Page(limit=1, extract={alias: ("metadata", "%(y)s")}))
    assert json.loads(row["extracted"]) == {alias: None}


async def test_somebody_elses_threads_are_not_found(stage: Stage) -> None:
    thread_id = await stage.thread(ANN)
    assert await stage.threads.search(BOB, ThreadFilter(ids=[thread_id]), Page(limit=5)) == []
    assert await stage.threads.count(BOB, ThreadFilter()) == 0


# --- plans ---


async def scans(conn: Connection, query: tuple[str, Mapping[str, Any]], table: str) -> list[str]:
    """The kinds of nodes that touch the table."""
    return [node["Node Type"] for node in await plan(conn, query, table)]


async def rows_read(conn: Connection, query: tuple[str, Mapping[str, Any]], table: str) -> list[float]:
    """How many rows of the table each node has really read."""
    nodes = await plan(conn, query, table)
    return [(node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in nodes]


async def plan(conn: Connection, query: tuple[str, Mapping[str, Any]], table: str) -> list[dict[str, Any]]:
    statement, params = query
    row = await (await conn.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", params)).fetchone()
    assert row is not None
    return [node for node in _nodes(json.loads(row["QUERY PLAN"])[0]["Plan"]) if node.get("Relation Name") == table]


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)
