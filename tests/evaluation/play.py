"""Playing conversations against a server of the wire: a thread each, several at once, each with its own outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from genai_prices import Usage, calc_price
from langgraph_sdk.client import LangGraphClient

from tests.evaluation.checks import Check, Mode, Seen, with_defaults
from tests.evaluation.dataset import Conversation, Decision, Turn

STAND_IN = "holdfast-offline-stand-in"
TURN_SECONDS = 120.0
# LangGraph counts the input's own checkpoint and the way from START as steps; no node runs in them.
_STEPS_OF_AN_INPUT = 2

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one check."""

    check: Check
    outcome: Outcome
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Played:
    """A turn that was played."""

    turn: Turn
    seen: Seen
    verdicts: Sequence[Verdict]


@dataclass(slots=True)
class Result:
    """A conversation that was played; `error`: why it could not be played to its end."""

    name: str
    round: int
    turns: list[Played] = field(default_factory=list)
    error: str | None = None
    thread: str | None = None

    @property
    def outcome(self) -> Literal["passed", "failed", "error"]:
        if self.error is not None:
            return "error"
        failed = any(verdict.outcome == "failed" for played in self.turns for verdict in played.verdicts)
        return "failed" if failed else "passed"


class TurnError(Exception):
    """A turn could not be played as the data set has it; the text says why."""


@dataclass(frozen=True)
class Player:
    """Plays conversations with one assistant of one server."""

    client: LangGraphClient
    assistant: str
    mode: Mode = "offline"
    model: str | None = None

    async def play_all(
        self, conversations: Iterable[Conversation], *, rounds: int = 1, at_once: int = 8
    ) -> list[Result]:
        """Play each, `at_once` at a time. What becomes of one conversation makes no difference to another."""
        free = asyncio.Semaphore(at_once)

        async def play(conversation: Conversation, number: int) -> Result:
            async with free:
                return await self.play(conversation, number)

        fitting = [each for each in conversations if each.only in (None, self.mode)]
        return await asyncio.gather(*(play(each, number) for number in range(1, rounds + 1) for each in fitting))

    async def play(self, conversation: Conversation, number: int = 1) -> Result:
        """Play one conversation on a thread of its own, which is kept if something was wrong."""
        result = Result(conversation.name, number)
        try:
            result.thread = (await self.client.threads.create(metadata={"evaluation": conversation.name}))["thread_id"]
            for turn in conversation.turns:
                result.turns.append(await self._play_turn(result.thread, turn))
            if result.outcome == "passed":
                await self.client.threads.delete(result.thread)
        except Exception as error:  # noqa: BLE001 - the outcome of this conversation, and of no other
            result.error = f"{type(error).__name__}: {error}"[:500]
        return result

    async def _play_turn(self, thread: str, turn: Turn) -> Played:
        before = await self.client.threads.get_state(thread)
        body = _body(turn, before)
        if self.model is not None:
            body["context"] = {"model": self.model}
        started = time.perf_counter()
        async with asyncio.timeout(TURN_SECONDS):
            await self.client.runs.wait(thread, self.assistant, **body)
        seconds = time.perf_counter() - started
        seen = _seen(turn, before, await self.client.threads.get_state(thread), seconds)
        return Played(turn, seen, [_judged(check, seen, self.mode) for check in with_defaults(turn.checks)])


def _body(turn: Turn, state: Any) -> dict[str, Any]:
    if turn.answers:
        question = _question(turn, state)
        answer = turn.resume if turn.decide is None else {"decisions": [_decision(turn.decide, question)]}
        return {"command": {"resume": {question["id"]: answer}}}
    if turn.say is None:
        return {"input": turn.input}
    return {"input": {"messages": [{"role": "user", "content": turn.say * turn.times}]}}


def _question(turn: Turn, state: Any) -> dict[str, Any]:
    about = turn.decide.about if turn.decide else {}
    for question in _pending(state):
        args = _action(question).get("args", {})
        if all(args.get(key) == value for key, value in about.items()):
            return question
    raise TurnError(f"there is no question{f' about {about}' if about else ''} to answer with {turn.brief}")


def _decision(decision: Decision, question: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {"type": decision.type}
    if decision.message is not None:
        given["message"] = decision.message
    if decision.args is not None:
        name = decision.tool or _action(question)["name"]
        given["edited_action"] = {"name": name, "args": decision.args}
    return given


def _pending(state: Any) -> list[dict[str, Any]]:
    return [question for task in state["tasks"] for question in task.get("interrupts", [])]


def _action(question: dict[str, Any]) -> dict[str, Any]:
    value = question.get("value")
    requests = value.get("action_requests") if isinstance(value, dict) else None
    return dict(requests[0]) if requests else {"name": "a question of its own"}


def _seen(turn: Turn, before: Any, after: Any, seconds: float) -> Seen:
    known = {message["id"] for message in _messages(before)}
    new = [message for message in _messages(after) if message["id"] not in known]
    answers = [message for message in new if message["type"] == "ai"]
    # Only what was not asked before: another question that is still open was counted in its own turn.
    earlier = {question["id"] for question in _pending(before)}
    asked = [question for question in _pending(after) if question["id"] not in earlier]
    return Seen(
        answer=_text(answers[-1]) if answers else "",
        calls=[(call["name"], call["args"]) for answer in answers for call in answer.get("tool_calls", [])],
        results=[(message["name"], message["status"]) for message in new if message["type"] == "tool"],
        approvals=[_action(question)["name"] for question in asked],
        supersteps=_step(after) - _step(before) - (0 if turn.answers else _STEPS_OF_AN_INPUT),
        seconds=seconds,
        tokens=sum((answer.get("usage_metadata") or {}).get("total_tokens", 0) for answer in answers),
        usd=_usd(answers),
        models=frozenset(filter(None, map(_model, answers))),
    )


def _messages(state: Any) -> list[dict[str, Any]]:
    return list((state["values"] or {}).get("messages", []))


def _step(state: Any) -> int:
    return int((state["metadata"] or {}).get("step", -2))


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, dict))


def _model(answer: dict[str, Any]) -> str | None:
    return (answer.get("response_metadata") or {}).get("model_name")


def _usd(answers: Sequence[dict[str, Any]]) -> float | None:
    """What the answers cost; None if the price of one is not known."""
    total = 0.0
    for answer in answers:
        usage, model = answer.get("usage_metadata"), _model(answer)
        if not usage or not model:
            return None
        spent = Usage(input_tokens=usage["input_tokens"], output_tokens=usage["output_tokens"])
        try:
            total += float(calc_price(spent, model).total_price)
        except LookupError:
            return None
    return total


def _judged(check: Check, seen: Seen, mode: Mode) -> Verdict:
    if check.only not in (None, mode) or (check.kind == "usd" and seen.usd is None):
        return Verdict(check, "skipped")
    problem = check.problem(seen)
    return Verdict(check, "failed" if problem else "passed", problem)
