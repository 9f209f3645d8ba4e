"""Finding items by meaning: their vectors, in LangGraph's table `store_vectors` (pgvector).

The table is LangGraph's own, but for its approximate index, which is not made: it ends at 2,000 dimensions, and a
search inside a namespace would find only what is among the nearest few dozen items of all namespaces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from langchain_core.embeddings import Embeddings
from langgraph.store.base import PutOp, get_text_at_path, tokenize_path
from langgraph.store.postgres.aio import AsyncPostgresStore
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from holdfast.errors import DatabaseError, EmbeddingFailed

WHOLE = "$"
"""The path of a whole value."""


class Index:
    """What of an item is embedded, and by what. Vectors travel as pgvector's text: `[0.1,0.2]`."""

    def __init__(self, embeddings: Embeddings, *, dims: int, fields: Sequence[str] | None = None) -> None:
        self._embeddings = embeddings
        self._dims = dims
        self._fields = list(fields or [WHOLE])

    def texts(self, op: PutOp) -> dict[str, str]:
        """The texts to embed, by the name under which their vectors are kept. Empty for `index=False`."""
        if op.index is False or op.value is None:
            return {}
        found = {}
        for path in self._fields if op.index is None else op.index:
            texts = get_text_at_path(op.value, path if path == WHOLE else tokenize_path(path))
            found.update({f"{path}.{n}" if len(texts) > 1 else path: text for n, text in enumerate(texts)})
        return found

    async def vectors(self, texts: Iterable[str]) -> dict[str, str]:
        """A vector for every text, in one call of the model.

        Raises:
            EmbeddingFailed: the model did not answer, or not with vectors of the configured size.
        """
        asked = list(dict.fromkeys(texts))
        if not asked:
            return {}
        try:
            vectors = await self._embeddings.aembed_documents(asked)
        except Exception as error:
            raise EmbeddingFailed(f"the embedding model failed: {type(error).__name__}") from error
        if len(vectors) != len(asked):
            raise EmbeddingFailed(f"the embedding model gave {len(vectors)} vectors for {len(asked)} texts")
        return {text: self._written(vector) for text, vector in zip(asked, vectors, strict=True)}

    async def vector(self, query: str) -> str:
        """The vector of a search text.

        Raises:
            EmbeddingFailed: as in `vectors`.
        """
        try:
            vector = await self._embeddings.aembed_query(query)
        except Exception as error:
            raise EmbeddingFailed(f"the embedding model failed: {type(error).__name__}") from error
        return self._written(vector)

    def _written(self, vector: Sequence[float]) -> str:
        if len(vector) != self._dims:
            raise EmbeddingFailed(f"the embedding model gave {len(vector)} numbers; store.index.dims is {self._dims}")
        numbers = [float(number) for number in vector]
        if not all(map(math.isfinite, numbers)):
            raise EmbeddingFailed("the embedding model gave a vector that is not finite")
        return "[" + ",".join(map(repr, numbers)) + "]"


class _Tables(AsyncPostgresStore):
    """LangGraph's migrations of the vector tables, up to the approximate index."""

    VECTOR_MIGRATIONS = AsyncPostgresStore.VECTOR_MIGRATIONS[:2]


async def prepare(conn: AsyncConnection[DictRow], dims: int) -> None:
    """Make the vector tables, or see that those there are hold vectors of this size; under the migrations' lock.

    Raises:
        DatabaseError: no pgvector here, or the table was made for vectors of another size.
    """
    available = "SELECT FROM pg_available_extensions WHERE name = 'vector'"
    if await (await conn.execute(available)).fetchone() is None:
        raise DatabaseError("store.index is set, but this Postgres has no pgvector: install the extension 'vector'")
    await _Tables(conn, index={"dims": dims, "embed": _no_embeddings}).setup()
    if (kept := await kept_type(conn)) != f"vector({dims})":
        raise DatabaseError(
            f"store.index.dims is {dims}, but the table store_vectors holds {kept}. Vectors of another model are of no"
            " use: after DROP TABLE store_vectors, vector_migrations the next start makes an empty one,"
            " and items are embedded again when they are put again"
        )


async def kept_type(conn: AsyncConnection[DictRow]) -> str | None:
    """The type of the vectors that the database keeps, `vector(1536)`, or None without a table for them."""
    row = await (
        await conn.execute(
            "SELECT format_type(atttypid, atttypmod) AS kept FROM pg_attribute"
            " WHERE attrelid = to_regclass('store_vectors') AND attname = 'embedding'"
        )
    ).fetchone()
    return str(row["kept"]) if row else None


def _no_embeddings(texts: Sequence[str]) -> list[list[float]]:
    raise AssertionError(f"nothing is embedded while tables are made: {len(texts)} texts")
