"""What the project's graphs look like, for the API; described once per graph."""

from __future__ import annotations

from typing import Any

from holdfast.worker.describe import drawing, schemas, subgraphs
from holdfast.worker.graphs import Graphs


class GraphCatalog:
    """Drawings and schemas of the project's graphs."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._schemas: dict[str, dict[str, Any]] = {}

    def ids(self) -> tuple[str, ...]:
        return self._graphs.ids()

    async def drawing(self, graph_id: str, *, xray: bool | int) -> dict[str, Any]:
        """`{nodes, edges}`; `xray` draws subgraphs, to that depth if it is a number."""
        async with self._graphs.open(graph_id, {}, checkpointer=None, store=None, access="assistants.read") as graph:
            return await drawing(graph, xray)

    async def schemas(self, graph_id: str) -> dict[str, Any]:
        """Input, output, state, config and context schema; None where there is none."""
        if graph_id not in self._schemas:
            async with self._graphs.open(
                graph_id, {}, checkpointer=None, store=None, access="assistants.read"
            ) as graph:
                self._schemas[graph_id] = schemas(graph, graph_id)
        return self._schemas[graph_id]

    async def subgraphs(self, graph_id: str, *, recurse: bool, namespace: str | None) -> dict[str, Any]:
        """The same for subgraphs, by name."""
        async with self._graphs.open(graph_id, {}, checkpointer=None, store=None, access="assistants.read") as graph:
            return subgraphs(graph, recurse, namespace)
