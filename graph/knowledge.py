"""What can be looked up: the built-in notes, and what was ingested into the graph's store.

    python -m graph.knowledge docs README.md

puts text files (.md, .rst, .txt) in chunks into the store of the server at HOLDFAST_URL (default
http://127.0.0.1:2024), as the owner of HOLDFAST_API_KEY if there is one. A chunk's source is the file's path, from the
name of what was given on. Doing it again replaces: what is gone from there is gone from the store. The store finds
chunks by its index, for which `langgraph.json` names `embed`; without an index only the notes (`notes.md`) are found,
by the words that they share with the question.

With HOLDFAST_API_KEYS every owner has a store of their own: what is ingested with one key is found in that owner's runs
alone. Ingest once per key; what everybody may know can also be a note.

EMBEDDING_MODEL, with OPENAI_API_KEY: OpenAI's embeddings (`text-embedding-3-small`, say). Without it: hashed words,
which need no model and find shared words, not meaning. The two do not understand each other: ingest again after a
change.
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from langgraph.store.base import BaseStore
from langgraph_sdk import get_client
from langgraph_sdk.client import StoreClient

NAMESPACE = ("knowledge",)
DIMS = 512
"""Of a vector, whatever makes it; `store.index.dims` in langgraph.json."""
CHUNK_CHARACTERS = 1_000
MOST_CHUNKS = 3
LEAST_SCORE = 0.05
"""A cosine. Below it even hashed words have none in common."""
SUFFIXES = frozenset({".md", ".rst", ".txt"})

_PAGE = 500
_WORD = re.compile(r"[^\W_]+")
_EVERYDAY = frozenset(
    {"a", "about", "an", "and", "are", "do", "does", "for", "how", "in", "is", "it", "me", "of", "on", "or"}
    | {"tell", "the", "to", "what", "when", "which", "who"}
)
_TITLE_WEIGHT = 3


@dataclass(frozen=True, slots=True)
class Note:
    """One thing known: a title, or the source it is from, and a few sentences."""

    title: str
    text: str


async def search(query: str, store: BaseStore | None) -> list[Note]:
    """What the notes and the store know about `query`, the best of each first."""
    found = look_up(query)
    if store is None:
        return found
    items = await store.asearch(NAMESPACE, query=query, limit=MOST_CHUNKS)
    # As for the notes: what fits half as well as the best answers another question. No score: there is no index.
    enough = max([LEAST_SCORE, *((item.score or 0.0) / 2 for item in items)])
    fitting = [item for item in items if (item.score or 0.0) >= enough]
    return found + [Note(item.value.get("source", item.key), item.value["text"]) for item in fitting]


@functools.cache
def notes() -> Sequence[Note]:
    """The built-in notes: the sections of `notes.md`."""
    _, *sections = (Path(__file__).parent / "notes.md").read_text(encoding="utf-8").split("\n## ")
    titled = (section.partition("\n") for section in sections)
    return [Note(title, " ".join(text.split())) for title, _, text in titled]


def look_up(query: str, limit: int = 2) -> list[Note]:
    """The notes that share most words with `query`, best first; empty if none shares any."""
    asked = _words(query)
    scored = [(_score(asked, note), note) for note in notes()]
    # A note that fits half as well as the best one answers another question.
    enough = max(1, max(score for score, _ in scored) // 2 + 1)
    # The sort is stable: among equals the order of the notes decides, so an answer never varies.
    best = sorted((pair for pair in scored if pair[0] >= enough), key=lambda pair: -pair[0])
    return [note for _, note in best[:limit]]


def _score(asked: frozenset[str], note: Note) -> int:
    return _TITLE_WEIGHT * len(asked & _words(note.title)) + len(asked & _words(note.text))


def _words(text: str) -> frozenset[str]:
    # A plural is the same word, and nothing more is claimed for this stemming.
    return frozenset(word.removesuffix("s") for word in _WORD.findall(text.casefold()) if word not in _EVERYDAY)


def embed(texts: list[str]) -> list[list[float]]:
    """A vector of DIMS numbers for each text. Blocks on the network: the store calls it in a thread."""
    if model := os.environ.get("EMBEDDING_MODEL"):
        # Slow to import, and not needed by most.
        from langchain_openai import OpenAIEmbeddings

        # Counting tokens here would have tiktoken download its tables.
        return OpenAIEmbeddings(model=model, dimensions=DIMS, check_embedding_ctx_length=False).embed_documents(texts)
    return [_hashed(text) for text in texts]


def _hashed(text: str) -> list[float]:
    """The normalised sum of the words' directions, chosen by their hashes; never all zeros, which have no angle."""
    vector = [0.0] * DIMS
    for word in _words(text):
        number = int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")
        vector[number // 2 % DIMS] += 1.0 if number % 2 else -1.0
    length = math.hypot(*vector)
    return [number / length for number in vector] if length else [1.0, *vector[1:]]


def chunks(text: str, size: int = CHUNK_CHARACTERS) -> list[str]:
    """`text` in pieces of at most `size` characters, cut between paragraphs where that is possible."""
    pieces: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        for part in textwrap.wrap(paragraph, size, expand_tabs=False, replace_whitespace=False, break_on_hyphens=False):
            if pieces and len(pieces[-1]) + 2 + len(part) <= size:
                pieces[-1] += f"\n\n{part}"
            else:
                pieces.append(part)
    return pieces


async def ingest(paths: Sequence[Path], store: StoreClient) -> int:
    """Make the store hold the texts below `paths` as they are now; the number of their chunks."""
    roots = [path.resolve(strict=True) for path in paths]
    fresh = {
        blake2b(f"{source}\n{position}".encode(), digest_size=16).hexdigest(): {"source": source, "text": text}
        for root in roots
        for source, file in _sources(root)
        for position, text in enumerate(chunks(file.read_text(encoding="utf-8", errors="replace")))
    }
    kept = await _sources_by_key(store)
    for key, value in fresh.items():
        await store.put_item(NAMESPACE, key, value)
    for key, source in kept.items():
        if key not in fresh and any(PurePosixPath(source).is_relative_to(root.name) for root in roots):
            await store.delete_item(NAMESPACE, key)
    return len(fresh)


def _sources(root: Path) -> Iterator[tuple[str, Path]]:
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.suffix in SUFFIXES)
    for file in files:
        yield file.relative_to(root.parent).as_posix(), file


async def _sources_by_key(store: StoreClient) -> dict[str, str]:
    found: dict[str, str] = {}
    while items := (await store.search_items(NAMESPACE, limit=_PAGE, offset=len(found)))["items"]:
        found |= {item["key"]: str(item["value"].get("source", "")) for item in items}
    return found


async def main(paths: Sequence[str]) -> None:
    """Ingest into the server of the environment, and say how much that was."""
    url = os.environ.get("HOLDFAST_URL") or "http://127.0.0.1:2024"
    async with get_client(url=url, api_key=os.environ.get("HOLDFAST_API_KEY") or None) as client:
        count = await ingest([Path(path) for path in paths], client.store)
    print(f"{count} chunks are in the store of {url}.")  # noqa: T201 - a command's answer


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("usage: python -m graph.knowledge FILE_OR_DIRECTORY...")
    asyncio.run(main(sys.argv[1:]))
