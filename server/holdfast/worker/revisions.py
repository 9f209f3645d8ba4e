"""Graphs and the states that earlier revisions of them wrote (`rules/revision.py`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, NotRequired, Required, Union, cast, get_args, get_origin

from langgraph.channels.base import BaseChannel
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.pregel import Pregel
from langgraph.types import Send, StateSnapshot
from typing_extensions import ReadOnly

from holdfast.db.revisions import Revisions
from holdfast.db.savers import Saver
from holdfast.errors import GraphChanged, StateLost
from holdfast.rules.revision import UNKNOWN, Revision, broken, lost

_BRANCH = "branch:to:"
_INTERNAL = ("__", "branch:", "join:")
"""Channels that a StateGraph makes for its edges."""

_TASKS = "__pregel_tasks"
_WRAPPERS = (Annotated, Required, NotRequired, ReadOnly)


def revision_of(graph: Pregel[Any, Any, Any, Any]) -> Revision:
    """The nodes and the state's channels of a compiled graph."""
    return Revision(
        nodes=sorted(name for name in graph.nodes if not name.startswith("__")),
        channels={
            name: f"{type(channel).__name__}[{_named(channel.ValueType)}]"
            for name, channel in graph.channels.items()
            if isinstance(channel, BaseChannel) and not name.startswith(_INTERNAL)
        },
    )


def waiting_nodes(saved: CheckpointTuple | None) -> frozenset[str]:
    """The nodes whose turn it is at a checkpoint, whether the graph still knows them or not."""
    values = saved.checkpoint["channel_values"] if saved is not None else {}
    due = {name.removeprefix(_BRANCH) for name in values if name.startswith(_BRANCH)}
    sent = values.get(_TASKS) or ()
    return frozenset(due | {send.node for send in sent if isinstance(send, Send)})


def saver_of(graph: Pregel[Any, Any, Any, Any]) -> Saver:
    """The saver that a graph was handed out with."""
    return cast("Saver", graph.checkpointer)


def fingerprint_of(graph: Pregel[Any, Any, Any, Any]) -> str | None:
    """The fingerprint of a graph that was handed out; made when it was loaded."""
    return saver_of(graph).graph_revision


async def written_under(
    revisions: Revisions, graph_id: str, graph: Pregel[Any, Any, Any, Any], metadata: Mapping[str, Any] | None
) -> Revision | None:
    """The revision that wrote a state; None if it is the graph's own."""
    written = (metadata or {}).get("graph_revision")
    if written == fingerprint_of(graph):
        return None
    return (await revisions.find(graph_id, written) if written else None) or UNKNOWN


def check_readable(graph_id: str, then: Revision, now: Revision) -> None:
    """
    Raises:
        GraphChanged: the state would read as empty.
    """
    _check(graph_id, lost(then, now))


def check_waiting(graph_id: str, then: Revision, now: Revision, waiting: Collection[str]) -> None:
    """
    Raises:
        GraphChanged: the thread waits in these nodes and cannot go on.
    """
    _check(graph_id, broken(then, now, waiting))


def check_there(snapshot: StateSnapshot) -> None:
    """
    Raises:
        StateLost: there is no checkpoint.
    """
    if not snapshot.config["configurable"].get("checkpoint_id"):
        raise StateLost("The thread's checkpoints are not where this server keeps them (checkpointer.backend).")


def _check(graph_id: str, findings: list[str]) -> None:
    if findings:
        raise GraphChanged(f"Graph '{graph_id}' has changed: {'; '.join(findings)}.")


def _named(kind: Any) -> str:
    return "|".join(sorted(set(_names(kind))))


def _names(kind: Any) -> Iterator[str]:
    """What a type is called, without what may differ between two starts: arguments, modules, addresses."""
    origin = get_origin(kind)
    if origin in _WRAPPERS:
        yield from _names(get_args(kind)[0])
    elif origin in (Union, UnionType):
        for alternative in get_args(kind):
            yield from _names(alternative)
    elif kind is None or kind is NoneType:
        yield "None"
    else:
        named = origin or kind
        yield getattr(named, "__qualname__", None) or getattr(named, "__name__", None) or type(named).__name__
