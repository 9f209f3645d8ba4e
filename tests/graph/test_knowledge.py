"""Knowledge in the store: found by the agent, ingested through a running server, kept apart by owner."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.store.memory import InMemoryStore

from graph import knowledge
from graph.tools import execute, standard_tools
from tests.support.server import ROOT, Server
from tests.support.talk import new_thread, wait

CONFIG = ROOT / "langgraph.json"
FISH = "Cod and haddock are caught in the northern sea."
BIKES = "A bicycle needs its chain oiled every month."


@pytest.fixture
async def store() -> InMemoryStore:
    """A store set up as langgraph.json sets up Holdfast's, with two chunks in it."""
    store = InMemoryStore(index={"dims": knowledge.DIMS, "embed": knowledge.embed, "fields": ["text"]})
    await store.aput(knowledge.NAMESPACE, "1", {"source": "docs/fish.md", "text": FISH})
    await store.aput(knowledge.NAMESPACE, "2", {"source": "docs/bikes.md", "text": BIKES})
    return store


async def looked_up(query: str, store: Any) -> str:
    call: Any = {"type": "tool_call", "name": "lookup_knowledge", "args": {"query": query}, "id": "call-1"}
    return await execute(standard_tools()["lookup_knowledge"], call, None, store=store)


@pytest.mark.anyio
async def test_A13_the_agent_finds_what_is_in_the_graphs_store_and_names_its_source(talk: Callable, store: Any) -> None:
    thread = talk(store=store)
    await thread.say("look up haddock")
    assert (await thread.last_words()).endswith(f"My notes say: docs/fish.md: {FISH}")


@pytest.mark.anyio
async def test_A13_notes_and_store_are_searched_together(store: Any) -> None:
    found = await knowledge.search("Is a thread like a bicycle chain?", store)
    assert [note.title for note in found] == ["Threads", "docs/bikes.md"]


@pytest.mark.anyio
@pytest.mark.parametrize("query", ["pancakes", "", "the", "\ud800 \x00"])
async def test_A13_what_fits_nothing_finds_nothing(store: Any, query: str) -> None:
    assert await knowledge.search(query, store) == []


@pytest.mark.anyio
async def test_A13_a_store_without_an_index_adds_nothing(store: Any) -> None:
    plain = InMemoryStore()
    await plain.aput(knowledge.NAMESPACE, "1", {"source": "docs/fish.md", "text": FISH})
    assert (await looked_up("haddock", plain)).startswith("Nothing found.")
    assert (await looked_up("haddock", None)).startswith("Nothing found.")
    assert await looked_up("haddock", store) == f"docs/fish.md: {FISH}"


@pytest.mark.anyio
async def test_A13_only_the_knowledge_of_the_store_is_searched(store: Any) -> None:
    await store.aput(("memories", "ada"), "1", {"text": "haddock haddock"})
    assert await looked_up("haddock", store) == f"docs/fish.md: {FISH}"


def test_A13_the_project_asks_for_vectors_of_the_size_that_are_made() -> None:
    index = json.loads(CONFIG.read_text())["store"]["index"]
    assert index == {"dims": knowledge.DIMS, "embed": "./graph/knowledge.py:embed", "fields": ["text"]}


@given(st.text(max_size=60))
def test_A13_every_text_has_a_vector_of_length_one(text: str) -> None:
    ((*vector,),) = knowledge.embed([text])
    assert len(vector) == knowledge.DIMS
    assert sum(number * number for number in vector) == pytest.approx(1)


def test_A13_with_a_model_and_a_key_openai_embeds_in_the_same_size(
    monkeypatch: pytest.MonkeyPatch, llmock: Any
) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL", "text-embedding-3-small")
    knowledge.embed([FISH, BIKES])
    asked = llmock.last_request
    assert (asked.path, asked.model) == ("/v1/embeddings", "text-embedding-3-small")
    assert asked.body["dimensions"] == knowledge.DIMS
    assert asked.body["input"] == [FISH, BIKES]


def test_A13_a_key_alone_changes_no_vectors(llmock: Any) -> None:
    """A key that appears later would make what was ingested before unfindable."""
    assert os.environ["OPENAI_API_KEY"]
    knowledge.embed([FISH])
    assert llmock.requests == []


@given(st.text("ab \n.", max_size=400), st.integers(5, 60))
def test_A13_chunks_are_small_and_lose_no_word(text: str, size: int) -> None:
    pieces = knowledge.chunks(text, size)
    assert all(0 < len(piece) <= size for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_A13_chunks_are_cut_between_paragraphs() -> None:
    assert knowledge.chunks("one\ntwo\n\nthree\n \nfour five", 14) == ["one\ntwo\n\nthree", "four five"]


# --- through a running server ---


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The reference project, with two owners."""
    cluster = request.getfixturevalue("cluster")
    box = str(tmp_path_factory.mktemp("outbox") / "box")
    with (
        cluster.database(migrated=False) as url,
        Server(database_url=url, config=CONFIG, OUTBOX_PATH=box, HOLDFAST_API_KEYS="ada:key-a,bob:key-b") as server,
    ):
        yield server


def command(server: Server, key: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graph.knowledge", *map(str, paths)],
        cwd=ROOT,
        env={**os.environ, "HOLDFAST_URL": server.url, "HOLDFAST_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def ingest(running: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What the command does, for ada, without the seconds that a process takes to start."""
    monkeypatch.setenv("HOLDFAST_URL", running.url)
    monkeypatch.setenv("HOLDFAST_API_KEY", "key-a")
    return lambda *paths: asyncio.run(knowledge.main([str(path) for path in paths]))


def client(server: Server, key: str = "key-a") -> httpx.Client:
    return server.http(timeout=30, headers={"x-api-key": key})


def texts(server: Server, key: str = "key-a") -> list[tuple[str, str]]:
    with client(server, key) as http:
        found = http.post("/store/items/search", json={"namespace_prefix": ["knowledge"], "limit": 100}).json()
    return sorted((item["value"]["source"], item["value"]["text"]) for item in found["items"])


def says(server: Server, question: str, key: str = "key-a") -> str:
    with client(server, key) as http:
        given = {"messages": [{"role": "user", "content": question}]}
        return str(wait(http, new_thread(http), "agent", input=given)["messages"][-1]["content"])


def test_A13_files_are_ingested_into_a_running_server_and_the_agent_finds_them(
    running: Server, ingest: Callable[..., None], tmp_path: Path
) -> None:
    docs, page = tmp_path / "docs", tmp_path / "bikes.txt"
    (docs / "sea").mkdir(parents=True)
    fish = docs / "sea" / "fish.md"
    fish.write_text(f"{FISH}\n\n{'Herring swim together. ' * 42}\n\n{'Eels travel far. ' * 55}")
    (docs / "photo.png").write_bytes(b"\x89PNG haddock")
    page.write_text(BIKES)
    ended = command(running, "key-a", docs, page)
    assert (ended.returncode, ended.stdout) == (0, f"4 chunks are in the store of {running.url}.\n"), ended.stderr
    assert [source for source, _ in texts(running)] == ["bikes.txt", *["docs/sea/fish.md"] * 3]
    assert says(running, "look up haddock").endswith(f"My notes say: docs/sea/fish.md: {FISH}")
    assert says(running, "look up bicycle chains").endswith(f"My notes say: bikes.txt: {BIKES}")

    assert texts(running, "key-b") == []
    assert "Nothing found." in says(running, "look up haddock", "key-b")

    first = texts(running)
    ingest(docs, page)
    assert texts(running) == first

    fish.write_text("Cod and haddock are gone.")
    (docs / "sea" / "whales.rst").write_text("Whales are no fish.")
    ingest(docs)
    assert texts(running) == [
        ("bikes.txt", BIKES),
        ("docs/sea/fish.md", "Cod and haddock are gone."),
        ("docs/sea/whales.rst", "Whales are no fish."),
    ]
    fish.unlink()
    ingest(docs)
    assert [source for source, _ in texts(running)] == ["bikes.txt", "docs/sea/whales.rst"]


def test_A13_what_cannot_be_read_changes_nothing(running: Server, ingest: Callable[..., None], tmp_path: Path) -> None:
    page = tmp_path / "kept.txt"
    page.write_text("Kept.")
    ingest(page)
    page.unlink()
    with pytest.raises(FileNotFoundError, match=r"kept\.txt"):
        ingest(page)
    assert ("kept.txt", "Kept.") in texts(running)


def test_A13_without_files_the_command_says_how_it_is_called(running: Server) -> None:
    ended = command(running, "key-a")
    assert (ended.returncode, ended.stderr) == (1, "usage: python -m graph.knowledge FILE_OR_DIRECTORY...\n")


def test_A14_the_map_reduce_graph_is_served_beside_the_agent(running: Server) -> None:
    with client(running) as http:
        answer = wait(http, new_thread(http), "summarize", input={"text": ["one", "two"]})
    assert answer["failed"] == []
    assert answer["summary"].index("sentences:\n\none") < answer["summary"].index("sentences:\n\ntwo")
