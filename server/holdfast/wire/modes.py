"""From a run's stream modes to langgraph's, and from langgraph's chunks to events.

`graph.astream(stream_mode=modes.graph_modes, subgraphs=modes.graph_subgraphs)` yields `(mode, chunk)`, or with
subgraphs `(namespace, mode, chunk)`. The `events` mode needs `graph.astream_events(version="v2", ...)` with the same
two arguments: there the chunks arrive as the root run's `on_chain_stream` events.

langgraph reports interrupts by itself, one `updates` and one `values` chunk for every task that stops, with an
`__interrupt__` entry; `codec.dumps` writes it in the shape that clients know, so these chunks pass as they are.

`tools` and `lifecycle` are in the SDKs' types, and refused by the official server. Tool events are langgraph's `tools`
chunks under the names of those types (`on_tool_start` ...). Lifecycle events say of every subgraph when it starts and
ends, with the tool call that started it: what langgraph infers from `tasks`, whatever else was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessageChunk, BaseMessageChunk
from langchain_core.messages.utils import message_chunk_to_message
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.schema import StreamEvent
from langgraph.stream.transformers import LifecycleTransformer
from langgraph.types import StateSnapshot

from holdfast.errors import Invalid
from holdfast.wire import codec
from holdfast.wire.state import checkpoint_of, public, public_config

Event = tuple[str, Any]
"""The event's name, and the value that `codec.dumps` makes its data of."""

_GRAPH_MODES = ("values", "updates", "messages", "custom", "tasks", "checkpoints", "debug", "tools")
STREAM_MODES = frozenset({*_GRAPH_MODES, "messages-tuple", "events", "lifecycle"})
THREAD_MODES = frozenset({"run_modes", "lifecycle", "state_update"})

_HIDDEN = "langsmith:hidden"
_TOOL_EVENTS = {
    "tool-started": ("on_tool_start", "input", "input"),
    "tool-output-delta": ("on_tool_event", "data", "delta"),
    "tool-finished": ("on_tool_end", "output", "output"),
    "tool-error": ("on_tool_error", "error", "message"),
}
"""langgraph's tool events: the SDKs' name, and where what they say is found and goes."""


def asked_modes(asked: Iterable[str], known: frozenset[str]) -> frozenset[str]:
    """The modes in query parameters: given repeatedly, as a comma list or as a JSON array.

    Raises:
        Invalid: an unknown mode.
    """
    modes = {mode for value in asked for mode in _several(value)}
    if unknown := sorted(modes - known):
        raise Invalid(f"Unknown stream mode: {', '.join(unknown)}")
    return frozenset(modes)


def _several(value: str) -> list[str]:
    if not value.startswith("["):
        return [mode.strip() for mode in value.split(",") if mode.strip()]
    try:
        listed = codec.loads(value.encode())
    except ValueError as error:
        raise Invalid("stream_mode must be a mode, a comma list or a JSON array") from error
    return [str(mode) for mode in listed]


class Modes:
    """The stream modes of one run of one graph; keeps what `messages` has accumulated, so one instance per attempt.

    `messages-tuple` wins over `messages`. Raises `ValueError` for an unknown mode.
    """

    def __init__(self, requested: Sequence[str], *, subgraphs: bool) -> None:
        if unknown := sorted(set(requested) - STREAM_MODES):
            raise ValueError(f"Unknown stream mode: {', '.join(unknown)}")
        is_tuple = "messages-tuple" in requested
        wanted = {*requested, "messages"} if is_tuple else set(requested)
        self._lifecycle = _Lifecycle() if "lifecycle" in wanted else None
        needed = {*wanted, "tasks"} if self._lifecycle else wanted
        self.graph_modes = [mode for mode in _GRAPH_MODES if mode in needed]
        self.graph_subgraphs = subgraphs or self._lifecycle is not None
        self.uses_events = "events" in wanted
        self._subgraphs = subgraphs
        converters: dict[str, Callable[[str, Any], Iterator[Event]]] = {
            "messages": self._message_tuple if is_tuple else self._whole_messages,
            "tasks": self._tasks,
            "checkpoints": self._checkpoints,
            "debug": self._debug,
            "tools": self._tools,
        }
        self._converters = {mode: converters.get(mode) for mode in self.graph_modes if mode in wanted}
        self._tool_names: dict[str, str] = {}
        self._streamed: dict[str | None, BaseMessageChunk | None] = {}
        self._suffixes: dict[tuple[str, ...], str] = {(): ""}
        self._last_metadata: tuple[Mapping[str, Any], Any] = ({}, None)
        self._root_run: str | None = None

    def events(self, ns: tuple[str, ...], mode: str, chunk: Any) -> Iterator[Event]:
        """The events of one chunk; none for a mode that was not requested, or a namespace without `subgraphs`."""
        if mode == "tasks" and self._lifecycle is not None:
            yield from (("lifecycle", payload) for payload in self._lifecycle.of(ns, chunk))
        if mode not in self._converters or (ns and not self._subgraphs):
            return
        suffix = self._suffix(ns)
        convert = self._converters[mode]
        if convert is None:
            yield mode + suffix, chunk
        else:
            yield from convert(suffix, chunk)

    def langchain_event(self, event: StreamEvent) -> Iterator[Event]:
        """The events of one item of `astream_events`; the first item it is given belongs to the graph itself."""
        if self._root_run is None:
            self._root_run = event["run_id"]
        if event["event"] == "on_chain_stream" and event["run_id"] == self._root_run:
            *ns, mode, chunk = event["data"]["chunk"]
            return self.events(tuple(ns[0]) if ns else (), mode, chunk)
        if not self.uses_events or _HIDDEN in event.get("tags", ()):
            return iter(())
        return iter((("events", {**event, "metadata": self._metadata(event["metadata"])}),))

    def _suffix(self, ns: tuple[str, ...]) -> str:
        suffix = self._suffixes.get(ns)
        if suffix is None:
            # A node may have any name, but the name of an event is one line.
            suffix = self._suffixes[ns] = "".join(f"|{' '.join(part.splitlines())}" for part in ns)
        return suffix

    def _metadata(self, metadata: Mapping[str, Any]) -> Any:
        """Cleaned and packed once for all tokens of a model call: they come with the same dict."""
        source, known = self._last_metadata
        if source is not metadata:
            known = codec.written(public(metadata))
            self._last_metadata = (metadata, known)
        return known

    def _message_tuple(self, suffix: str, chunk: Any) -> Iterator[Event]:
        message, metadata = chunk
        yield "messages" + suffix, [message, self._metadata(metadata)]

    def _whole_messages(self, _: str, chunk: Any) -> Iterator[Event]:
        # Messages of subgraphs come under the same three names: clients look for exactly these.
        message, metadata = _local(chunk[0]), chunk[1]
        key = message["id"] if isinstance(message, dict) else message.id
        if key not in self._streamed:
            self._streamed[key] = None
            yield "messages/metadata", {key: {"metadata": self._metadata(metadata)}}
        if not isinstance(message, BaseMessageChunk):
            yield "messages/complete", [message]
            return
        so_far = self._streamed[key]
        whole = message if so_far is None else so_far + message
        self._streamed[key] = whole
        yield "messages/partial", [message_chunk_to_message(whole)]

    def _tasks(self, suffix: str, payload: dict[str, Any]) -> Iterator[Event]:
        yield "tasks" + suffix, _task_event(payload)

    def _checkpoints(self, suffix: str, payload: dict[str, Any]) -> Iterator[Event]:
        yield "checkpoints" + suffix, _checkpoint(payload)

    def _debug(self, suffix: str, chunk: dict[str, Any]) -> Iterator[Event]:
        of_checkpoint = chunk["type"] == "checkpoint"
        payload = (_debug_checkpoint if of_checkpoint else _task_event)(chunk["payload"])
        yield "debug" + suffix, {**chunk, "payload": payload}

    def _tools(self, suffix: str, chunk: dict[str, Any]) -> Iterator[Event]:
        name, field, says = _TOOL_EVENTS[chunk["event"]]
        call = chunk["tool_call_id"]
        tool = self._tool_names.setdefault(call, chunk.get("tool_name", ""))
        if chunk["event"] in ("tool-finished", "tool-error"):
            del self._tool_names[call]
        yield "tools" + suffix, {"event": name, "toolCallId": call, "name": tool, field: chunk.get(says)}


class _Lifecycle:
    """langgraph's own inference of when subgraphs start and end, fed with the `tasks` chunks of all namespaces."""

    def __init__(self) -> None:
        self._told: list[Any] = []
        self._transformer = LifecycleTransformer()
        # What langgraph's multiplexer does with the channel; the rest of it belongs to its event protocol.
        self._transformer.init()["lifecycle"]._wire(self._told.append)

    def of(self, ns: tuple[str, ...], chunk: Any) -> list[Any]:
        """What follows from a `tasks` chunk: `{event, namespace, graph_name?, trigger_call_id?, cause?, error?}`."""
        params: Any = {"namespace": list(ns), "timestamp": 0, "data": chunk}
        self._transformer.process({"type": "event", "method": "tasks", "params": params})
        told, self._told[:] = list(self._told), []
        return told


def _local(message: Any) -> Any:
    """A remote graph that runs as a subgraph sends dicts; its chunks have to become chunks again to be added up."""
    if isinstance(message, dict) and message.get("type") == "AIMessageChunk":
        return AIMessageChunk(**message)
    return message


def _task_event(payload: dict[str, Any]) -> dict[str, Any]:
    metadata = payload.get("metadata")
    return {**payload, "metadata": public(metadata)} if metadata else payload


def _checkpoint(payload: dict[str, Any]) -> dict[str, Any]:
    parent = payload["parent_config"]
    return {
        **payload,
        "config": public_config(payload["config"]),
        "parent_config": public_config(parent) if parent else None,
        "metadata": public(payload["metadata"]),
    }


def _debug_checkpoint(payload: dict[str, Any]) -> dict[str, Any]:
    """Studio builds its timeline from `checkpoint` and `parent_checkpoint`, which langgraph does not send."""
    parent = payload["parent_config"]
    return {
        **_checkpoint(payload),
        "checkpoint": checkpoint_of(payload["config"]),
        "parent_checkpoint": checkpoint_of(parent) if parent else None,
        "tasks": [_debug_task(task) for task in payload["tasks"]],
    }


def _debug_task(task: dict[str, Any]) -> dict[str, Any]:
    """A subgraph's task carries a config as its `state`; the API calls that its `checkpoint`."""
    state: RunnableConfig | StateSnapshot | None = task.get("state")
    if not isinstance(state, dict):
        return task
    rest = {key: value for key, value in task.items() if key != "state"}
    return {**rest, "checkpoint": checkpoint_of(state)}
