"""The graphs of a project: loaded once, handed out per use.

A target of `langgraph.json` may be a compiled graph, a `StateGraph` (compiled here, once) or a factory
(called for every use). What is handed out is a shallow copy that carries the server's checkpointer and
store, so runs that use the same graph at the same time never see each other's.
"""

from __future__ import annotations

import asyncio
import copy
import difflib
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeAlias, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore
from langgraph_sdk.auth.types import BaseUser
from langgraph_sdk.runtime import AccessContext, ServerRuntime, _ExecutionRuntime, _ReadRuntime

from holdfast.db.checkpoints import FencedSaver
from holdfast.db.foreign import ForeignSaver
from holdfast.db.serde import StateSerializer
from holdfast.errors import ProjectError, UnknownGraph
from holdfast.project import GraphSpec, Project
from holdfast.rules.revision import Revision
from holdfast.worker.factory import Factory
from holdfast.worker.imports import Importer, definition_line
from holdfast.worker.revisions import revision_of
from holdfast.worker.statetypes import allow_list

Graph: TypeAlias = Pregel[Any, Any, Any, Any]
AllowList: TypeAlias = frozenset[tuple[str, str]]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Loaded:
    """One graph of the project. `made` is a graph or a factory; `place` is `file:line` for messages."""

    spec: GraphSpec
    made: Graph | Factory
    place: str
    allowed: AllowList
    revision: Revision | None
    """The newest that was handed out; None before a factory made its first graph."""
    serde: JsonPlusSerializer = field(init=False)
    """Reads what the graph's state declares."""

    def __post_init__(self) -> None:
        self.serde = StateSerializer().with_msgpack_allowlist(self.allowed)


class Graphs:
    """All graphs of one project. Holds process-wide state (see `worker.imports`) until `close`."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._importer = Importer(project)
        self._graphs: dict[str, _Loaded] = {}
        self._environment: list[str] = []

    @classmethod
    async def load(cls, project: Project) -> Self:
        """Apply the project's `env`, import its code in a thread, and compile what is not compiled.

        The process environment wins over the project's. Factories are not called yet.

        Raises:
            ProjectError: a graph does not load; names the graph and the line of the user's code.
        """
        graphs = cls(project)
        graphs._set_environment()
        graphs._importer.install()
        try:
            # User code may take its time at import, and may call asyncio.run() there.
            await asyncio.to_thread(graphs._load_all)
        except BaseException:
            graphs.close()
            raise
        return graphs

    def close(self) -> None:
        """Give back what `load` took from the process: `sys.path`, the modules it imported, the
        environment."""
        self._importer.forget()
        for name in self._environment:
            os.environ.pop(name, None)
        self._environment = []

    def ids(self) -> tuple[str, ...]:
        """The graph ids, in the order of langgraph.json."""
        return tuple(self._graphs)

    def load_object(self, what: str, target: str) -> tuple[object, str]:
        """Another object of the project's that langgraph.json names, and its place (`file:line`) for messages.

        User code may take its time at import: call it in a thread.

        Raises:
            ProjectError: it does not load; names `what`, the key of langgraph.json, and the line of the user's code.
        """
        spec = GraphSpec(what, target, None)
        module = self._import(spec)
        return self._attribute(module, spec), _place(module, spec.attribute)

    def failure(self, what: str, target: str, place: str | None, error: BaseException | str) -> ProjectError:
        """Says that what langgraph.json names under `what` cannot be used, and where to look."""
        if isinstance(error, BaseException):
            place, error = self._importer.failing_line(error) or place, _text(error)
        return self._error(GraphSpec(what, target, None), place, error)

    def description(self, graph_id: str) -> str | None:
        """What langgraph.json says about the graph."""
        return self._loaded(graph_id).spec.description

    def name(self, graph_id: str) -> str:
        """The graph's own name; its id if it has none, or if it is only made when a run needs it."""
        made = self._loaded(graph_id).made
        own = made.get_name() if isinstance(made, Pregel) else "LangGraph"
        return graph_id if own == "LangGraph" else own

    def serde_allow_list(self, graph_id: str) -> AllowList:
        """`allowed_msgpack_modules` for a `JsonPlusSerializer` that reads this graph's state; see
        `worker.statetypes`.

        What a factory makes is known once it has been opened, so before that its list is empty. `open`
        gives the list to the checkpointer itself; this is for readers that have no graph.
        """
        return self._loaded(graph_id).allowed

    def revisions(self) -> dict[str, Revision]:
        """The graphs' revisions, as far as they are known: what a factory makes is once it has been opened."""
        return {name: loaded.revision for name, loaded in self._graphs.items() if loaded.revision is not None}

    def open(
        self,
        graph_id: str,
        config: RunnableConfig,
        *,
        checkpointer: BaseCheckpointSaver[Any] | None,
        store: BaseStore | None,
        access: AccessContext = "threads.create_run",
        context: Any = None,
        user: BaseUser | None = None,
    ) -> AbstractAsyncContextManager[Graph]:
        """The compiled graph for one use, with exactly this checkpointer (a clone of it that may read the
        graph's types, where its serializer is strict) and this store (or its own, where `store` is None).

        `access`, `context` and `user` are for factories that ask for a `ServerRuntime`.

        Raises:
            UnknownGraph: at once.
            ProjectError: on entering, if a factory makes something else than a graph. What user code raises
            inside a
                factory goes through as it is.
        """
        loaded = self._loaded(graph_id)
        runtime = None
        if isinstance(loaded.made, Factory) and loaded.made.wants_runtime:
            runtime = _runtime(access, store, context, user)
        return self._opened(loaded, config, runtime, checkpointer, store)

    @asynccontextmanager
    async def _opened(
        self,
        loaded: _Loaded,
        config: RunnableConfig,
        runtime: ServerRuntime[Any] | None,
        checkpointer: BaseCheckpointSaver[Any] | None,
        store: BaseStore | None,
    ) -> AsyncIterator[Graph]:
        if not isinstance(loaded.made, Factory):
            yield self._equipped(loaded.made, loaded, checkpointer, store)
            return
        async with loaded.made.made(config, runtime) as value:
            graph = _compiled(value)
            if graph is None:
                raise self._error(loaded.spec, loaded.place, f"what the factory made is {_kind(value)}, not a graph")
            allowed = allow_list(graph)
            revision = revision_of(graph)
            loaded.allowed, loaded.revision = loaded.allowed | allowed, revision
            own = _Loaded(loaded.spec, loaded.made, loaded.place, allowed, revision)
            yield self._equipped(graph, own, checkpointer, store)

    def _equipped(
        self, graph: Graph, loaded: _Loaded, checkpointer: BaseCheckpointSaver[Any] | None, store: BaseStore | None
    ) -> Graph:
        # Not graph.copy(): it builds a new graph from the attributes, which loses the private ones (the mappers
        # that turn streamed values into the state's own classes) and validates the whole graph again.
        equipped = copy.copy(graph)
        fingerprint = loaded.revision.fingerprint if loaded.revision is not None else None
        if isinstance(checkpointer, FencedSaver):
            equipped.checkpointer = saver = checkpointer.reading(loaded.serde)
            saver.holds_inputs = isinstance(graph, CompiledStateGraph)
            saver.by_element = self._project.sections.checkpointer.by_element(loaded.spec.graph_id)
            saver.graph_revision = fingerprint
        elif isinstance(checkpointer, ForeignSaver):
            equipped.checkpointer = foreign = checkpointer.reading(loaded.serde, loaded.allowed)
            foreign.graph_revision = fingerprint
        else:
            equipped.checkpointer = None if checkpointer is None else checkpointer.with_allowlist(loaded.allowed)
        if store is not None:
            equipped.store = store
        return equipped

    def _loaded(self, graph_id: str) -> _Loaded:
        try:
            return self._graphs[graph_id]
        except KeyError:
            raise UnknownGraph(graph_id, self.ids()) from None

    def _set_environment(self) -> None:
        for name, value in self._project.env.items():
            if name not in os.environ:
                os.environ[name] = value
                self._environment.append(name)

    def _load_all(self) -> None:
        for graph_id, spec in self._project.graphs.items():
            self._graphs[graph_id] = self._load_one(spec)

    def _load_one(self, spec: GraphSpec) -> _Loaded:
        module = self._import(spec)
        value = self._attribute(module, spec)
        place = _place(module, spec.attribute)
        try:
            made = _compiled(value) or _factory(value)
            allowed = allow_list(made) if isinstance(made, Pregel) else frozenset()
            revision = revision_of(made) if isinstance(made, Pregel) else None
        except Exception as error:  # user code: a graph that does not compile may raise anything
            raise self._error(spec, self._importer.failing_line(error) or place, _text(error)) from error
        if made is None:
            wanted = "a compiled graph, a StateGraph or a function that makes one"
            raise self._error(spec, place, f"{spec.attribute!r} is {_kind(value)}, not {wanted}")
        if isinstance(made, Pregel) and made.checkpointer:
            log.warning("graph %r brings a checkpointer of its own; Holdfast's is used instead", spec.graph_id)
        return _Loaded(spec=spec, made=made, place=place, allowed=allowed, revision=revision)

    def _import(self, spec: GraphSpec) -> ModuleType:
        try:
            return self._importer.module(spec)
        except (Exception, SystemExit) as error:  # user code may raise anything, and may call sys.exit()
            raise self._error(spec, self._importer.failing_line(error), _text(error)) from error

    def _attribute(self, module: ModuleType, spec: GraphSpec) -> object:
        try:
            return getattr(module, spec.attribute)
        except AttributeError as error:
            near = difflib.get_close_matches(spec.attribute, vars(module), n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            place = module.__file__ or module.__name__
            raise self._error(spec, place, f"there is no {spec.attribute!r} in it{hint}") from error

    def _error(self, spec: GraphSpec, place: str | None, text: str) -> ProjectError:
        # Without a line of the user's to show, the line to look at is the one that names the graph.
        where = place or str(self._project.config_path)
        what = f"graph {spec.graph_id!r}" if spec.graph_id in self._project.graphs else spec.graph_id
        return ProjectError(f"{what} ({spec.target}) does not load: {where}: {text}")


def _compiled(value: object) -> Graph | None:
    if isinstance(value, Pregel):
        return value
    return value.compile() if isinstance(value, StateGraph) else None


def _factory(value: object) -> Factory | None:
    # Classes and runnables can be called too, but are hardly meant to be.
    if not callable(value) or isinstance(value, type | Runnable):
        return None
    return Factory(value)


def _runtime(
    access: AccessContext, store: BaseStore | None, context: object, user: BaseUser | None
) -> ServerRuntime[Any]:
    # LangGraph says not to construct these directly: that is the server's part, and here is the server.
    given = cast("BaseStore", store)
    if access == "threads.create_run":
        return _ExecutionRuntime(access_context=access, user=user, store=given, context=context)
    return _ReadRuntime(access_context=access, user=user, store=given)


def _place(module: ModuleType, attribute: str) -> str:
    if not module.__file__:
        return module.__name__
    line = definition_line(Path(module.__file__), attribute) if module.__file__.endswith(".py") else None
    return module.__file__ if line is None else f"{module.__file__}:{line}"


def _kind(value: object) -> str:
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    return f"the class {name}" if isinstance(value, type) else f"of type {name}"


def _text(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"the code ends the process while it is imported (exit status {error.code!r})"
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    if isinstance(error, ModuleNotFoundError):
        return f"{error} (is it installed in the environment that runs Holdfast?)"
    return f"{type(error).__name__}: {error}"
