"""Tool calls that were never answered, and the checkpoint that answers them.

Theory of operation. A run that breaks off inside a tool leaves a model's message whose calls have no ToolMessage, and
providers refuse such a history for ever. Before new input goes on from there, every such call gets a ToolMessage of
status "error" right behind the message that made it, saved as a checkpoint of its own (`source: update`,
`repair: dangling_tool_calls`). A call whose tool had finished, but whose step had not, gets the tool's own result.

The checkpoint is written by a node that exists for this one update: it writes these channels and leads nowhere, so no
edge of the project's is walked, and what was pending is left behind, as new input would leave it. How a channel takes
the answers is tried on a copy of it: appended, if that gives the history that is wanted, otherwise the whole history
anew. A channel that takes neither stays as it is.

It carries no `run_id`: LangGraph would take it for the run's own and not apply the run's input, and so would
`rules/recovery.py`. `repaired_for` names the run instead, so that a rollback takes it away.
"""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.base import BaseChannel
from langgraph.pregel import Pregel
from langgraph.pregel._read import PregelNode
from langgraph.pregel._write import ChannelWrite, ChannelWriteTupleEntry
from langgraph.types import Overwrite, StateSnapshot

logger = logging.getLogger(__name__)

REPAIR = "dangling_tool_calls"
ABANDONED = "This call got no result: the run that made it ended first. Whether it took effect is not known."
DROPPED = "This call got no result: the conversation went on without an answer to its question."

Graph = Pregel[Any, Any, Any, Any]
_NODE = "holdfast:repair"


async def answer_dangling_calls(
    graph: Graph, at: RunnableConfig, labels: Mapping[str, Any], given: Any = None
) -> RunnableConfig | None:
    """Save a repaired state on top of the one at a checkpoint; where it is, or None if there is nothing to repair.

    Args:
        at: `checkpoint_id` and all. Without it LangGraph would show what finished tasks wrote, which new input drops.
        labels: the metadata of the checkpoint.
        given: the input that is about to be applied; what it answers itself is left to it.
    """
    if not (updates := await repairing_updates(graph, at, given)):
        return None
    config: RunnableConfig = {"configurable": dict(at["configurable"]), "metadata": dict(labels)}
    repaired = await _with_repair_node(graph).aupdate_state(config, updates, as_node=_NODE)
    logger.info("thread %s: tool calls without an answer were answered", at["configurable"]["thread_id"])
    return repaired


async def repairing_updates(graph: Graph, at: RunnableConfig, given: Any = None) -> dict[str, Any]:
    """What to write to which channel so that every tool call is answered; empty if all are."""
    snapshot = await graph.aget_state(at)
    if not isinstance(snapshot.values, Mapping):
        return {}
    spared = set(_answered_by(given))
    results = {message.tool_call_id: message for task in snapshot.tasks for message in _tool_messages(task.result)}
    text = DROPPED if _only_asks(snapshot) else ABANDONED
    updates: dict[str, Any] = {}
    for name, value in snapshot.values.items():
        whole = answered(value, text, spared, results)
        if whole is not None and (update := _update(graph.channels.get(name), value, whole)) is not None:
            updates[name] = update
    return updates


def answered(
    value: Any, text: str, spared: Iterable[str] = (), results: Mapping[str, ToolMessage] | None = None
) -> list[Any] | None:
    """The history with every call answered right behind the message that made it; None if nothing is to be done.

    An answer that stands further down is moved up. Calls in `spared` are left as they are; what stands in `results` is
    the answer of its call, and `text` that of all others.
    """
    if not isinstance(value, list) or not any(isinstance(message, AIMessage) for message in value):
        return None
    known = set(spared)
    whole: list[Any] = []
    moved: set[int] = set()
    changed = False
    for place, message in enumerate(value):
        if place in moved:
            continue
        whole.append(message)
        if not isinstance(message, AIMessage):
            continue
        behind = [found for found in _answers_behind(value, place) if found not in moved]
        whole += (value[found] for found in behind)
        moved.update(behind)
        for call_id, name in _unanswered(message, [value[found] for found in behind], known):
            later = _later_answer(value, place, call_id, moved)
            if later is not None:
                moved.add(later)
                whole.append(value[later])
            else:
                whole.append((results or {}).get(call_id) or _answer(message, call_id, name, text))
            changed = True
    return whole if changed else None


def _only_asks(snapshot: StateSnapshot) -> bool:
    unfinished = [task for task in snapshot.tasks if task.result is None]
    return bool(unfinished) and all(task.interrupts for task in unfinished)


def _answers_behind(value: Sequence[Any], place: int) -> Iterator[int]:
    for found in range(place + 1, len(value)):
        if not isinstance(value[found], ToolMessage):
            return
        yield found


def _unanswered(message: AIMessage, behind: Sequence[ToolMessage], spared: set[str]) -> Iterator[tuple[str, str]]:
    done = spared | {answer.tool_call_id for answer in behind}
    for call in [*message.tool_calls, *message.invalid_tool_calls]:
        if call["id"] and call["id"] not in done:
            yield call["id"], call["name"] or ""


def _later_answer(value: Sequence[Any], place: int, call_id: str, moved: set[int]) -> int | None:
    for found in range(place + 1, len(value)):
        message = value[found]
        if isinstance(message, ToolMessage) and message.tool_call_id == call_id and found not in moved:
            return found
        if isinstance(message, AIMessage) and any(call["id"] == call_id for call in message.tool_calls):
            return None  # the same id was given again: what follows answers that call
    return None


def _answer(message: AIMessage, call_id: str, name: str, text: str) -> ToolMessage:
    # The same id for the same call: whoever repairs twice answers once.
    made = uuid.uuid5(uuid.NAMESPACE_OID, f"{message.id} {call_id}")
    return ToolMessage(text, tool_call_id=call_id, name=name, status="error", id=str(made))


def _tool_messages(written: Any) -> Iterator[ToolMessage]:
    for value in written.values() if isinstance(written, Mapping) else ():
        yield from (message for message in _listed(value) if isinstance(message, ToolMessage))


def _answered_by(given: Any) -> Iterator[str]:
    """The ids of the calls that an input answers, as messages or as JSON."""
    for value in given.values() if isinstance(given, Mapping) else ():
        for message in _listed(value):
            call_id = message.get("tool_call_id") if isinstance(message, Mapping) else None
            if call_id or isinstance(message, ToolMessage):
                yield str(call_id or message.tool_call_id)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _update(channel: Any, value: list[Any], whole: list[Any]) -> Any:
    """What to write so that the channel holds `whole`; None if nothing does."""
    if not isinstance(channel, BaseChannel):
        return None
    known = {id(message) for message in value}
    for update in ([message for message in whole if id(message) not in known], Overwrite(whole), whole):
        with suppress(Exception):  # the project's reducer may not know what it is given, and raise anything
            tried = channel.from_checkpoint(list(value))
            tried.update([update])
            if _told(tried.get()) == _told(whole):
                return update
    logger.warning("channel %r does not take answers to its tool calls; it stays as it is", channel.key)
    return None


def _told(messages: Any) -> list[Any]:
    return [
        (type(message), message.content, getattr(message, "tool_call_id", None))
        if isinstance(message, BaseMessage)
        else message
        for message in messages
    ]


def _with_repair_node(graph: Graph) -> Graph:
    write = ChannelWrite([ChannelWriteTupleEntry(mapper=lambda values: tuple(values.items()))])
    repairing = copy.copy(graph)
    repairing.nodes = {**graph.nodes, _NODE: PregelNode(channels=[], triggers=[], writers=[write])}
    return repairing
