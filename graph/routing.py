"""Where the conversation goes next: functions of the state and of what the run may, no I/O, no clock, no dice.

Before the model: on, or to a human once the thread's budget is spent (A12).
After the model: one `tools` task per call, or the end of the turn (continue).
After a failed model call, by the class of the failure (`errors.POLICIES`):

* something that passes (rate limit, timeout, connection, service down) or may come out otherwise (an answer that
  cannot be read) is retried in a superstep of its own, so that the attempt is durable and visible in `retry_count`. A
  Retry-After is waited for; one that is longer than a minute is neither waited for nor undercut;
* a prompt that is too long is made shorter, and sent again;
* what no waiting mends (credentials, quota, a bug) is given up at once.

When the retries are spent the error handler answers in plain words, and the thread stays usable; or, if the run asked
for it (`ask_when_stuck`), a human says whether to try again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langgraph.graph import END
from langgraph.runtime import Runtime
from langgraph.types import Send

from graph import accounts
from graph.costs import standing
from graph.errors import POLICIES, FailureClass
from graph.state import Context, Failure, ModelSize, State, ToolTask

AfterFailure = Literal["retry", "compact", "give_up", "ask_human"]

LONGEST_BACKOFF = 30.0
LONGEST_RETRY_AFTER = 60.0
LONGEST_SIMPLE_QUESTION = 200
LONGEST_SIMPLE_CONVERSATION = 6


def before_agent(state: State, runtime: Runtime[Context]) -> Literal["agent", "ask_budget"]:
    """To the model, unless the thread has spent what it may."""
    purse = state.get("purse")
    limit = accounts.limit_of(purse, runtime.context or Context())
    return "ask_budget" if purse and standing(purse["thread"], limit) == "spent" else "agent"


def after_agent(state: State) -> list[Send] | str:
    """One task per tool call of the model's answer; or the end.

    Tasks apart, so that each pending approval can be answered alone and a finished call is never run again
    when its neighbour is resumed.
    """
    return [Send("tools", ToolTask(call=call)) for call in pending_calls(state["messages"])] or END


def pending_calls(messages: Sequence[BaseMessage]) -> list[ToolCall]:
    """The tool calls of the last message, unreadable ones (their `args` are a string) included."""
    last = messages[-1] if messages else None
    if not isinstance(last, AIMessage):
        return []
    return [
        ToolCall(type="tool_call", name=call["name"] or "", args=cast("Any", call["args"]), id=call["id"])
        for call in [*last.tool_calls, *last.invalid_tool_calls]
    ]


def after_failure(state: State) -> AfterFailure:
    """Retry, make the prompt shorter, ask a human, or give up, for the recorded `error` and `retry_count`."""
    failure = state.get("error")
    if failure is None:
        return "retry"
    policy = POLICIES[failure_class(failure)]
    patient = (failure["retry_after"] or 0.0) <= LONGEST_RETRY_AFTER
    if patient and state.get("retry_count", 0) <= policy.retries:
        return "compact" if policy.reaction == "compact" else "retry"
    return "ask_human" if failure.get("ask") and policy.retries else "give_up"


def wants_smaller(state: State) -> bool:
    """Should a cheaper model take over? It has failed twice in the time that it had."""
    failure = state.get("error")
    return bool(failure and failure["attempt"] > 1 and POLICIES[failure_class(failure)].reaction == "retry_smaller")


def failure_class(failure: Failure) -> FailureClass:
    """The recorded class; "system" for one that this version does not know."""
    return next((name for name in POLICIES if name == failure["class"]), "system")


def attempt_number(state: State, turn: str | None) -> int:
    """Which failed attempt at answering message `turn` this is, from 1; older turns do not count."""
    failure = state.get("error")
    if failure is None or failure["turn"] != turn:
        return 1
    return state.get("retry_count", 0) + 1


def backoff(attempt: int, asked_for: float | None, first: float, dice: float) -> float:
    """Seconds to wait before attempt `attempt` + 1: exponential from `first`, with jitter and a cap.

    `asked_for` is the other side's Retry-After, never undercut; `dice` in [0, 1) spreads the callers.
    """
    ours = min(LONGEST_BACKOFF, first * 2.0 ** (attempt - 1)) * (0.5 + dice / 2)
    return max(ours, min(asked_for or 0.0, LONGEST_RETRY_AFTER))


def model_size(messages: Sequence[BaseMessage]) -> ModelSize:
    """ "small" for a simple question: a human's, in one line of at most 200 characters of plain text, near the
    beginning of the conversation (6 messages), and so far without any tool.

    Everything else gets the large model: reading tools' results, several wishes in several lines, code, pictures, and
    whatever refers to a long history. A question that turns out to need a tool goes on with the large one.
    """
    last = messages[-1] if messages else None
    if not isinstance(last, HumanMessage) or not isinstance(last.content, str):
        return "large"
    short = len(last.content) <= LONGEST_SIMPLE_QUESTION and "\n" not in last.content.strip()
    early = len(messages) <= LONGEST_SIMPLE_CONVERSATION
    return "small" if short and early and not any(isinstance(m, ToolMessage) for m in messages) else "large"
