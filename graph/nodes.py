"""The nodes: what each step of a conversation does. Where to go next is `routing`'s business."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langgraph.errors import GraphBubbleUp, NodeError
from langgraph.runtime import Runtime
from langgraph.types import Command

from graph import accounts, guards, routing, window
from graph.approvals import CALL_CHOICES, Grant, UnusableAnswerError, ask
from graph.asking import Asking
from graph.errors import POLICIES, BusinessRuleError, classify, describe, http_status, retry_after
from graph.ledger import DOUBT, LedgerError, UnknownEffectError
from graph.messages import after, merge_messages, prompt, read_leniently, unreadable, with_own_call_ids
from graph.models import ModelFactory, chat_model
from graph.state import Context, Failure, ModelSize, State
from graph.tools import BadArgumentsError, Toolbox, execute, standard_tools

SYSTEM_PROMPT = (
    "You are a helpful assistant. Use the tools for arithmetic, for questions about Holdfast and LangGraph, for pages "
    "of the web, and to send messages and refunds. A human approves what has an effect, where it is asked for. Say "
    "plainly when something did not work."
)
_EDITED = "A human changed this call before it ran, to {name} with {args}. Its result: "

CONTEXT_TOKENS = 60_000
"""What the conversation may take of a prompt; CONTEXT_TOKENS or a run's `context_tokens` say otherwise."""
LEAST_TOKENS = 200

logger = logging.getLogger(__name__)
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
        asking = Asking.of(state, runtime)
        flagged = self._checked(state["messages"])
        known: Any = {**state, "messages": merge_messages(state["messages"], flagged)}
        update = await self._fitted(known, asking)
        sent = self._prompt({**known, **update}, asking)
        offered = [agent_tool.spec for agent_tool in self.tools_by_name.values()]
        answer = await self._model(asking.sized(_size(state, asking))).bind_tools(offered).ainvoke(sent)
        answer = read_leniently(answer, [name for name, tool in self.tools_by_name.items() if tool.if_unknown is None])
        update["messages"] = [*flagged, with_own_call_ids(answer, state["messages"])]
        update["purse"] = await accounts.charged(state.get("purse"), answer, asking, runtime)
        if state.get("error") or state.get("retry_count"):
            update |= {"error": None, "retry_count": 0}
        return update

    def _checked(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """The last message, flagged, if a user attacks with it. Raises BusinessRuleError if it is no message."""
        last = messages[-1] if messages else None
        if not isinstance(last, HumanMessage):
            return []
        if problem := unreadable(last):
            raise BusinessRuleError(f"the last message cannot be read: {problem}")
        guards.check_input(last)
        flagged = guards.flagged(last)
        return [] if flagged is last else [flagged]

    async def _fitted(self, state: Any, asking: Asking) -> Update:
        """The summary, where more of the conversation does not fit than it covers."""
        kept, room = after(state["messages"], state.get("summarized")), self._room(state, asking)
        if window.count(kept) <= room:
            return {}
        # Some room is left: or every turn would cut off one more, and pay for another summary.
        fitted = window.fit(kept, room * 2 // 3)
        if not fitted.cut:
            return {}
        summary = await window.summarize(self._model(asking.sized("small")), state.get("summary") or "", fitted.cut)
        return {"summary": summary, "summarized": fitted.cut[-1].id}

    def _prompt(self, state: Any, asking: Asking) -> list[BaseMessage]:
        kept = after(state["messages"], state.get("summarized"))
        fitted = window.fit(kept, self._room(state, asking))
        summary = [window.summary_message(state["summary"])] if state.get("summary") else []
        system = f"{asking.context.system_prompt or SYSTEM_PROMPT}\n\n{guards.UNTRUSTED_NOTE}"
        return prompt([*summary, *guards.delimited(fitted.messages)], system)

    def _model(self, asking: Asking) -> BaseChatModel:
        return self.model(
            asking.context,
            tenant=asking.place.user,
            store=asking.store,
            redaction=asking.redaction,
            size=asking.size,
        )

    def _room(self, state: Any, asking: Asking) -> int:
        """Tokens that the conversation may take, beside the tools."""
        wanted = asking.context.context_tokens or int(os.environ.get("CONTEXT_TOKENS") or CONTEXT_TOKENS)
        return min(wanted, state.get("window") or wanted)

    async def model_failed(
        self, state: State, error: NodeError, runtime: Runtime[Context]
    ) -> Command[Literal["error_handler"]]:
        """Record what happened, count the attempt, and say when the next one is due."""
        turn = _turn(state["messages"])
        attempt = routing.attempt_number(state, turn)
        failure_class = classify(error.error)
        asked_for = retry_after(error.error)
        dice = random.random()  # noqa: S311 - spreads callers, guards nothing
        failure: Failure = {
            "class": failure_class,
            "message": describe(error.error, failure_class),
            "node": error.node,
            "attempt": attempt,
            "retry_after": asked_for,
            "next_attempt_at": None,
            "turn": turn,
            "ask": bool(runtime.context and runtime.context.ask_when_stuck),
        }
        if routing.after_failure({**state, "error": failure, "retry_count": attempt}) == "retry":
            wait = timedelta(seconds=routing.backoff(attempt, asked_for, self.limits.first_backoff, dice))
            failure["next_attempt_at"] = (datetime.now(UTC) + wait).isoformat()
        return Command(update={"error": failure, "retry_count": attempt}, goto="error_handler")

    async def error_handler(self, state: State) -> Update:
        """Wait until the next attempt is due; a run that is taken over in the middle waits for what is left."""
        failure = state.get("error")
        if failure and (due := failure.get("next_attempt_at")):
            wait = (datetime.fromisoformat(due) - datetime.now(UTC)).total_seconds()
            await asyncio.sleep(min(max(wait, 0.0), routing.LONGEST_RETRY_AFTER))
        return {}

    async def compact(self, state: State, runtime: Runtime[Context]) -> Update:
        """The model's service refused the prompt as too long: half of it is what fits from now on."""
        asking = Asking.of(state, runtime)
        sent = window.count(after(state["messages"], state.get("summarized")))
        return {"window": max(min(self._room(state, asking), sent) // 2, LEAST_TOKENS)}

    async def ask_human(self, state: State) -> Command[Literal["agent", "give_up"]]:
        """Retries are spent: approve = try again from the first attempt, reject = leave it."""
        decision = ask("try_again", {}, f"{_explain(state)} Try again?", ("approve", "reject"))
        if decision.choice == "approve":
            return Command(update={"error": None, "retry_count": 0}, goto="agent")
        return Command(goto="give_up")

    async def ask_budget(self, state: State, runtime: Runtime[Context]) -> Command[Literal["agent", "__end__"]]:
        """The budget is spent: approve = once more as much, edit = up to `limit_usd`, reject = stop here."""
        purse, context = state.get("purse"), runtime.context or Context()
        limit, step = accounts.limit_of(purse, context), accounts.budget(context)
        if purse is None or limit is None or step is None:
            return Command(goto="agent")
        spent = purse["thread"]["usd"]
        args = {"limit_usd": limit + step}
        text = f"This conversation has cost ${spent:.4f} of ${limit:.4f}. Raise the budget to ${args['limit_usd']:.4f}?"
        decision = ask("raise_budget", args, text, ("approve", "edit", "reject"), accounts.check_raise(spent))
        if decision.choice == "reject":
            stopped = AIMessage("I stop here: this conversation's budget is spent. A human can raise it.")
            return Command(update={"messages": [stopped]}, goto="__end__")
        raised = (decision.args or args)["limit_usd"]
        return Command(update={"purse": {**purse, "budget": step, "limit": raised}}, goto="agent")

    async def give_up(self, state: State) -> Update:
        """Say in plain words that there is no answer. `error` stays recorded until something works again."""
        failure = state.get("error")
        if failure and POLICIES[routing.failure_class(failure)].reaction == "alert":
            logger.error(
                "the model's service does not let us in: %s",
                failure["message"],
                extra={"alert": {"kind": f"model_{failure['class']}"}},
            )
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
        return {"messages": [guards.flagged(message)]}

    async def _run(self, call: ToolCall, runtime: Runtime[Context]) -> ToolMessage:
        self._check(call["name"], call["args"])
        strict = bool(runtime.context and runtime.context.approvals == "always")
        reviewed, grant, refusal = self._review(call, strict)
        if refusal is not None:
            return refusal
        agent_tool = self.tools_by_name[reviewed["name"]]
        result = await execute(agent_tool, reviewed, grant, runtime.execution_info, runtime.store, strict)
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


def _size(state: State, asking: Asking) -> ModelSize:
    small = routing.wants_smaller(state) or routing.model_size(state["messages"]) == "small"
    return "small" if small and asking.context.small_model else "large"


def _turn(messages: list[Any]) -> str | None:
    last: BaseMessage | None = messages[-1] if messages else None
    return last.id if last else None


def _explain(state: State) -> str:
    failure = state.get("error")
    if failure is None:
        return "I could not answer."
    words = POLICIES[routing.failure_class(failure)].words
    if failure["class"] == "business_validation":
        words = failure["message"].partition(": ")[2] or words
    attempts = "1 attempt" if failure["attempt"] == 1 else f"{failure['attempt']} attempts"
    return f"I could not answer: {words} ({failure['class']}, after {attempts})."
