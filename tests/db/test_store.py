"""The store over real tables: what it keeps, finds and forgets, and what a broken connection does to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.store.base import GetOp, InvalidNamespaceError, PutOp, SearchOp
from langgraph.store.postgres.aio import AsyncPostgresStore

from holdfast.db.pool import WORKER_RESERVE
from holdfast.db.store import PooledStore, search_query
from holdfast.errors import DatabaseUnavailable, Invalid, Unsaveable
from tests.db.stage import Stage, opened, together

pytestmark = pytest.mark.anyio

PLACE = ("users", "ada")


@pytest.fixture
async def store(stage: Stage) -> PooledStore:
    return PooledStore(stage.database)


async def keys(store: PooledStore, *prefix: str, **given: Any) -> list[str]:
    """The keys of a search, in order of their names."""
    return sorted(item.key for item in await store.asearch(prefix, **{"limit": 100, **given}))


async def expire(stage: Stage, key: str) -> None:
    await stage.sql("UPDATE store SET expires_at = holdfast.now() - interval '1 second' WHERE key = %s", key)


async def minutes_left(stage: Stage, key: str) -> float | None:
    query = "SELECT extract(epoch FROM expires_at - holdfast.now())::float8 / 60 AS left FROM store WHERE key = %s"
    (row,) = await stage.sql(query, key)
    return row["left"]


# --- what is kept ---


async def test_an_item_is_kept_replaced_and_deleted(store: PooledStore) -> None:
    assert await store.aget(PLACE, "k") is None
    await store.aput(PLACE, "k", {"a": [1, 2.5, None, "ü"]})
    first = await store.aget(PLACE, "k")
    assert first is not None
    assert (first.namespace, first.key, first.value) == (PLACE, "k", {"a": [1, 2.5, None, "ü"]})
    await store.aput(PLACE, "k", {"b": 1})
    second = await store.aget(PLACE, "k")
    assert second is not None
    assert second.value == {"b": 1}
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    await store.adelete(PLACE, "k")
    await store.adelete(PLACE, "k")
    assert await store.aget(PLACE, "k") is None


async def test_operations_of_a_batch_happen_in_their_order(store: PooledStore) -> None:
    results = await store.abatch(
        [PutOp(PLACE, "k", {"n": 1}), GetOp(PLACE, "k"), PutOp(PLACE, "k", None), GetOp(PLACE, "k"), SearchOp(())]
    )
    assert [results[0], results[1].value, *results[2:]] == [None, {"n": 1}, None, None, []]  # type: ignore[union-attr]
    assert await store.abatch([]) == []


async def test_a_batch_that_fails_leaves_nothing(store: PooledStore) -> None:
    with pytest.raises(Unsaveable):
        await store.abatch([PutOp(PLACE, "good", {"n": 1}), PutOp(PLACE, "bad", {"n": "\x00"})])
    assert await keys(store) == []


async def test_what_one_caller_gets_wrong_fails_nobody_else(store: PooledStore) -> None:
    results = await together(
        store.aput(PLACE, "good", {"n": 1}),
        store.aput(PLACE, "bad", {"n": "\x00"}),
        store.asearch((), filter={"n": {"$near": 1}}),
        store.aget(PLACE, "none"),
    )
    assert results[0] is None
    assert isinstance(results[1], Unsaveable)
    assert isinstance(results[2], Invalid)
    assert results[3] is None
    assert await keys(store) == ["good"]


async def test_a_namespace_in_a_batch_cannot_pass_for_another(store: PooledStore) -> None:
    for op in (GetOp(("users.ada",), "k"), PutOp(("",), "k", {}), SearchOp(("a\x00",))):
        with pytest.raises(InvalidNamespaceError):
            await store.abatch([op])


async def test_what_langgraphs_own_store_wrote_is_read_and_the_other_way_round(
    stage: Stage, store: PooledStore
) -> None:
    async with AsyncPostgresStore(stage.database.pool) as stock:
        await stock.aput(PLACE, "theirs", {"n": 1}, ttl=5)
        await store.aput(PLACE, "ours", {"n": 2}, ttl=5)
        assert await keys(store) == ["ours", "theirs"]
        assert sorted(item.key for item in await stock.asearch(())) == ["ours", "theirs"]
        assert await stock.alist_namespaces() == await store.alist_namespaces() == [PLACE]


async def test_a_synchronous_node_uses_it_from_its_thread(store: PooledStore) -> None:
    def node() -> Any:
        store.put(PLACE, "k", {"n": 1})
        return store.get(PLACE, "k").value  # type: ignore[union-attr]

    assert await asyncio.to_thread(node) == {"n": 1}
    with pytest.raises(asyncio.InvalidStateError, match="await"):
        store.get(PLACE, "k")


async def test_a_node_with_an_event_loop_of_its_own_uses_it(store: PooledStore) -> None:
    await store.aput(PLACE, "k", {"n": 1})
    found = await asyncio.to_thread(lambda: asyncio.run(store.aget(PLACE, "k")))
    assert found is not None
    assert found.value == {"n": 1}


# --- what is found ---

ITEMS: dict[str, dict[str, Any]] = {
    "nine": {"n": 9, "kind": "number", "at": {"city": "Ulm", "zip": [8, 9]}},
    "ten": {"n": 10, "kind": "number", "at": {"city": "Bonn"}},
    "half": {"n": 0.5, "flag": True},
    "text": {"n": "10", "kind": "text", "flag": None},
    "empty": {},
}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, {*ITEMS}),
        ({"kind": "number"}, {"nine", "ten"}),
        ({"kind": {"$eq": "number"}, "n": 9}, {"nine"}),
        ({"n": 10.0}, {"ten"}),
        ({"n": {"$gt": 9}}, {"ten"}),
        ({"n": {"$gte": 9}}, {"nine", "ten"}),
        ({"n": {"$gt": 0.5, "$lt": 10}}, {"nine"}),
        ({"n": {"$lte": "2"}}, {"text"}),
        ({"n": {"$ne": 10}}, {"nine", "half", "text", "empty"}),
        ({"flag": None}, {"nine", "ten", "text", "empty"}),
        ({"flag": True}, {"half"}),
        ({"at": {"city": "Ulm"}}, {"nine"}),
        ({"at": {"city": {"$ne": "Ulm"}}, "kind": "number"}, {"ten"}),
        ({"at": {"zip": [8, 9]}}, {"nine"}),
        ({"at": {"zip": [8]}}, set()),
        ({"missing": {"$gt": 1}}, set()),
        ({"n' OR true --": 1}, set()),
        ({"kind": "number' OR '1'='1"}, set()),
        ({"%(prefix)s": {"$ne": 1}}, {*ITEMS}),
        ({"%s": "%%WITHIN%%"}, set()),
    ],
)
async def test_a_filter_finds_what_it_says(store: PooledStore, wanted: dict[str, Any], found: set[str]) -> None:
    await store.abatch([PutOp(PLACE, key, value) for key, value in ITEMS.items()])
    assert await keys(store, filter=wanted) == sorted(found)


@pytest.mark.parametrize(
    "wanted",
    [
        {"n": {"$in": [1]}},
        {"n": {"$gt": 1, "x": 2}},
        {"n": {"$gt": [1]}},
        {"n": {"$lt": None}},
        {"n": {"$gte": True}},
        {str(number): 1 for number in range(101)},
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused(store: PooledStore, wanted: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="filter"):
        await store.asearch((), filter=wanted)


NAMESPACES = [("a",), ("a", "b"), ("a", "b", "c"), ("a-", "b"), ("ab",), ("a_b", "%"), ("axb", "x"), ("ü", "'; --")]


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ((), NAMESPACES),
        (("a",), NAMESPACES[:3]),
        (("a", "b"), NAMESPACES[1:3]),
        (("a_b",), [("a_b", "%")]),
        (("%",), []),
        (("ü",), [("ü", "'; --")]),
        (("ü", "'; --"), [("ü", "'; --")]),
        (("a", "*"), []),
    ],
)
async def test_a_search_stays_below_its_prefix(
    store: PooledStore, prefix: tuple[str, ...], found: list[tuple[str, ...]]
) -> None:
    await store.abatch([PutOp(namespace, "k", {}) for namespace in NAMESPACES])
    assert sorted(item.namespace for item in await store.asearch(prefix)) == sorted(found)


async def test_pages_of_a_search_are_newest_first_and_complete(store: PooledStore) -> None:
    for number in range(7):
        await store.aput(PLACE, f"k{number}", {})
    await store.aput(PLACE, "k2", {"again": True})
    pages = [[item.key for item in await store.asearch(PLACE, limit=3, offset=offset)] for offset in (0, 3, 6, 9)]
    assert pages == [["k2", "k6", "k5"], ["k4", "k3", "k1"], ["k0"], []]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, sorted(NAMESPACES)),
        ({"prefix": ("a",)}, NAMESPACES[:3]),
        ({"prefix": ("*", "b")}, [("a", "b"), ("a", "b", "c"), ("a-", "b")]),
        ({"prefix": ("a", "*", "c")}, [("a", "b", "c")]),
        ({"suffix": ("b",)}, [("a", "b"), ("a-", "b")]),
        ({"suffix": ("*", "c")}, [("a", "b", "c")]),
        ({"suffix": ("%",)}, [("a_b", "%")]),
        ({"prefix": ("a",), "suffix": ("b",)}, [("a", "b")]),
        ({"prefix": ("a.*",)}, InvalidNamespaceError),
        ({"prefix": ("a",), "max_depth": 2}, [("a",), ("a", "b")]),
        ({"max_depth": 1}, [("a",), ("a-",), ("a_b",), ("ab",), ("axb",), ("ü",)]),
        ({"limit": 2, "offset": 1}, sorted(NAMESPACES)[1:3]),
        ({"prefix": (".+|(",)}, InvalidNamespaceError),
        ({"prefix": ("(a|b",)}, []),
        ({"suffix": ("'; --",)}, [("ü", "'; --")]),
    ],
)
async def test_namespaces_are_listed(store: PooledStore, given: dict[str, Any], found: Any) -> None:
    await store.abatch([PutOp(namespace, key, {}) for namespace in NAMESPACES for key in ("k", "l")])
    if isinstance(found, list):
        assert await store.alist_namespaces(**given) == found
    else:
        with pytest.raises(found):
            await store.alist_namespaces(**given)


async def test_a_search_below_a_prefix_reads_what_is_below_it_and_nothing_else(stage: Stage) -> None:
    await stage.sql(
        "INSERT INTO store (prefix, key, value) SELECT 'users.u' || n %% 500 || '.notes', n::text,"
        " jsonb_build_object('n', n) FROM generate_series(1, 50000) AS n"
    )
    await stage.sql("ANALYZE store")
    for wanted in ({}, {"n": {"$gt": 49_000}}):
        query, params = search_query(SearchOp(("users", "u7"), filter=wanted))
        async with stage.database.connection("worker") as conn:
            [row] = await (await conn.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + query, params)).fetchall()
        plan = str(row["QUERY PLAN"])
        assert "store_prefix_idx" in plan
        assert "Seq Scan" not in plan
    assert len(await PooledStore(stage.database).asearch(("users", "u7"), limit=1000)) == 100


# --- what goes ---


async def test_an_item_lives_as_long_as_it_says_and_is_gone_for_everybody_before_it_is_swept(stage: Stage) -> None:
    store = PooledStore(stage.database, ttl={"default_ttl": 10, "refresh_on_read": False})
    await store.aput(PLACE, "default", {})
    await store.aput(PLACE, "own", {"n": 1}, ttl=0.5)
    await store.aput(PLACE, "for ever", {}, ttl=None)
    assert await minutes_left(stage, "default") == pytest.approx(10, abs=0.1)
    assert await minutes_left(stage, "own") == pytest.approx(0.5, abs=0.1)
    assert await minutes_left(stage, "for ever") is None
    await expire(stage, "own")
    assert await store.aget(PLACE, "own", refresh_ttl=True) is None
    assert await keys(store, refresh_ttl=True) == ["default", "for ever"]
    assert await store.alist_namespaces() == [PLACE]
    assert await store.sweep(batch=10) == 1
    assert await store.sweep(batch=10) == 0
    await expire(stage, "default")
    await store.adelete(PLACE, "for ever")
    assert await store.alist_namespaces() == []


@pytest.mark.parametrize("by_default", [True, False])
async def test_a_read_prolongs_an_items_life_or_not(stage: Stage, by_default: bool) -> None:
    store = PooledStore(stage.database, ttl={"refresh_on_read": by_default})
    for asked in (None, True, False):
        expected = by_default if asked is None else asked
        for read in (
            lambda asked=asked: store.aget(PLACE, "k", refresh_ttl=asked),
            lambda asked=asked: store.asearch(PLACE, refresh_ttl=asked),
        ):
            await store.aput(PLACE, "k", {}, ttl=30)
            await stage.sql("UPDATE store SET expires_at = holdfast.now() + interval '1 minute'")
            await read()
            assert await minutes_left(stage, "k") == pytest.approx(30 if expected else 1, abs=0.1)


async def test_a_read_never_shortens_a_life_to_nothing(stage: Stage, store: PooledStore) -> None:
    await store.aput(PLACE, "k", {}, ttl=0.4)
    await store.aget(PLACE, "k")
    assert await minutes_left(stage, "k") == pytest.approx(1, abs=0.1)


async def test_an_item_put_after_its_predecessor_expired_is_new(stage: Stage, store: PooledStore) -> None:
    await store.aput(PLACE, "k", {}, ttl=5)
    await stage.sql("UPDATE store SET created_at = '2020-01-01'")
    await expire(stage, "k")
    await store.aput(PLACE, "k", {})
    item = await store.aget(PLACE, "k")
    assert item is not None
    assert item.created_at == item.updated_at
    assert await minutes_left(stage, "k") is None


async def test_many_readers_that_prolong_the_same_items_do_not_lock_each_other_out(store: PooledStore) -> None:
    await store.abatch([PutOp(PLACE, str(number), {}, ttl=5) for number in range(20)])
    found = await together(*[store.asearch(PLACE, limit=20, offset=n % 3) for n in range(24)])
    assert [len(items) for items in found] == [20 - n % 3 for n in range(24)]


# --- connections ---


async def test_a_cut_connection_is_not_the_callers_business(stage: Stage, store: PooledStore) -> None:
    await together(*[store.aput(PLACE, str(number), {}) for number in range(8)])
    for cut in range(3):
        await stage.cut_all_connections()
        results = await together(
            store.aput(PLACE, "k", {"cut": cut}), store.aget(PLACE, "0"), *[store.asearch(PLACE) for _ in range(6)]
        )
        assert not [result for result in results if isinstance(result, BaseException)]
    item = await store.aget(PLACE, "k")
    assert item is not None
    assert item.value == {"cut": 2}


async def test_a_database_that_stays_away_is_an_error(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.db.store.RETRY_SECONDS", 0.1)
    store = PooledStore(stage.database)
    await stage.database.close()
    with pytest.raises(DatabaseUnavailable):
        await store.aput(PLACE, "k", {})


async def test_a_caller_that_leaves_takes_nobody_along(store: PooledStore) -> None:
    waiting = [asyncio.create_task(store.asearch(())) for _ in range(10)]
    await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    async with asyncio.timeout(10):
        assert await asyncio.gather(*waiting[1::2]) == [[]] * 5
        assert await store.asearch(()) == []


async def test_nodes_that_keep_the_store_busy_leave_the_workers_connections_alone(clean_url: str) -> None:
    async with opened(clean_url, size=WORKER_RESERVE + 2) as stage:
        await PooledStore(stage.database).aput(PLACE, "k", {})
        store = PooledStore(stage.database)
        async with stage.outside() as conn, conn.transaction():
            await conn.execute("LOCK TABLE store IN ACCESS EXCLUSIVE MODE")
            waiting = [asyncio.create_task(store.aget(PLACE, "k")) for _ in range(20)]
            async with asyncio.timeout(5):
                for _ in range(20):
                    assert await stage.sql("SELECT 1 AS one") == [{"one": 1}]
            assert not any(task.done() for task in waiting)
        async with asyncio.timeout(10):
            assert None not in await asyncio.gather(*waiting)
