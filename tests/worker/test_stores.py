"""What `store` in langgraph.json names is loaded, or what is wrong with it is said with its line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
from langchain_core.embeddings import Embeddings

from holdfast.db.pool import Database
from holdfast.errors import ProjectError
from holdfast.project import load_project
from holdfast.sections import StoreIndex
from holdfast.worker.embeddings import HashedWords, load_embeddings
from holdfast.worker.stores import opened_store
from tests.worker.project_files import COUNTER, loaded, write

pytestmark = pytest.mark.anyio

OBJECTS = """\
from langchain_core.embeddings import Embeddings
number = 5
def text(): return "text"
def fails():
    raise RuntimeError("as told")
def with_argument(a, b): return a
def embed(texts): return [[1.0, 2.0] for _ in texts]
async def aembed(texts): return [[1.0, 2.0] for _ in texts]
class Ready(Embeddings):
    def embed_documents(self, texts): return [[1.0, 2.0] for _ in texts]
    def embed_query(self, text): return [1.0, 2.0]
ready = Ready()
"""
FILES = {"agent.py": COUNTER, "objects.py": OBJECTS, "package/__init__.py": "", "package/module.py": OBJECTS}
NOBODY = cast("Database", None)
"""What is not reached: nothing here comes so far as to open a store."""


async def open_and_close(directory: Path, store: dict[str, Any]) -> None:
    project = load_project(write(directory, FILES, store=store))
    async with loaded(directory, FILES, store=store) as graphs, opened_store(project, graphs, NOBODY):
        pass


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ({"path": "./objects.py:nothing"}, "there is no 'nothing' in it"),
        ({"path": "./nowhere.py:one"}, "there is no file"),
        ({"path": "./objects.py:number"}, "objects.py:2: 5 is neither a BaseStore nor a function that makes one"),
        ({"path": "package.module:number"}, "module.py:2: 5 is neither a BaseStore nor a function that makes one"),
        ({"path": "./objects.py:text"}, "objects.py:3: what it made is 'text', not a BaseStore"),
        ({"path": "./objects.py:fails"}, "objects.py:5: RuntimeError: as told"),
        ({"path": "./objects.py:with_argument"}, "objects.py:6: TypeError: the factory asks for"),
        ({"path": "objects"}, "store.path is 'objects': expected"),
        ({"index": {"dims": 2, "embed": "./objects.py:number"}}, "objects.py:2: 5 is neither an Embeddings nor a"),
        ({"index": {"dims": 2, "embed": "./objects.py:nothing"}}, "there is no 'nothing' in it"),
        ({"index": {"dims": 2, "embed": "nobody:model"}}, "store.index.embed (nobody:model) does not load"),
        ({"index": {"dims": 2, "embed": "model"}}, "store.index.embed (model) does not load"),
        ({"index": {"dims": 2, "embed": "cohere:model"}}, "langchain-cohere"),
        ({"index": {"dims": 0, "embed": "holdfast:hash"}}, "store.index.dims"),
    ],
)
async def test_what_does_not_load_is_named(tmp_path: Path, store: dict[str, Any], said: str) -> None:
    with pytest.raises(ProjectError) as raised:
        await open_and_close(tmp_path, store)
    assert said in str(raised.value)


async def test_a_store_of_the_projects_own_leaves_index_and_ttl_without_effect(tmp_path: Path) -> None:
    path = write(tmp_path, FILES, store={"path": "./objects.py:one", "ttl": {"default_ttl": 5}})
    project = load_project(path)
    assert project.warnings == (f"{path}: 'store.ttl' has no effect: the store of 'store.path' has its own",)
    assert project.vector_dims is None


@pytest.mark.parametrize("embed", ["./objects.py:embed", "package.module:aembed", "./objects.py:ready"])
async def test_functions_and_embeddings_of_the_project_embed(tmp_path: Path, embed: str) -> None:
    async with loaded(tmp_path, FILES) as graphs:
        embeddings = await load_embeddings(graphs, StoreIndex(dims=2, embed=embed))
        assert isinstance(embeddings, Embeddings)
        assert [len(vector) for vector in await embeddings.aembed_documents(["a", "b"])] == [2, 2]
        assert len(await embeddings.aembed_query("a")) == 2


async def test_a_providers_model_is_made_by_langchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    async with loaded(tmp_path, FILES) as graphs:
        made = await load_embeddings(graphs, StoreIndex(dims=1536, embed="openai:text-embedding-3-small"))
        assert type(made).__name__ == "OpenAIEmbeddings"
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(ProjectError, match=r"store\.index\.embed"):
            await load_embeddings(graphs, StoreIndex(dims=1536, embed="openai:text-embedding-3-small"))


async def test_hashed_words_find_shared_words_and_are_the_same_everywhere(tmp_path: Path) -> None:
    async with loaded(tmp_path, FILES) as graphs:
        words = await load_embeddings(graphs, StoreIndex(dims=256, embed="holdfast:hash"))
    cats, same, dogs = words.embed_documents(["Cats sleep.", "sleep, CATS", "dogs run"])
    assert cats == same
    assert math.isclose(math.hypot(*cats), 1)
    assert abs(sum(a * b for a, b in zip(cats, dogs, strict=True))) < 0.5
    assert [round(number, 3) for number in HashedWords(4).embed_query("one two three")] == PINNED
    for text in ("", "...", "a " * 10_000, "\ud800"):
        assert any(words.embed_query(text))


PINNED = [0.577, 0.577, 0.0, -0.577]
"""Vectors are kept: they must not change with a version, a process or a machine."""
