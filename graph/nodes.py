"""The nodes: what each step of a conversation does. Where to go next is `routing`'s business."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage
from langgraph.errors import GraphBubbleUp, NodeError
from langgraph.runtime import Runtime
from langgraph.types import Command

from graph import routing
from graph.approvals import CALL_CHOICES, Grant, UnusableAnswerError, ask
from graph.errors import POLICIES, AnswerCutShortError, BusinessRuleError, classify, describe, http_status, retry_after
from graph.ledger import DOUBT, LedgerError, UnknownEffectError
from graph.messages import prompt, unreadable, with_own_call_ids
from graph.models import ModelFactory, chat_model
from graph.state import Context, Failure, State
from graph.tools import BadArgumentsError, Toolbox, execute, standard_tools

SYSTEM_PROMPT = (
    "You are a helpful assistant. Use the tools for arithmetic, for questions about Holdfast and LangGraph, "
    "and to send messages. A message is only sent once a human has approved it. Say plainly when something "
    "did not work."
)
_EDITED = "A human changed this call before it ran, to {name} with {args}. Its result: "

Update = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: one attempt at the model call (whole; without progress), first backoff, pause in a step."""

    model: float = 120.0
    model_idle: float = 45.0
    first_backoff: float = 1.0
    quick_retry: float = 0.3


@dataclass(frozen=True)
class Nodes:
    """The agent's steps, over the tools and the model that they are given.

    A failed model call surfaces outside its node: a timeout cancels the node's body, and the RetryPolicy
    comes after it. So `agent` has no try/except; LangGraph's node-level error handler (`model_failed`) gets
    the failure that is left after all that, durably, in the same superstep, and leads on to the visible
    `error_handler`.

    A failed tool call is answered in its own task instead. A handler would be run again, with nothing but the
    text of the exception, whenever the approval of a neighbouring call is answered (langgraph 1.2.22).
    """

    tools_by_name: Toolbox = field(default_factory=standard_tools)
    model: ModelFactory = chat_model
    limits: Limits = field(default_factory=Limits)

    async def agent(self, state: State, runtime: Runtime[Context]) -> Update:
        """Ask the model, with the tools on offer. Tokens reach the message stream through callbacks."""
        if problem := state["messages"] and unreadable(state["messages"][-1]):
            raise BusinessRuleError(f"the last message cannot be read: {problem}")
        context = runtime.context or Context()
        model: BaseChatModel = await asyncio.to_thread(self.model, context)
        offered = model.bind_tools([agent_tool.spec for agent_tool in self.tools_by_name.values()])
        answer = await offered.ainvoke(prompt(state["messages"], context.system_prompt or SYSTEM_PROMPT))
        if _is_cut_short(answer):
            raise AnswerCutShortError("the answer ended without a finish reason")
        update: Update = {"messages": [with_own_call_ids(answer, state["messages"])]}
        if state.get("error") or state.get("retry_count"):
            update |= {"error": None, "retry_count": 0}
        return update

    async def model_failed(self, state: State, error: NodeError) -> Command[Literal["error_handler"]]:
        """Record what happened and count the attempt."""
        turn = _turn(state["messages"])
        attempt = routing.attempt_number(state, turn)
        failure_class = classify(error.error)
        failure: Failure = {
            "class": failure_class,
            "message": describe(error.error, failure_class),
            "node": error.node,
            "attempt": attempt,
            "retry_after": retry_after(error.error),
            "turn": turn,
        }
        return Command(update={"error": failure, "retry_count": attempt}, goto="error_handler")

    async def error_handler(self, state: State) -> Update:
        """Wait out the backoff before a retry. The edge behind this node decides by the same function."""
        failure = state.get("error")
        if failure and routing.after_failure(state) == "retry":
            dice = random.random()  # noqa: S311 - spreads callers, guards nothing
            wait = routing.backoff(failure["attempt"], failure["retry_after"], self.limits.first_backoff, dice)
            await asyncio.sleep(wait)
        return {}

    async def ask_human(self, state: State) -> Command[Literal["agent", "give_up"]]:
        """Retries are spent: approve = try again from the first attempt, reject = leave it."""
        decision = ask("try_again", {}, f"{_explain(state)} Try again?", ("approve", "reject"))
        if decision.choice == "approve":
            return Command(update={"error": None, "retry_count": 0}, goto="agent")
        return Command(goto="give_up")

    async def give_up(self, state: State) -> Update:
        """Say in plain words that there is no answer. `error` stays recorded until something works again."""
        return {"messages": [AIMessage(f"{_explain(state)} You can go on writing here.")], "retry_count": 0}

    async def tools(self, state: Any, runtime: Runtime[Context]) -> Update:
        """Run one tool call, with a human's approval if the tool needs it; a failure is a result too.

        `state` is a `ToolTask`. Declared as one, LangGraph would make its key a channel of the thread's
        state.
        """
        call: ToolCall = state["call"]
        try:
            message = await self._run(call, runtime)
        except GraphBubbleUp:
            raise
        except Exception as error:  # noqa: BLE001 - a tool is code that we do not know, and its failure is news
            message = _tool_message(call, _failure_text(error), "error")
        return {"messages": [message]}

    async def _run(self, call: ToolCall, runtime: Runtime[Context]) -> ToolMessage:
        self._check(call["name"], call["args"])
        reviewed, grant, refusal = self._review(call)
        if refusal is not None:
            return refusal
        agent_tool = self.tools_by_name[reviewed["name"]]
        result = await execute(agent_tool, reviewed, grant, runtime.execution_info, runtime.store)
        note = _EDITED.format(name=reviewed["name"], args=reviewed["args"]) if reviewed is not call else ""
        return _tool_message(call, note + result, "success")

    def _check(self, name: str, args: object) -> None:
        if name not in self.tools_by_name:
            raise BadArgumentsError(f"there is no tool {name!r}; there are {', '.join(self.tools_by_name)}")
        self.tools_by_name[name].check(args)

    def _review(self, call: ToolCall, strict: bool = False) -> tuple[ToolCall, Grant | None, ToolMessage | None]:
        """The call as it may run, its grant if it needs one, or the refusal that stands instead of a result.

        An edit grants the edited call, whatever its arguments are now, and no other. If it names another tool, that
        tool's own rule applies to the new arguments: a call that needs approval is asked about by its own name.
        """
        current = call
        while self.tools_by_name[current["name"]].needs_approval(current["args"], strict):
            description = f"The agent wants to call {current['name']}."
            decision = ask(current["name"], current["args"], description, CALL_CHOICES, self._check_edit)
            if decision.choice == "reject":
                text = decision.message or f"A human rejected this call of {current['name']}; it was not run."
                return current, None, _tool_message(call, text, "error")
            if decision.choice == "respond":
                return current, None, _tool_message(call, decision.message, "success")
            if decision.choice == "approve":
                return current, Grant.of(current["name"], current["args"]), None
            same_tool = decision.name == current["name"]
            current = ToolCall(type="tool_call", name=decision.name, args=decision.args or {}, id=call["id"])
            if same_tool:
                return current, Grant.of(current["name"], current["args"]), None
        return current, None, None

    def _check_edit(self, name: str, args: dict[str, Any]) -> None:
        try:
            self._check(name, args)
        except BadArgumentsError as error:
            raise UnusableAnswerError(str(error)) from error


def _failure_text(error: Exception) -> str:
    if isinstance(error, UnknownEffectError):
        return f"unknown: {error}"
    failure_class = classify(error)
    if failure_class in ("business_validation", "output_parsing"):
        return f"{failure_class}: {error}"
    doubt = f" {DOUBT}" if DOUBT in getattr(error, "__notes__", ()) else ""
    if failure_class == "timeout":
        return f"timeout: the tool did not finish in time.{doubt}"
    if failure_class == "tool_failure" or isinstance(error, ValueError | LedgerError):
        return f"tool_failure: {error}{doubt}"
    # The text of an error that nobody wrote for the model may hold anything: a password in a URL, say.
    status = http_status(error)
    return f"tool_failure: the tool failed ({type(error).__name__ if status is None else f'HTTP {status}'}).{doubt}"


def _tool_message(call: ToolCall, text: str, status: Literal["success", "error"]) -> ToolMessage:
    # One result per call: the id follows from the call, so a repeat replaces instead of doubling.
    return ToolMessage(text, tool_call_id=call["id"] or "", name=call["name"], status=status, id=f"result-{call['id']}")


def _is_cut_short(answer: AIMessage) -> bool:
    # The OpenAI SDK takes a stream that just ends for a whole answer. Other providers name their reason otherwise.
    told = answer.response_metadata
    return told.get("model_provider") == "openai" and "finish_reason" not in told


def _turn(messages: list[Any]) -> str | None:
    last: BaseMessage | None = messages[-1] if messages else None
    return last.id if last else None


def _explain(state: State) -> str:
    failure = state.get("error")
    if failure is None:
        return "I could not answer."
    words = POLICIES[routing.failure_class(failure)].words
    attempts = "1 attempt" if failure["attempt"] == 1 else f"{failure['attempt']} attempts"
    return f"I could not answer: {words} ({failure['class']}, after {attempts})."
