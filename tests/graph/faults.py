"""The fault goal: thousands of runs against a service that fails all the time, and tools that fail too.

python -m tests.graph.faults [--runs N] [--rate R] [--seed S] [--at-once N]

The agent's own graph in process, on a checkpointer with strict msgpack and a store, with the real ChatOpenAI. Every
conversation takes six runs: new turns, or answers to what is asked. In the last one the service is calm again, and the
thread has to take a new turn and answer it, whatever went before. Judged is:

* every run ends with the model's answer, the error handler's words, or a question: nothing raises;
* no effect happens twice, without approval, or not at all in spite of one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph.state import CompiledStateGraph, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Interrupt

from graph import outbox
from graph.agent import build
from graph.errors import BusinessRuleError
from graph.models import chat_model, close
from graph.nodes import Limits, Nodes
from graph.state import Context
from graph.tools import AgentTool, Toolbox, standard_tools
from tests.durability.tally import say
from tests.support.faulty_model import FAULTS, Call, FaultyModel, Schedule, Script

RUNS_EACH = 6
GOAL = 0.999
ENDS = ("answer", "handler", "question", "bad")
# Short enough for thousands of hangs, and several times as long as the slow first token.
LIMITS = Limits(model=4.0, model_idle=0.75, first_backoff=0.001, quick_retry=0.001)
_FOREIGN = ("CHAT_MODEL", "OPENAI_MODEL", "OPENAI_BASE_URL", "SMALL_MODEL", "FALLBACK_MODEL")

Build = Callable[[Nodes], StateGraph[Any, Any, Any, Any]]


@tool
async def unreliable(manner: str) -> str:
    """Fail in the given manner: hangs, raises, or refuses."""
    if manner == "hangs":
        await asyncio.Event().wait()
    if manner == "refuses":
        raise BusinessRuleError("not on Sundays")
    raise RuntimeError("broken")


TOOL_FAULTS = {"hangs": "tool: timeout", "raises": "tool: exception", "refuses": "tool: business rule"}


def failing_tools() -> Toolbox:
    """The standard tools, and one that never works."""
    return {**standard_tools(), "unreliable": AgentTool(unreliable, timeout=0.05)}


@dataclass(slots=True)
class Ran:
    """One run: what it met, how it ended, and the details if that was badly."""

    met: Sequence[str]
    end: str
    details: str = ""


@dataclass
class Verdict:
    """What all runs came to."""

    runs: list[Ran] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unapproved: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    @property
    def injected(self) -> Counter[str]:
        """How often each class was injected."""
        return Counter(fault for run in self.runs for fault in run.met)

    @property
    def raised(self) -> list[str]:
        """The exceptions that came out of runs."""
        return [run.details for run in self.runs if run.end == "raised"]

    @property
    def ended_well(self) -> float:
        """The share of runs that ended as they should."""
        return sum(run.end in ENDS[:3] for run in self.runs) / len(self.runs)

    def goals(self) -> dict[str, bool]:
        """Every goal, and whether it is met."""
        share = f"{len(self.runs)} runs, {self.ended_well:.2%} ended with an answer, the handler's words or a question"
        return {
            f"{share} (goal {GOAL:.1%})": self.ended_well >= GOAL,
            f"{len(self.raised)} unhandled exceptions {self.raised[:3] or ''}": not self.raised,
            f"{len(self.repeated)} repeated effects {self.repeated[:3] or ''}": not self.repeated,
            f"{len(self.unapproved)} effects without approval {self.unapproved[:3] or ''}": not self.unapproved,
            f"{len(self.lost)} approved effects that did not happen {self.lost[:3] or ''}": not self.lost,
            f"{len(self.stuck)} threads that took no further turn {self.stuck[:3] or ''}": not self.stuck,
        }

    def table(self) -> Iterator[str]:
        """By class: how often it was injected, and how the runs ended that met it."""
        yield f"{'injected':22} {'times':>6} {'runs':>6}" + "".join(f"{end:>10}" for end in (*ENDS, "raised"))
        for fault in (*FAULTS, *TOOL_FAULTS.values(), "nothing"):
            runs = [run for run in self.runs if fault in run.met or (fault == "nothing" and not run.met)]
            ends = Counter(run.end for run in runs)
            times = self.injected[fault] or ""
            yield f"{fault:22} {times:>6} {len(runs):>6}" + "".join(f"{ends[end]:>10}" for end in (*ENDS, "raised"))


@dataclass
class Campaign:
    """All conversations of a seed. `build` and `tools` are replaced by what has to be found out."""

    seed: int
    runs: int
    rate: float = 0.3
    at_once: int = 16
    build: Build = build
    tools: Callable[[], Toolbox] = failing_tools
    verdict: Verdict = field(default_factory=Verdict)
    _approved: set[str] = field(default_factory=set)
    _service: FaultyModel = field(default_factory=FaultyModel)
    _saver: InMemorySaver = field(
        default_factory=lambda: InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    )
    _store: InMemoryStore = field(default_factory=InMemoryStore)
    _environment: threading.Lock = field(default_factory=threading.Lock)

    async def play(self) -> Verdict:
        """Play all conversations, judge their effects."""
        free = asyncio.Semaphore(self.at_once)

        async def converse(number: int) -> None:
            async with free:
                await self._converse(number)

        async with self._service.listening():
            await asyncio.gather(*(converse(number) for number in range(-(-self.runs // RUNS_EACH))))
            await close()
        self._judge_effects()
        return self.verdict

    async def _converse(self, number: int) -> None:
        script = Script(number, Schedule(self.seed, self.rate))
        self._service.scripts[number] = script
        dice = random.Random(f"{self.seed}/{number}")
        nodes = Nodes(tools_by_name=self.tools(), model=self._model_for(script), limits=LIMITS)
        agent = self.build(nodes).compile(checkpointer=self._saver, store=self._store)
        config: RunnableConfig = {"configurable": {"thread_id": f"thread-{number}"}}
        for _ in range(RUNS_EACH - 1):
            (question, *_) = [*(await agent.aget_state(config)).interrupts, None]
            given = self._reply(question, dice) if question else _new_turn(script, _some_calls(script, dice))
            self.verdict.runs.append(await _ran(agent, config, given, script))
        script.calm = True
        last = await _ran(agent, config, _new_turn(script, [("calculator", {"expression": "6*7"})]), script)
        self.verdict.runs.append(last)
        if last.end != "answer":
            self.verdict.stuck.append(f"{number}: {last.end} {last.details}")
        await self._saver.adelete_thread(f"thread-{number}")

    def _model_for(self, script: Script) -> Callable[..., BaseChatModel]:
        """The agent's own model, at the service, or where nobody listens if that is what the schedule has."""

        def model(context: Context, **options: Any) -> BaseChatModel:
            url = self._service.closed_url if script.refuses() else self._service.url
            # Models are made in threads, and the environment is one for all.
            with self._environment, patch.dict(os.environ, OPENAI_BASE_URL=url):
                return chat_model(context, **options)

        return model

    def _reply(self, question: Interrupt, dice: random.Random) -> Command[Any]:
        action = question.value["action_requests"][0]
        # Whether to try again may be answered with no; everything else is approved.
        kind = dice.choice(["approve", "reject"]) if action["name"] == "try_again" else "approve"
        if action["name"] == "send_message":
            self._approved.add(action["args"]["body"])
        return Command(resume={question.id: {"decisions": [{"type": kind}]}})

    def _judge_effects(self) -> None:
        happened = Counter(message.body for message in outbox.sent())
        self.verdict.repeated = sorted(body for body, times in happened.items() if times > 1)
        self.verdict.unapproved = sorted(set(happened) - self._approved)
        self.verdict.lost = sorted(self._approved - set(happened))


def _some_calls(script: Script, dice: random.Random) -> list[Call]:
    """One to three calls, the message among them only once."""
    note = f"note {script.tag(len(script.calls))}"
    possible: list[Call] = [
        ("calculator", {"expression": "6*7"}),
        ("lookup_knowledge", {"query": "threads"}),
        ("send_message", {"recipient": "Ada", "body": note}),
        ("unreliable", {"manner": dice.choice(list(TOOL_FAULTS))}),
    ]
    return dice.sample(possible, dice.randint(1, 3))


def _new_turn(script: Script, calls: Sequence[Call]) -> dict[str, Any]:
    script.calls.append(calls)
    return {"messages": [{"role": "user", "content": f"Please do {script.tag(len(script.calls) - 1)}."}]}


async def _ran(
    agent: CompiledStateGraph[Any, Any, Any, Any], config: RunnableConfig, given: Any, script: Script
) -> Ran:
    """Run the agent once, as a server does, and say how that ended."""
    script.met.clear()
    before = len(await _messages(agent, config))
    try:
        async for _ in agent.astream(given, config, stream_mode=["messages", "updates"]):
            pass
        end, details = await _end(agent, config, script)
    except Exception as error:  # noqa: BLE001 - that there are none is what is being proved
        end, details = "raised", f"{type(error).__name__}: {error}"[:200]
    failed = _tool_faults((await _messages(agent, config))[before:], script.calls[-1])
    return Ran([*script.met, *failed], end, details)


async def _messages(agent: CompiledStateGraph[Any, Any, Any, Any], config: RunnableConfig) -> list[Any]:
    return list((await agent.aget_state(config)).values.get("messages", []))


async def _end(
    agent: CompiledStateGraph[Any, Any, Any, Any], config: RunnableConfig, script: Script
) -> tuple[str, str]:
    state = await agent.aget_state(config)
    if state.interrupts:
        return "question", ""
    last = state.values["messages"][-1]
    if state.next or not isinstance(last, AIMessage) or last.tool_calls or last.invalid_tool_calls or not last.text:
        return "bad", f"next {state.next}, last {last!r}"[:200]
    if script.answer(len(script.calls) - 1) in last.text:
        return "answer", ""
    return ("handler", "") if state.values.get("error") else ("bad", last.text[:200])


def _tool_faults(new: Sequence[Any], calls: Sequence[Call]) -> list[str]:
    manners = {name: args.get("manner", "") for name, args in calls}
    failed = [message for message in new if message.type == "tool" and message.name == "unreliable"]
    return [TOOL_FAULTS[manners["unreliable"]] for message in failed if "output_parsing" not in message.text]


@contextmanager
def surroundings() -> Iterator[None]:
    """An environment with a key that is none, and an empty outbox of its own."""
    with tempfile.TemporaryDirectory() as place:
        kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
        ours = {
            "OPENAI_API_KEY": "none",
            "OUTBOX_PATH": str(Path(place) / "outbox.sqlite3"),
            # Hangs are cut off by the model's layers; a breaker would keep a conversation's calm turn from its answer.
            "MODEL_IDLE_SECONDS": "0.7",
            "BREAKER_FAILURES": "1000000",
        }
        with patch.dict(os.environ, {**kept, **ours}, clear=True):
            yield


def main() -> int:
    """The command line; the exit status says whether all goals are met."""
    parser = argparse.ArgumentParser("python -m tests.graph.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=3_000)
    parser.add_argument("--rate", type=float, default=0.3, help="the share of requests that fail")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--at-once", type=int, default=16)
    given = parser.parse_args()
    say(f"seed {given.seed}")
    with surroundings():
        campaign = Campaign(given.seed, given.runs, given.rate, given.at_once)
        verdict = asyncio.run(campaign.play())
    for line in verdict.table():
        say(line)
    for goal, met in verdict.goals().items():
        say(f"{'met    ' if met else 'NOT MET'} {goal}")
    return 0 if all(verdict.goals().values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
