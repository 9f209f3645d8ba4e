"""The model behind `store.index.embed`.

provider:model                        LangChain's init_embeddings, with that provider's package and key
path/to/file.py:obj, package.mod:obj  the project's: an Embeddings, or a function (sync or async) from a list of
                                      texts to a list of vectors
holdfast:hash                         hashed words: no model at all, for tests and for trying things out
"""

from __future__ import annotations

import asyncio
import math
import re
from hashlib import blake2b
from typing import cast

from langchain_core.embeddings import Embeddings
from langgraph.store.base import ensure_embeddings

from holdfast.project import GraphSpec
from holdfast.sections import StoreIndex
from holdfast.worker.graphs import Graphs

HASH = "holdfast:hash"
_WHAT = "store.index.embed"
_WORD = re.compile(r"\w+")


class HashedWords(Embeddings):
    """Every word is a direction, chosen by its hash. Finds texts that share words; knows nothing of what they mean."""

    def __init__(self, dims: int) -> None:
        self._dims = dims

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """The normalised sum of the words' directions; never all zeros, for which pgvector has no angle."""
        vector = [0.0] * self._dims
        for word in _WORD.findall(text.casefold()):
            digest = blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
            number = int.from_bytes(digest, "big")
            vector[number // 2 % self._dims] += 1.0 if number % 2 else -1.0
        length = math.hypot(*vector)
        return [number / length for number in vector] if length else [1.0, *vector[1:]]


async def load_embeddings(graphs: Graphs, index: StoreIndex) -> Embeddings:
    """What embeds the store's items.

    Raises:
        ProjectError: it does not load, or cannot embed.
    """
    if index.embed == HASH:
        return HashedWords(index.dims)
    return await asyncio.to_thread(_load, graphs, index.embed)


def _load(graphs: Graphs, embed: str) -> Embeddings:
    if not _is_of_the_project(embed):
        return _of_a_provider(graphs, embed)
    value, place = graphs.load_object(_WHAT, embed)
    if isinstance(value, type) or not (isinstance(value, Embeddings) or callable(value)):
        raise graphs.failure(_WHAT, embed, place, f"{value!r} is neither an Embeddings nor a function that embeds")
    return ensure_embeddings(cast("Embeddings", value))


def _of_a_provider(graphs: Graphs, embed: str) -> Embeddings:
    # LangChain is slow to import, and most projects embed nothing.
    from langchain.embeddings import init_embeddings

    try:
        return init_embeddings(embed)
    except Exception as error:  # a provider's constructor may raise anything: a missing key, a missing package
        raise graphs.failure(_WHAT, embed, None, error) from error


def _is_of_the_project(embed: str) -> bool:
    spec = GraphSpec(_WHAT, embed, None)
    return spec.is_file or "." in spec.source
