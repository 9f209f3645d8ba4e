"""The conversation as a channel, and as a prompt.

`messages` lives in a DeltaChannel: a checkpoint stores what a step wrote, not the whole conversation again,
and reading a thread replays those writes through `merge_messages`. That only works if the reducer gives the
same list however the writes are batched:

    merge_messages(merge_messages(state, xs), ys) == merge_messages(state, xs + ys)

Here it is so by construction: a plain left fold over the single messages. LangGraph's own delta reducer is
private and knows neither "remove all" nor ids for plain strings, which a client may send.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    BaseMessageChunk,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
    convert_to_messages,
    message_chunk_to_message,
)
from langchain_core.utils.json import parse_json_markdown
from langgraph.graph.message import REMOVE_ALL_MESSAGES

_UNREADABLE = "unreadable"
ABANDONED = "This call was not run: the conversation went on without an answer to it."


def merge_messages(current: Sequence[Any], writes: Sequence[Any]) -> list[AnyMessage]:
    """Fold `writes` (each a message-like or a list of them) into the conversation `current`.

    A known id replaces that message where it stands, a RemoveMessage takes its message out (or everything,
    with REMOVE_ALL_MESSAGES), anything else is appended. Nothing raises: removing an unknown id does
    nothing, and what cannot be read as a message is kept as one that says so (`unreadable`).
    """
    merged = {message.id: message for message in current if _is_settled(message)}
    if len(merged) != len(current):
        # Not our own result but raw input, an overwrite say: it is folded like any other write.
        merged, writes = {}, [list(current), *writes]
    for message in _each_message(writes):
        if isinstance(message, RemoveMessage):
            _remove(message, merged)
        else:
            known = message if message.id else message.model_copy(update={"id": _stable_id(message, merged)})
            merged[cast("str", known.id)] = known
    return cast("list[AnyMessage]", list(merged.values()))


def unreadable(message: BaseMessage) -> str | None:
    """Why what was sent as this message is none; None for an ordinary message."""
    reason = message.additional_kwargs.get(_UNREADABLE)
    return str(reason) if reason else None


def _is_settled(message: Any) -> bool:
    if isinstance(message, RemoveMessage | BaseMessageChunk):
        return False
    return isinstance(message, BaseMessage) and bool(message.id)


def _each_message(writes: Sequence[Any]) -> Iterator[BaseMessage]:
    for write in writes:
        for sent in write if isinstance(write, list) else [write]:
            message = _as_message(sent)
            yield message_chunk_to_message(message) if isinstance(message, BaseMessageChunk) else message


def _as_message(sent: Any) -> BaseMessage:
    if isinstance(sent, BaseMessage):
        return sent
    try:
        return convert_to_messages([sent])[0]
    except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as error:
        # The write is already saved when LangGraph calls the reducer: raising here would raise again at every
        # look at the thread. The agent refuses to answer such a message instead.
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        return HumanMessage(repr(sent)[:500], additional_kwargs={_UNREADABLE: reason})


def _remove(message: RemoveMessage, merged: dict[str, BaseMessage]) -> None:
    if message.id == REMOVE_ALL_MESSAGES:
        merged.clear()
    else:
        merged.pop(cast("str", message.id), None)


def _stable_id(message: BaseMessage, merged: dict[str, BaseMessage]) -> str:
    # A random id would differ on every replay; this one follows from the conversation so far.
    seed = "\n".join([*list(merged)[-1:], str(len(merged)), message.type, repr(message.content)])
    candidate = str(uuid.uuid5(uuid.NAMESPACE_OID, seed))
    while candidate in merged:
        candidate = str(uuid.uuid5(uuid.NAMESPACE_OID, candidate))
    return candidate


def prompt(messages: Sequence[BaseMessage], system_prompt: str) -> list[BaseMessage]:
    """What the model is sent: the system prompt, then the conversation with every tool call answered.

    A user may write on instead of answering an approval; providers refuse a call without a result, so such a
    call is answered here with a note, right behind the message that made it.
    """
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    sent: list[BaseMessage] = [SystemMessage(system_prompt)]
    for message in messages:
        sent.append(message)
        sent += [
            ToolMessage(ABANDONED, tool_call_id=call_id, status="error")
            for call_id in call_ids(message)
            if call_id not in answered
        ]
    return sent


def after(messages: Sequence[BaseMessage], message_id: str | None) -> list[BaseMessage]:
    """The messages behind that one; all, if it is not there (any more)."""
    place = next((number for number, message in enumerate(messages, 1) if message_id and message.id == message_id), 0)
    return list(messages[place:])


def read_leniently(answer: AIMessage, harmless: Collection[str]) -> AIMessage:
    """Mend tool calls whose arguments are no JSON as they stand (an open end, say), where the tool only looks.

    What a guess would do to the world is not guessed: the model is told, and calls again.
    """
    for call in list(answer.invalid_tool_calls):
        args = _mended(call["args"] or "") if call["name"] in harmless else None
        if args is not None:
            answer.invalid_tool_calls.remove(call)
            answer.tool_calls.append(ToolCall(type="tool_call", name=call["name"] or "", args=args, id=call["id"]))
    return answer


def _mended(text: str) -> dict[str, Any] | None:
    try:
        args = parse_json_markdown(text)
    except ValueError:
        return None
    return args if isinstance(args, dict) else None


def with_own_call_ids(answer: AIMessage, earlier: Sequence[BaseMessage]) -> AIMessage:
    """Give every tool call of `answer` an id that no earlier call of the thread has.

    The id is half of the key under which an effect happens once. Some OpenAI-compatible servers count from
    "call_0" again in every answer, which would make a second message look like a repeat of the first.
    """
    seen = {None, "", *(call_id for message in earlier for call_id in call_ids(message))}
    for call in [*answer.tool_calls, *answer.invalid_tool_calls]:
        if call["id"] in seen:
            call["id"] = f"call_{uuid.uuid4().hex}"
            # The provider's raw copy still carries the old ids and would be sent back instead of ours.
            answer.additional_kwargs.pop("tool_calls", None)
        seen.add(call["id"])
    return answer


def call_ids(message: BaseMessage) -> list[str]:
    """The ids of the tool calls that a message makes."""
    calls = [*message.tool_calls, *message.invalid_tool_calls] if isinstance(message, AIMessage) else []
    return [call["id"] for call in calls if call["id"]]
