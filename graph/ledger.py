"""The ledger of effects: what a tool call does to the world happens once, whatever dies and when.

Every execution of a call writes a line of its own into the store *before* it touches the world (`started`), and says on
it afterwards what came of it: `committed` with the result, or `failed` if it is certain that nothing happened. Whoever
comes to the same call later (a recovered run, a fork, a woken zombie) reads the lines first:

    no line, or only `failed`    run it
    `committed`                  it has happened: the recorded result, without running anything
    `started`                    unknown: an earlier execution ended in the middle. Never run again blindly

What follows from *unknown* is said per tool (`IfUnknown`), and decided in `happens_once` alone.

A store cannot compare and set, so a line is never shared: an execution writes its own and then reads all. Of two that
race, at least the later one sees the other, and does not run. An answer about an unknown effect is for the attempts
that were known when it was asked: the line that follows it counts the answers its task has used up, since LangGraph
hands them out again, from the first, whenever the node is executed anew.

Plain LangGraph: copy this file and `approvals.py` into any project. docs/effects.md has the idea and its limits.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, ParamSpec
from uuid import uuid4

from langchain_core.messages import ToolCall
from langgraph.errors import GraphInterrupt
from langgraph.prebuilt import ToolRuntime
from langgraph.runtime import ExecutionInfo
from langgraph.store.base import BaseStore

from graph.approvals import Choice, Decision, ask, fingerprint

IfUnknown = Literal["run_again", "ask", "tell"]
"""What to do when nobody knows whether it happened. "run_again": the other side knows our key and does nothing twice.
"ask": a human looks. "tell": UnknownEffectError, for whoever calls the tool to deal with."""

ROOT = "effects"
KEPT_MINUTES = 60.0 * 24 * 30
"""How long a line is kept whose effect is known, in a store that has a time to live; an unknown one stays for good."""
DOUBT = "Whether it took effect is not known."
"""The note on an exception that came out of an effect."""
UNKNOWN_CHOICES: Sequence[Choice] = ("approve", "respond", "reject")

_MOST_LINES = 1_000
_logger = logging.getLogger(__name__)
P = ParamSpec("P")


class NothingHappenedError(Exception):
    """What a tool raises when it is certain that it did nothing. Its text is for the model."""


class UnknownEffectError(Exception):
    """The call was started before, and whether it took effect is not known. Its text is the evidence."""


class LedgerError(Exception):
    """The store failed, and nothing was run without it."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One tool call of one thread, and who executes it now."""

    call: ToolCall
    owner: str
    task: str = ""
    run: str | None = None

    @classmethod
    def of(cls, call: ToolCall, info: ExecutionInfo | None) -> Effect:
        """The effect of `call`, which the node (or tool) with this `execution_info` is about to execute."""
        # Without a checkpointer nothing can be resumed or repeated, and the run stands in for the thread.
        owner = (info.thread_id or info.run_id or info.task_id) if info else None
        return cls(call, str(owner), info.task_id if info else "", info.run_id if info else None)

    @property
    def key(self) -> str:
        """The idempotency key: the same whenever and wherever this call of this thread is executed."""
        return f"{self.owner}:{self.call['id']}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One execution. `result` is JSON, since no store keeps every text; `answers`: how many its task had used up."""

    name: str
    arguments: str
    task: str
    run: str | None
    answers: int = 0
    state: Literal["started", "committed", "failed"] = "started"
    result: str | None = None
    error: str | None = None
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    id: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True, slots=True)
class _Ledger:
    """The lines of one call."""

    store: BaseStore
    effect: Effect

    @property
    def _namespace(self) -> tuple[str, str, str]:
        return (ROOT, label(self.effect.owner), label(self.effect.call["id"] or ""))

    def line(self, answers: int) -> _Line:
        call, arguments = self.effect.call, fingerprint(self.effect.call["args"])
        return _Line(
            name=call["name"], arguments=arguments, task=self.effect.task, run=self.effect.run, answers=answers
        )

    async def read(self) -> list[_Line]:
        with _reached():
            found = await self.store.asearch(self._namespace, limit=_MOST_LINES)
        return [_Line(**item.value) for item in found]

    async def write(self, line: _Line) -> None:
        forever = line.state == "started"
        ttl: dict[str, Any] = {"ttl": None if forever else KEPT_MINUTES} if self.store.supports_ttl else {}
        with _reached():
            await self.store.aput(self._namespace, line.id, asdict(line), index=False, **ttl)

    async def start(self, known: Sequence[_Line], answers: int) -> _Line | None:
        """A line for an execution that may begin now; None if another one has begun since the lines were read."""
        mine = self.line(answers)
        await self.write(mine)
        if all(line in known or line.state == "failed" for line in await self.read() if line.id != mine.id):
            return mine
        await self.write(replace(mine, state="failed", error="another execution was faster"))
        return None

    async def end(self, line: _Line, **outcome: Any) -> None:
        """Say what came of an execution. If that fails the line stays `started`, which is never untrue."""
        try:
            await self.write(replace(line, **outcome))
        except LedgerError:
            _logger.warning("the end of effect %s could not be recorded", self.effect.key, exc_info=True)


async def happens_once(
    effect: Effect, act: Callable[[], Awaitable[str]], *, store: BaseStore | None, if_unknown: IfUnknown = "ask"
) -> str:
    """Execute `act` unless it was executed before, and return its result; the recorded one if there is one.

    `act` asks nobody anything: approvals come before. Interrupts with the question of `approvals.ask`: approve = it did
    not happen, run it; respond = it happened, this is the result; reject = leave it.

    Raises:
        NothingHappenedError: the call ran before with other arguments, or there is no store that could remember it;
            or `act` raised it.
        UnknownEffectError: by policy ("tell"), or because a human left it at that.
        LedgerError: the store fails.
        Exception: whatever `act` raises, with DOUBT as a note, unless a human is asked about it.
    """
    if store is None:
        return await _unrecorded(effect, act, if_unknown)
    ledger = _Ledger(store, effect)
    answers = 0
    while True:
        lines = await ledger.read()
        answers, result = await _settled(ledger, lines, answers, if_unknown)
        if result is not None:
            return result
        mine = await ledger.start(lines, answers)
        if mine is None:
            continue
        try:
            return await _executed(ledger, mine, act)
        except (NothingHappenedError, UnknownEffectError):
            raise
        except Exception:
            if if_unknown != "ask":
                raise


async def _settled(
    ledger: _Ledger, lines: Sequence[_Line], answers: int, if_unknown: IfUnknown
) -> tuple[int, str | None]:
    """The result that needs no execution, if there is one; before it, how many answers this task has heard by then."""
    effect = ledger.effect
    if done := next((line for line in lines if line.state == "committed"), None):
        return answers, _recorded(effect, done)
    unknown = [line for line in lines if line.state == "started"]
    if not unknown or if_unknown == "run_again":
        return answers, None
    evidence = _evidence(effect, unknown)
    if if_unknown == "tell":
        raise UnknownEffectError(evidence)
    answers, decision = _decided(effect, unknown, answers)
    if decision.choice == "reject":
        raise UnknownEffectError(decision.message or f"{evidence} A human left it at that.")
    if decision.choice == "respond":
        told = replace(ledger.line(answers), state="committed", result=json.dumps(decision.message))
        await ledger.write(told)
        return answers, decision.message
    return answers, None


async def _executed(ledger: _Ledger, mine: _Line, act: Callable[[], Awaitable[str]]) -> str:
    try:
        result = await act()
    except NothingHappenedError as refusal:
        await ledger.end(mine, state="failed", error=_named(refusal))
        raise
    except GraphInterrupt as question:
        await ledger.end(mine, error="a question in the middle")
        raise UnknownEffectError(f"{mine.name} asked in the middle of its effect; it has to ask before") from question
    except Exception as error:
        error.add_note(DOUBT)
        await ledger.end(mine, error=_named(error))
        raise
    await ledger.end(mine, state="committed", result=json.dumps(result))
    return result


def once(function: Callable[P, Awaitable[str]]) -> Callable[P, Awaitable[str]]:
    """The effect of this tool happens once per call; below `@tool`. It has to take `runtime: ToolRuntime`.

    A human is asked about an unknown effect. `happens_once` is the same with other policies, for any node.
    """

    @functools.wraps(function)
    async def recorded(*positional: P.args, **args: P.kwargs) -> str:
        runtime = args["runtime"]
        if not isinstance(runtime, ToolRuntime) or positional:
            raise TypeError("a tool of the ledger takes `runtime: ToolRuntime` and is called by a ToolNode")
        given = {name: value for name, value in args.items() if name != "runtime"}
        call = ToolCall(type="tool_call", name=function.__name__, args=given, id=runtime.tool_call_id)
        effect = Effect.of(call, runtime.execution_info)
        return await happens_once(effect, lambda: function(*positional, **args), store=runtime.store)

    return recorded


async def _unrecorded(effect: Effect, act: Callable[[], Awaitable[str]], if_unknown: IfUnknown) -> str:
    if if_unknown != "run_again":
        raise NothingHappenedError(
            f"{effect.call['name']} needs a store: without one nobody could tell after a crash whether it had run. "
            "It was not run. Compile the graph with a store."
        )
    _logger.warning("no store: only the idempotency key keeps %s from happening twice", effect.key)
    try:
        return await act()
    except NothingHappenedError:
        raise
    except Exception as error:
        error.add_note(DOUBT)
        raise


def _recorded(effect: Effect, done: _Line) -> str:
    if (done.name, done.arguments) != (effect.call["name"], fingerprint(effect.call["args"])):
        raise NothingHappenedError(
            f"this tool call has already run, as {done.name} with other arguments; nothing was run now"
        )
    return str(json.loads(done.result or '""'))


def _decided(effect: Effect, unknown: Sequence[_Line], answers: int) -> tuple[int, Decision]:
    """A human's word on these attempts, and how many this task has heard by then."""
    used = max((line.answers for line in unknown if line.task == effect.task), default=0)
    while True:
        decision = ask(effect.call["name"], effect.call["args"], _question(effect, unknown), UNKNOWN_CHOICES)
        answers += 1
        if answers > used:
            return answers, decision


def _question(effect: Effect, unknown: Sequence[_Line]) -> str:
    return (
        f"{_evidence(effect, unknown)} Approve: it did not happen, run it now. "
        "Respond: it happened, and this was its result. Reject: leave it."
    )


def _evidence(effect: Effect, unknown: Sequence[_Line]) -> str:
    last = max(unknown, key=lambda line: line.started_at)
    text = (
        f"Whether {last.name} took effect is not known: it was started at {last.started_at} (attempt {len(unknown)}, "
        f"run {last.run}, idempotency key {effect.key}) and its end was not recorded."
    )
    if last.error:
        text += f" It failed with {last.error}."
    if last.arguments != fingerprint(effect.call["args"]):
        text += " It was started with other arguments than these."
    return text


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise LedgerError("the ledger of effects cannot be reached, and nothing is run without it") from error


def _named(error: Exception) -> str:
    # The text of an error that nobody wrote for people may hold anything: a password in a URL, say.
    return type(error).__name__


def label(text: str) -> str:
    """`text` as a label of a namespace, in which dots are not allowed."""
    return text.replace("%", "%25").replace(".", "%2E") or "%"
