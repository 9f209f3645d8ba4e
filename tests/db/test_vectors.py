"""Search by meaning: the tables, the vectors that are kept, and what is nearest."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from langchain_core.embeddings import Embeddings
from langgraph.store.base import PutOp, ensure_embeddings
from langgraph.store.postgres.aio import AsyncPostgresStore

from holdfast.db.migrate import migrate, pending
from holdfast.db.store import PooledStore
from holdfast.db.vectors import Index
from holdfast.errors import DatabaseError, EmbeddingFailed
from tests.db.stage import Stage, opened, together

pytestmark = pytest.mark.anyio

PLACE = ("docs",)
WORDS = ("cat", "dog", "tea")


async def count_words(texts: list[str]) -> list[list[float]]:
    """A dimension per word."""
    return [[float(text.split().count(word)) for word in WORDS] for text in texts]


@pytest.fixture
async def indexed(database_url: str) -> AsyncIterator[Stage]:
    await migrate(database_url, vector_dims=3)
    async with opened(database_url) as stage:
        yield stage


def store_of(stage: Stage, *fields: str, embed: object = count_words) -> PooledStore:
    embeddings: Embeddings = ensure_embeddings(embed)  # type: ignore[arg-type]
    return PooledStore(stage.database, index=Index(embeddings, dims=3, fields=fields or ["text"]))


async def nearest(store: PooledStore, query: str, *, limit: int = 10, offset: int = 0) -> list[tuple[str, float]]:
    items = await store.asearch(PLACE, query=query, limit=limit, offset=offset)
    return [(item.key, round(item.score, 3)) for item in items if item.score is not None]


async def test_the_nearest_come_first(indexed: Stage) -> None:
    store = store_of(indexed)
    texts = {"a": "cat", "b": "cat dog", "c": "dog", "d": "tea"}
    await store.abatch([PutOp(PLACE, key, {"text": text}) for key, text in texts.items()])
    assert await nearest(store, "cat") == [("a", 1.0), ("b", 0.707), ("d", 0.0), ("c", 0.0)]
    assert await nearest(store, "cat", limit=2, offset=1) == [("b", 0.707), ("d", 0.0)]
    assert await nearest(store, "cat", limit=2, offset=4) == []


async def test_an_item_is_as_near_as_the_nearest_of_its_texts(indexed: Stage) -> None:
    store = store_of(indexed, "title", "notes[*].text")
    await store.aput(PLACE, "a", {"title": "dog", "notes": [{"text": "tea"}, {"text": "cat"}]})
    assert [await nearest(store, word) for word in WORDS] == [[("a", 1.0)]] * 3
    await store.aput(PLACE, "a", {"title": "dog", "notes": [{"text": "tea"}]})
    assert [await nearest(store, word) for word in WORDS] == [[("a", 0.0)], [("a", 1.0)], [("a", 1.0)]]


async def test_what_an_item_no_longer_says_is_not_found(indexed: Stage) -> None:
    store = store_of(indexed)
    await store.aput(PLACE, "a", {"text": "cat"})
    await store.aput(PLACE, "a", {"text": "dog"})
    assert await nearest(store, "cat") == [("a", 0.0)]
    await store.aput(PLACE, "a", {"text": "cat"}, index=False)
    assert await nearest(store, "cat") == []
    await store.aput(PLACE, "a", {"other": "cat"}, index=["other"])
    assert await nearest(store, "cat") == [("a", 1.0)]
    await store.adelete(PLACE, "a")
    assert await indexed.sql("SELECT * FROM store_vectors") == []


async def test_a_text_without_a_direction_comes_last(indexed: Stage) -> None:
    store = store_of(indexed)
    await store.abatch([PutOp(PLACE, "none", {"text": "nothing"}), PutOp(PLACE, "a", {"text": "dog"})])
    items = await store.asearch(PLACE, query="cat")
    assert [(item.key, item.score) for item in items] == [("a", 0.0), ("none", None)]


async def test_the_nearest_of_a_namespace_are_found_among_any_number_of_nearer_ones_elsewhere(indexed: Stage) -> None:
    async with indexed.database.connection("worker") as conn:
        await conn.execute("CREATE INDEX ON store_vectors USING hnsw (embedding vector_cosine_ops)")
    store = store_of(indexed)
    await store.abatch([PutOp(("elsewhere",), str(number), {"text": "cat"}) for number in range(500)])
    await store.aput(PLACE, "mine", {"text": "dog cat dog"})
    await indexed.sql("ANALYZE store")
    await indexed.sql("ANALYZE store_vectors")
    assert [key for key, _ in await nearest(store, "cat")] == ["mine"]


async def test_puts_of_one_item_at_once_leave_the_vectors_of_what_it_says(indexed: Stage) -> None:
    store = store_of(indexed)
    for _ in range(5):
        await together(*[store.aput(PLACE, "a", {"text": word}) for word in WORDS * 3])
        item = await store.aget(PLACE, "a")
        assert item is not None
        assert await nearest(store, item.value["text"]) == [("a", 1.0)]


@pytest.mark.parametrize(
    "vectors", [[], [[1.0, 2.0]], [[1.0, 2.0, 3.0, 4.0]], [[1.0, float("nan"), 1.0]], [[1.0, 1.0, 1.0]] * 2]
)
async def test_vectors_that_do_not_fit_are_refused_and_nothing_is_stored(
    indexed: Stage, vectors: list[list[float]]
) -> None:
    store = store_of(indexed, embed=lambda _: vectors)
    with pytest.raises(EmbeddingFailed):
        await store.aput(PLACE, "a", {"text": "cat"})
    assert await indexed.sql("SELECT * FROM store") == []


async def test_a_model_that_fails_takes_no_connection_and_nobody_else_along(indexed: Stage) -> None:
    async def embed(texts: list[str]) -> list[list[float]]:
        async with indexed.outside() as conn:
            used = await conn.execute("SELECT FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")
            assert used.rowcount == 0
        raise TimeoutError("too slow")

    store = store_of(indexed, embed=embed)
    results = await together(
        store.aput(PLACE, "a", {"text": "cat"}),
        store.aput(PLACE, "b", {"text": "cat"}, index=False),
        store.asearch(PLACE, query="cat"),
        store.asearch(PLACE),
    )
    assert isinstance(results[0], EmbeddingFailed)
    assert isinstance(results[2], EmbeddingFailed)
    assert [result for result in (results[1], results[3]) if isinstance(result, BaseException)] == []


async def test_what_langgraphs_own_store_embedded_is_found(indexed: Stage) -> None:
    index = {"dims": 3, "embed": count_words, "fields": ["text"]}
    async with AsyncPostgresStore(indexed.database.pool, index=index) as stock:  # type: ignore[arg-type]
        await stock.aput(PLACE, "theirs", {"text": "cat"})
        assert await nearest(store_of(indexed), "cat") == [("theirs", 1.0)]
        await store_of(indexed).aput(PLACE, "ours", {"text": "dog"})
        assert [item.key for item in await stock.asearch(PLACE, query="dog", limit=1)] == ["ours"]


# --- the tables ---


async def test_tables_are_made_once_and_their_lack_is_pending(database_url: str) -> None:
    assert await pending(database_url) == []
    assert await pending(database_url, vector_dims=3) == ["langgraph store vectors"]
    await migrate(database_url, vector_dims=3)
    await migrate(database_url, vector_dims=3)
    assert await pending(database_url, vector_dims=3) == []


async def test_vectors_of_another_size_are_an_error_that_says_what_to_do(database_url: str) -> None:
    await migrate(database_url, vector_dims=3)
    with pytest.raises(DatabaseError, match=r"dims is 4, but .* holds vector\(3\).*DROP TABLE store_vectors"):
        await migrate(database_url, vector_dims=4)
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("DROP TABLE store_vectors, vector_migrations")
    await migrate(database_url, vector_dims=4)


async def test_a_vector_may_have_more_dimensions_than_an_approximate_index(database_url: str) -> None:
    await migrate(database_url, vector_dims=3072)


async def test_a_postgres_without_pgvector_is_an_error_that_says_so(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA first")
        conn.execute("CREATE VIEW first.pg_available_extensions AS SELECT 'plpgsql' AS name")
        name = conn.info.dbname
        conn.execute(f"ALTER DATABASE {name} SET search_path = first, pg_catalog, public")
    with pytest.raises(DatabaseError, match="no pgvector"):
        await migrate(empty_database_url, vector_dims=3)
