"""What a conversation remembers, and what a caller may set for one run.

Everything here survives LangGraph's strict msgpack: JSON-like values and LangChain's messages, nothing else.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from langchain_core.messages import AnyMessage, ToolCall
from langgraph.channels.delta import DeltaChannel
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from graph.costs import Spending
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
        "next_attempt_at": str | None,
        "turn": str | None,
        "ask": bool,
    },
)
"""A failed model call: its class (`errors.FailureClass`), a short technical text, the node, which attempt
of this turn it was (from 1), the seconds that the other side asked us to wait, when the next attempt is due
(UTC, ISO; None if there is none), the message that was being answered, and whether a human is asked when nothing helps.
"""


class Purse(TypedDict):
    """What the thread has spent (A12), and may: `budget` in dollars, `limit` as far as a human has raised it."""

    run_id: str | None
    run: Spending
    thread: Spending
    budget: float | None
    limit: float | None


class State(TypedDict):
    """The thread's state. `error` and `retry_count` are about the latest failure, empty while all is well.

    `summary` stands for the messages up to `summarized`, which no longer fit into the prompt (A11); `window` is how
    many tokens do, once the model's service has refused a longer one.
    """

    messages: Annotated[list[AnyMessage], DeltaChannel(merge_messages, snapshot_frequency=SNAPSHOT_EVERY)]
    error: NotRequired[Failure | None]
    retry_count: NotRequired[int]
    summary: NotRequired[str]
    summarized: NotRequired[str | None]
    window: NotRequired[int | None]
    purse: NotRequired[Purse | None]


class ToolTask(TypedDict):
    """The input of one `tools` task: exactly one call of the model's answer."""

    call: ToolCall


ModelSize = Literal["small", "large"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Context:
    """What a run or an assistant may set. None = what the environment says, or the default.

    Checked when a run begins: a value that does not fit ends it with an error that says which.
    """

    model: Annotated[str | None, Field(description="Name of the model; else OPENAI_MODEL")] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    system_prompt: str | None = None
    small_model: Annotated[bool, Field(description="Simple questions go to SMALL_MODEL, where there is one")] = True
    context_tokens: Annotated[int | None, Field(ge=500, description="What does not fit is summarized")] = None
    budget_usd: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="For the thread; BUDGET_USD where that is less")
    ] = None
    redact_pii: Annotated[bool, Field(description="Also where REDACT_PII is not set")] = False
    approvals: Annotated[Literal["policy", "always"], Field(description="always: each tool with an effect")] = "policy"
    ask_when_stuck: Annotated[bool, Field(description="Ask a human before giving up on the model's service")] = False
