"""`kill -9` at random moments, over and over: what was acknowledged is kept, what was done is not done again.

Every round is a conversation with one server on its own embedded Postgres: an errand of slow tool calls runs until it
asks for an approval, is approved, and goes on to its end. The server is killed at a random moment of the first run and,
in half of the rounds, of the second, and is started again on the same data and port; nobody else helps.

Judged through the public API and the effect log alone. Three signs say that a step which was committed was started
again: a state read just before the kill already showed its result; a step that comes later in the plan had started
before; or its last execution is not the one that the final messages name. A step that was started again without such a
sign was in flight: that is allowed, under the same idempotency key, and counted apart.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.durability.client import Client, How
from tests.durability.effects import EffectLog, Execution
from tests.durability.goals import Control, Goal, Trial
from tests.durability.project.graphs import NEEDS_APPROVAL, PLAN
from tests.durability.tally import Tally
from tests.durability.walk import PROJECT
from tests.support.server import Server

FIRST_RUN_SECONDS = 1.2
SECOND_RUN_SECONDS = 0.8
"""About how long the runs take: the kill comes at some moment in this span."""
RECOVERED_WITHIN = 10.0
"""Seconds from ready to the end of the run, on a machine that has other things to do too."""

APPROVE = {"resume": {"decisions": [{"type": "approve"}]}}
SAID = "please do it"

FAULTS = (
    "runs lost",
    "runs that did not succeed",
    "threads stuck busy",
    "runs recovered too late",
    "committed effects repeated",
    "effects under a changed key",
    "approved effects missing or repeated",
    "questions lost",
    "runs without approval",
    "approvals applied twice",
    "messages lost or doubled",
    "checkpoint forks",
)


@dataclass
class Conversation:
    """What a round did, to be judged at its end."""

    thread: str
    acknowledged: set[str] = field(default_factory=set)
    witnessed: dict[str, float] = field(default_factory=dict)
    """Executions whose result the state showed, and when that was."""
    approved_at: float = 0.0


class _Round:
    def __init__(self, server: Server, client: Client, chance: random.Random, tally: Tally, effects: EffectLog) -> None:
        self._server = server
        self._client = client
        self._chance = chance
        self._tally = tally
        self._effects = effects
        self._talk = Conversation(client.thread())

    def play(self) -> None:
        with self._killed_within(FIRST_RUN_SECONDS):
            self._send()
        if not self._over("a first run after a restart"):
            return
        if not self._client.statuses(self._talk.thread):
            self._tally.count("requests cut before admission, sent again")
            self._send()
            self._client.settled(self._talk.thread)
        if self._asks():
            self._approve()
        self._judge()
        self._tally.count("conversations")

    def _asks(self) -> bool:
        row = self._client.thread_row(self._talk.thread)
        asks = row["status"] == "interrupted" and len(row["interrupts"]) == 1
        self._tally.fault("questions lost", [] if asks else [f"{self._talk.thread}: {row['status']}, {row['error']}"])
        return asks

    def _send(self) -> None:
        self._begin(input={"messages": [{"role": "user", "content": SAID}]})

    def _approve(self) -> None:
        self._talk.approved_at = time.monotonic()
        if self._chance.random() < 0.5:
            self._begin(command=APPROVE)
            self._client.settled(self._talk.thread)
            return
        before = len(self._talk.acknowledged)
        with self._killed_within(SECOND_RUN_SECONDS):
            self._begin(command=APPROVE)
        self._over("a resumed run after a restart")
        # A client that was cut off sends its approval once more; only one that never arrived may count.
        arrived = len(self._client.statuses(self._talk.thread)) > 1
        again = self._redeliver()
        self._tally.count("approvals delivered again")
        accepted_twice = arrived and again is not None
        lost = len(self._talk.acknowledged) > before and not arrived
        self._tally.fault("approvals applied twice", [self._talk.thread] if accepted_twice else [])
        self._tally.fault("runs lost", [f"approval of {self._talk.thread}"] if lost else [])

    def _begin(self, **body: Any) -> None:
        how: How = self._chance.choice(("background", "stream"))
        run = self._client.begin(self._talk.thread, "errand", how, **body)
        if run is not None:
            self._talk.acknowledged.add(run)
            self._tally.count(f"runs acknowledged ({how})")

    def _redeliver(self) -> str | None:
        """The id of the run that took the approval, None where it was refused."""
        body = {"assistant_id": "errand", "command": APPROVE}
        answer = self._client.http.post(f"/threads/{self._talk.thread}/runs", json=body)
        if answer.status_code == 409:
            return None
        run = str(answer.raise_for_status().json()["run_id"])
        self._talk.acknowledged.add(run)
        self._client.settled(self._talk.thread)
        return run

    @contextmanager
    def _killed_within(self, seconds: float) -> Iterator[None]:
        """The server dies at a random moment while the block runs, or soon after it; afterwards it is there again."""
        killer = threading.Thread(target=self._kill_after, args=(self._chance.uniform(0, seconds),))
        killer.start()
        yield
        killer.join()
        begun = time.monotonic()
        self._server.start()
        self._tally.timed("restart until ready", time.monotonic() - begun)

    def _kill_after(self, seconds: float) -> None:
        time.sleep(seconds)  # The moment of death is what is being tried.
        with Client(self._server.url) as witness:
            shown = _executions_shown(witness.state(self._talk.thread))
        self._talk.witnessed |= dict.fromkeys(shown - self._talk.witnessed.keys(), time.monotonic())
        self._server.kill()
        self._tally.count("kills")

    def _over(self, figure: str) -> bool:
        """Wait for the end of everything on the thread."""
        begun = time.monotonic()
        active = any(status in ("pending", "running") for status in self._client.statuses(self._talk.thread).values())
        over = self._client.settled(self._talk.thread)
        if active:
            self._tally.count("runs recovered")
            took = time.monotonic() - begun
            self._tally.timed(f"{figure}: until over", took)
            late = [f"{self._talk.thread}: {took:.1f} s"] if took > RECOVERED_WITHIN else []
            self._tally.fault("runs recovered too late", late)
        self._tally.fault("threads stuck busy", [] if over else [self._talk.thread])
        return over

    def _judge(self) -> None:
        thread = self._talk.thread
        statuses = self._client.statuses(thread)
        lost = [run for run in self._talk.acknowledged if self._client.run_status(thread, run) is None]
        self._tally.fault("runs lost", lost)
        broken = [f"{run} of {thread}: {status}" for run, status in statuses.items() if status != "success"]
        self._tally.fault("runs that did not succeed", broken)
        row = self._client.thread_row(thread)
        self._tally.fault("threads stuck busy", [f"{thread}: {row['status']}"] if row["status"] != "idle" else [])
        self._tally.fault("checkpoint forks", self._client.forks(thread))
        messages = (row["values"] or {}).get("messages", [])
        self._tally.fault("messages lost or doubled", wrong_messages(thread, messages))
        self._judge_effects(messages)

    def _judge_effects(self, messages: list[dict[str, Any]]) -> None:
        executions = self._effects.of(self._talk.thread)
        remembered = {message["tool_call_id"]: message["content"] for message in messages if message["type"] == "tool"}
        repeated = list(repeated_effects(executions, remembered, self._talk.witnessed))
        self._tally.fault("committed effects repeated", repeated)
        keys = {execution.key for execution in executions}
        expected = {f"{self._talk.thread}:{call}" for calls in PLAN for call in calls}
        self._tally.fault("effects under a changed key", keys ^ expected)
        sent = [execution for execution in executions if execution.call == NEEDS_APPROVAL]
        early = [execution.id for execution in sent if execution.started < self._talk.approved_at]
        self._tally.fault("runs without approval", early)
        done = {execution.key for execution in sent if execution.finished is not None}
        self._tally.fault("approved effects missing or repeated", [] if len(done) == 1 else [f"{len(done)}: {sent}"])
        self._tally.count("approved effects (by idempotency key)", len(done))
        self._tally.count("effects (by idempotency key)", len(keys))
        again = [each for each in executions if each.id != remembered.get(each.call)]
        self._tally.count("started again, cut off in flight", sum(each.finished is None for each in again))
        self._tally.count("started again, finished but not committed", sum(each.finished is not None for each in again))


def repeated_effects(
    executions: list[Execution], remembered: dict[str, str], witnessed: dict[str, float]
) -> Iterator[str]:
    """Executions of steps that were committed before (see the top of this file)."""
    place = {call: number for number, calls in enumerate(PLAN) for call in calls}
    witnessed_calls = {each.call: witnessed[each.id] for each in executions if each.id in witnessed}
    reached = 0
    last: dict[str, Execution] = {}
    for each in executions:
        if place[each.call] < reached:
            yield f"{each.key} was started after a later step"
        if each.started > witnessed_calls.get(each.call, float("inf")):
            yield f"{each.key} was started after the state had shown its result"
        reached = max(reached, place[each.call])
        last[each.call] = each
    for call, each in last.items():
        if each.id != remembered.get(call):
            yield f"{each.key}: {each.id} ran last, but {remembered.get(call)} is what the thread remembers"


def wrong_messages(thread: str, messages: list[dict[str, Any]]) -> list[str]:
    """Compare a finished errand's messages with what they have to be."""
    expected: list[tuple[str, str | None]] = [("human", SAID)]
    for turn, calls in enumerate(PLAN):
        expected.append(("ai", f"answer {turn}"))
        expected += [("tool", call) for call in calls]
    expected.append(("ai", "all done"))
    found = [(message["type"], message.get("tool_call_id") or message["content"]) for message in messages]
    wrong = [] if found == expected else [f"thread {thread}: {found}"]
    ids = [message["id"] for message in messages]
    return wrong if len(set(ids)) == len(ids) else [*wrong, f"thread {thread}: ids {ids}"]


def _executions_shown(state: dict[str, Any]) -> set[str]:
    """The executions whose results a state shows: in its messages, or as the result of a task whose step goes on."""
    channels = [state["values"], *(task["result"] for task in state["tasks"] if task["result"])]
    messages = [message for values in channels for message in (values or {}).get("messages", [])]
    return {message["content"] for message in messages if message["type"] == "tool"}


def play(trial: Trial) -> Tally:
    """All rounds against one server."""
    tally = Tally("kill -9 of the only server in the middle of a conversation", *FAULTS)
    effects = EffectLog(trial.directory / "effects.jsonl")
    given = {"data_dir": trial.directory / "data", "planted": trial.planted, "EFFECT_LOG": str(effects.path)}
    server = Server(config=PROJECT, **given)
    with server, Client(server.url) as client:
        for _ in range(trial.rounds):
            _Round(server, client, trial.chance, tally, effects).play()
    return tally


GOAL = Goal(
    "conversations",
    "a conversation with an approval survives the death of the only server",
    play,
    rounds=30,
    at_least={"conversations": 30, "kills": 35, "approvals delivered again": 5},
    controls=(Control("saves-late", ("committed effects repeated", "questions lost"), rounds=4),),
)
