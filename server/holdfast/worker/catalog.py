"""What the project's graphs look like, for the API.

A graph that a factory makes may look different under other settings, so an assistant's own are handed to it. What the
factory raises is the project's fault, not the server's: it becomes an answer that says so.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from holdfast.errors import BadRequest, UnknownGraph
from holdfast.wire import codec
from holdfast.worker.describe import Graph, drawing, schemas, subgraphs, unknown_schemas
from holdfast.worker.graphs import Graphs

T = TypeVar("T")
Configurable = Mapping[str, Any] | None

logger = logging.getLogger(__name__)


class GraphCatalog:
    """Drawings and schemas of the project's graphs."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._schemas: dict[str, dict[str, Any]] = {}

    def ids(self) -> tuple[str, ...]:
        return self._graphs.ids()

    async def drawing(self, graph_id: str, *, xray: bool | int, configurable: Configurable = None) -> dict[str, Any]:
        """`{nodes, edges}`; `xray` draws subgraphs, to that depth if it is a number.

        Raises:
            BadRequest: the project's code does not make the graph.
        """

        async def draw(graph: Graph) -> dict[str, Any]:
            return await drawing(graph, xray)

        return await self._described(graph_id, configurable, draw)

    async def schemas(self, graph_id: str, *, configurable: Configurable = None) -> dict[str, Any]:
        """Input, output, state, config and context schema; None where there is none."""
        if not configurable and graph_id in self._schemas:
            return self._schemas[graph_id]

        async def describe(graph: Graph) -> dict[str, Any]:
            return schemas(graph, graph_id)

        try:
            found = await self._described(graph_id, configurable, describe)
        except BadRequest:
            return unknown_schemas(graph_id)
        if not configurable:
            self._schemas[graph_id] = found
        return found

    async def subgraphs(
        self, graph_id: str, *, recurse: bool, namespace: str | None, configurable: Configurable = None
    ) -> dict[str, Any]:
        """The same for subgraphs, by name.

        Raises:
            BadRequest: the project's code does not make the graph.
        """

        async def describe(graph: Graph) -> dict[str, Any]:
            return subgraphs(graph, recurse, namespace)

        return await self._described(graph_id, configurable, describe)

    async def _described(
        self, graph_id: str, configurable: Configurable, describe: Callable[[Graph], Awaitable[T]]
    ) -> T:
        config: Any = {"configurable": dict(configurable or {})}
        try:
            async with self._graphs.open(
                graph_id, config, checkpointer=None, store=None, access="assistants.read"
            ) as graph:
                return await describe(graph)
        except UnknownGraph:
            raise
        except Exception as error:
            logger.warning("graph %r cannot be described", graph_id, exc_info=True)
            said = codec.error_body(error)
            raise BadRequest(f"Graph '{graph_id}' cannot be described: {said['error']}: {said['message']}") from error
