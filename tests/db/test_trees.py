"""Every owner has a tree of the store, and none sees or names another's (invariant 10)."""

from __future__ import annotations

import asyncio

import pytest
from langgraph.store.base import BaseStore, InvalidNamespaceError
from langgraph.store.memory import InMemoryStore

from holdfast.db.store import PooledStore
from holdfast.db.trees import Stores, Tree
from holdfast.rules.caller import LOCAL
from holdfast.rules.store import OWNER_MARK
from tests.db.stage import Stage

pytestmark = pytest.mark.anyio

PLACE = ("notes", "a")
OWNERS = ("ann", "anna", "a.n", "a%2En", "*", "%", LOCAL.owner)


@pytest.fixture(params=["ours", "the project's own"])
async def store(request: pytest.FixtureRequest, stage: Stage) -> BaseStore:
    return PooledStore(stage.database) if request.param == "ours" else InMemoryStore()


async def test_each_owner_finds_what_is_theirs_and_nothing_else(store: BaseStore) -> None:
    stores = Stores(store, shared=False)
    trees = {owner: stores.of(owner) for owner in OWNERS}
    for owner, tree in trees.items():
        await tree.aput(PLACE, "k", {"owner": owner})
        await tree.aput((*PLACE, "deep"), "k", {"owner": owner})
    del trees[LOCAL.owner]
    for owner, tree in trees.items():
        item = await tree.aget(PLACE, "k")
        assert item is not None
        assert (item.namespace, item.value) == (PLACE, {"owner": owner})
        for prefix in ((), ("notes",), PLACE):
            found = await tree.asearch(prefix)
            assert {(item.namespace, item.value["owner"]) for item in found} == {
                (PLACE, owner),
                ((*PLACE, "deep"), owner),
            }
        assert await tree.alist_namespaces() == [PLACE, (*PLACE, "deep")]
        assert await tree.alist_namespaces(prefix=("*", "a"), suffix=("a",)) == [PLACE]
        assert await tree.alist_namespaces(max_depth=1) == [("notes",)]
    await trees["ann"].adelete(PLACE, "k")
    assert await trees["ann"].aget(PLACE, "k") is None
    assert await trees["anna"].aget(PLACE, "k") is not None


async def test_synchronous_nodes_have_the_same_tree(store: BaseStore) -> None:
    tree = Stores(store, shared=False).of("ann")
    await asyncio.to_thread(tree.put, PLACE, "k", {"n": 1})
    item = await asyncio.to_thread(tree.get, PLACE, "k")
    assert item is not None
    assert item.namespace == PLACE
    assert await Stores(store, shared=False).of("bob").asearch(()) == []


async def test_the_local_tree_is_bare_and_passes_the_owners_trees_over(stage: Stage) -> None:
    stores = Stores(PooledStore(stage.database), shared=False)
    local = stores.of(LOCAL.owner)
    await stores.of("ann").aput(PLACE, "k", {})
    await local.aput(PLACE, "k", {})
    assert await stage.sql("SELECT prefix FROM store ORDER BY prefix") == [
        {"prefix": f"{OWNER_MARK}ann.notes.a"},
        {"prefix": "notes.a"},
    ]
    assert [item.namespace for item in await local.asearch(())] == [PLACE]
    assert await local.alist_namespaces() == [PLACE]
    assert await local.alist_namespaces(prefix=("*",), suffix=("a",)) == [PLACE]


@pytest.mark.parametrize("owner", ["bob", LOCAL.owner])
async def test_nobody_names_an_owners_root(stage: Stage, owner: str) -> None:
    stores = Stores(PooledStore(stage.database), shared=False)
    await stores.of("ann").aput(PLACE, "k", {})
    tree, root = stores.of(owner), (f"{OWNER_MARK}ann", *PLACE)
    for work in (
        tree.aget(root, "k"),
        tree.aput(root, "k", {}),
        tree.adelete(root, "k"),
        tree.asearch(root[:1]),
        tree.alist_namespaces(prefix=root[:1]),
    ):
        with pytest.raises(InvalidNamespaceError):
            await work
    assert await stores.of("ann").aget(PLACE, "k") is not None


async def test_a_shared_store_is_one_tree_for_all(stage: Stage) -> None:
    stores = Stores(PooledStore(stage.database), shared=True)
    await stores.of("ann").aput(PLACE, "k", {})
    assert await stores.of("bob").aget(PLACE, "k") is not None


async def test_a_store_of_the_projects_own_is_handed_out_as_it_is_unless_owners_divide_it() -> None:
    own = InMemoryStore()
    assert Stores(own, shared=True).of("ann") is own
    assert Stores(own, shared=False).of(LOCAL.owner) is own
    assert isinstance(Stores(own, shared=False).of("ann"), Tree)


async def test_what_a_careless_store_finds_beside_the_tree_is_left_out() -> None:
    class Careless(InMemoryStore):
        async def abatch(self, ops):  # type: ignore[no-untyped-def]
            return await super().abatch(
                [op._replace(namespace_prefix=()) if hasattr(op, "namespace_prefix") else op for op in ops]
            )

    stores = Stores(Careless(), shared=False)
    await stores.of("ann").aput(PLACE, "k", {})
    assert await stores.of("bob").asearch(()) == []
