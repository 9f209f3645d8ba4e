"""Whose part of the store is whose (invariant 10, docs/decisions/0005).

With API keys every owner has a tree of namespaces of their own, for their requests and for the nodes of their runs
alike. It lies under a root label that names the owner and that neither of them sees or can name. The local owner's
tree is the bare one, as LangGraph's own store would write it. With the project's own authentication there is one tree,
and the project's handlers say who may reach what in it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import cast

from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
)

from holdfast.db.store import PooledStore
from holdfast.rules.caller import LOCAL
from holdfast.rules.store import OWNER_MARK

Namespace = tuple[str, ...]


class Stores:
    """The store as each owner sees it. `shared`: everybody sees the one tree."""

    def __init__(self, store: BaseStore, *, shared: bool) -> None:
        self._store = store
        self._shared = shared

    def of(self, owner: str) -> BaseStore:
        """The owner's tree. A store of the project's own that is nobody's in particular is handed out as it is."""
        if not self._shared and owner != LOCAL.owner:
            return Tree(self._store, (_root_label(owner),))
        return Tree(self._store, ()) if isinstance(self._store, PooledStore) else self._store


class Tree(BaseStore):
    """A store below a root, as if the root were not there.

    Raises:
        InvalidNamespaceError: from every operation that names an owner's root.
    """

    def __init__(self, store: BaseStore, root: Namespace) -> None:
        self.supports_ttl = store.supports_ttl
        self.ttl_config = store.ttl_config
        self._store = store
        self._root = root

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        return self._results(self._store.batch([self._inner(op) for op in ops]))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        return self._results(await self._store.abatch([self._inner(op) for op in ops]))

    def _inner(self, op: Op) -> Op:
        if isinstance(op, GetOp | PutOp):
            return op._replace(namespace=self._below(op.namespace))
        if isinstance(op, SearchOp):
            return op._replace(namespace_prefix=self._below(op.namespace_prefix))
        assert isinstance(op, ListNamespacesOp)
        conditions = op.match_conditions or ()
        rooted = MatchCondition("prefix", self._root)
        return op._replace(
            match_conditions=(
                *([rooted] if self._root else []),
                *(c._replace(path=self._below(c.path)) if c.match_type == "prefix" else c for c in conditions),
            ),
            max_depth=None if op.max_depth is None else op.max_depth + len(self._root),
        )

    def _below(self, namespace: Sequence[str]) -> Namespace:
        if namespace and namespace[0].startswith(OWNER_MARK):
            raise InvalidNamespaceError(f"Namespaces must not start with {OWNER_MARK!r}: {namespace}")
        return (*self._root, *namespace)

    def _results(self, results: list[Result]) -> list[Result]:
        return [self._outer(result) for result in results] if self._root else results

    def _outer(self, result: Result) -> Result:
        if isinstance(result, Item):
            return self._bare(result)
        if not isinstance(result, list):
            return result
        # Seen once more, since a store of the project's own may take a prefix of a label for the label.
        if result and isinstance(result[0], Item):
            items = cast("list[SearchItem]", result)
            return [cast("SearchItem", self._bare(item)) for item in items if self._holds(item.namespace)]
        namespaces = cast("list[Namespace]", result)
        return [self._rest(namespace) for namespace in namespaces if self._holds(namespace)]

    def _holds(self, namespace: Namespace) -> bool:
        return tuple(namespace[: len(self._root)]) == self._root

    def _rest(self, namespace: Namespace) -> Namespace:
        return tuple(namespace[len(self._root) :])

    def _bare(self, item: Item) -> Item:
        bare = copy.copy(item)
        bare.namespace = self._rest(tuple(item.namespace))
        return bare


def _root_label(owner: str) -> str:
    return OWNER_MARK + owner.replace("%", "%25").replace(".", "%2E")
