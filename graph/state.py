"""What a conversation remembers, and what a caller may set for one run.

Everything here survives LangGraph's strict msgpack: JSON-like values and LangChain's messages, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NotRequired

from langchain_core.messages import AnyMessage, ToolCall
from langgraph.channels.delta import DeltaChannel
from typing_extensions import TypedDict

from graph.messages import merge_messages

# A snapshot writes the whole conversation once and bounds how many writes a read replays. Measured on Postgres,
# 200 turns: every 1,000 updates 1.4 MB, 6.8 kB for each turn alike; every 100 (the default) 2.7 MB and growing
# with the thread; LangGraph's add_messages 117 MB. Replaying 1,000 writes takes some 20 ms.
SNAPSHOT_EVERY = 1_000

Failure = TypedDict(
    "Failure",
    {
        "class": str,
        "message": str,
        "node": str,
        "attempt": int,
        "retry_after": float | None,
        "turn": str | None,
    },
)
"""A failed model call: its class (`errors.FailureClass`), a short technical text, the node, which attempt
of this turn it was (from 1), the seconds that the other side asked us to wait, and the message that was
being answered.
"""


class State(TypedDict):
    """The thread's state. `error` and `retry_count` are about the latest failure, empty while all is well."""

    messages: Annotated[list[AnyMessage], DeltaChannel(merge_messages, snapshot_frequency=SNAPSHOT_EVERY)]
    error: NotRequired[Failure | None]
    retry_count: NotRequired[int]


class ToolTask(TypedDict):
    """The input of one `tools` task: exactly one call of the model's answer."""

    call: ToolCall


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a run may set: the model's name, its temperature, the system prompt. None = the default."""

    model: str | None = None
    temperature: float | None = None
    system_prompt: str | None = None
