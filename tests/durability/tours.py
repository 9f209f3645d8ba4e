"""Tours: runs whose place in their thread, whose steps and whose executions can be told apart afterwards."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.durability.client import Client, How
from tests.durability.effects import EffectLog, Execution
from tests.durability.tally import Tally

SAVE_SECONDS = 0.5
"""How long the result of a finished step may have been on its way to the database when its process was killed."""

FAULTS = (
    "runs lost",
    "runs that did not succeed",
    "threads stuck busy",
    "wrong final states",
    "runs out of order",
    "committed effects repeated",
    "effects doubled that were not in flight at a kill",
    "checkpoint forks",
)


@dataclass
class Tours:
    """What was asked for, and what was acknowledged: `runs[thread][run]` is the run's token."""

    effects: EffectLog
    count: int
    pause: float
    runs: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    killed: dict[int, float] = field(default_factory=dict)
    """When which process was killed."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, client: Client, thread: str, how: How = "background", **options: Any) -> str | None:
        """Start a run; its id if it was acknowledged."""
        token = uuid4().hex
        given = {"asked": [token], "count": self.count, "pause": self.pause, "done": []}
        run = client.begin(thread, "tour", how, input=given, **options)
        with self._lock:
            self.runs[thread]
            if run is not None:
                self.runs[thread][run] = token
        return run

    def judge(self, client: Client, tally: Tally) -> None:
        """At the end, when nothing is under way any more."""
        log = self.effects.by_thread()
        for thread in self.runs:
            _Judgement(self, client, thread, log.get(thread, []), tally).judge()


@dataclass
class _Judgement:
    tours: Tours
    client: Client
    thread: str
    executions: list[Execution]
    tally: Tally

    def judge(self) -> None:
        statuses = self.client.statuses(self.thread)
        known = self.tours.runs[self.thread]
        self._fault("runs lost", known.keys() - statuses.keys())
        if not statuses:
            return
        self._fault("runs that did not succeed", (each for each in statuses.items() if each[1] != "success"))
        row = self.client.thread_row(self.thread)
        self._fault("threads stuck busy", [row["status"]] if row["status"] != "idle" else [])
        values = self.client.values(self.thread) or {"asked": [], "done": []}
        self._fault("wrong final states", self._wrong(values, statuses))
        self._judge_order(values["asked"], list(reversed(statuses)))
        self._judge_effects({each.rpartition("/")[2] for each in values["done"]})
        forks = self.client.forks(self.thread)
        self._fault("checkpoint forks", forks)

    def _wrong(self, values: dict[str, list[str]], statuses: dict[str, str]) -> Iterator[object]:
        """Every run's input once, and then its steps, once each."""
        asked = values["asked"]
        if len(asked) != len(statuses) or len(set(asked)) != len(asked):
            yield f"{len(statuses)} runs, but inputs {asked}"
        if missing := set(self.tours.runs[self.thread].values()) - set(asked):
            yield f"without {missing}"
        done = [each.rpartition("/")[0] for each in values["done"]]
        expected = [f"{token}/{number}" for token in asked for number in range(self.tours.count)]
        if done != expected:
            yield f"steps {done} instead of {expected}"
        calls = {each.id: each.call for each in self.executions}
        if any(calls.get(each.rpartition("/")[2]) != each.rpartition("/")[0] for each in values["done"]):
            yield "a step that nobody executed"

    def _judge_order(self, asked: list[str], oldest_first: list[str]) -> None:
        known = self.tours.runs[self.thread]
        tokens = [known[run] for run in oldest_first if run in known]
        self._fault("runs out of order", [asked] if [each for each in asked if each in tokens] != tokens else [])

    def _judge_effects(self, remembered: set[str]) -> None:
        before: dict[str, Execution] = {}
        reached: dict[str, int] = defaultdict(int)
        for each in self.executions:
            token, _, number = each.call.partition("/")
            self.tally.count("effects started")
            if earlier := before.get(each.call):
                self.tally.count("effects doubled")
                again = earlier.id in remembered or int(number) < reached[token]
                self._fault("committed effects repeated", [each] if again else [])
                allowed = self._in_flight(earlier)
                self._fault("effects doubled that were not in flight at a kill", [] if allowed else [earlier])
            else:
                self.tally.count("effects by idempotency key")
            before[each.call] = each
            reached[token] = max(reached[token], int(number))

    def _in_flight(self, execution: Execution) -> bool:
        killed = self.tours.killed.get(execution.pid)
        return killed is not None and (execution.finished is None or killed - execution.finished < SAVE_SECONDS)

    def _fault(self, name: str, found: Any) -> None:
        self.tally.fault(name, (f"thread {self.thread}: {each}" for each in found))
