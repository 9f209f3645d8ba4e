"""A walk: a run of numbered steps, one after the other, and what has to be true of it in the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.durability.client import Client
from tests.durability.effects import EffectLog, Execution, starts_per_key
from tests.durability.tally import Tally
from tests.support.talk import start, until

PROJECT = Path(__file__).parent / "project" / "langgraph.json"


@dataclass(frozen=True, slots=True)
class Walk:
    """One run under way."""

    client: Client
    effects: EffectLog
    thread: str
    run: str
    count: int

    @classmethod
    def begin(cls, client: Client, effects: EffectLog, graph: str = "walk", *, count: int, pause: float) -> Walk:
        """Start a run of so many steps, each of which takes `pause` seconds."""
        thread = client.thread()
        run = start(client.http, thread, graph, input={"count": count, "pause": pause, "done": []})
        return cls(client, effects, thread, run, count)

    def executions(self) -> list[Execution]:
        return self.effects.of(self.thread)

    def started(self, number: int) -> Execution:
        """Wait until that many executions have started; the last of them."""
        return until(lambda: self.executions()[number - 1 :], f"execution {number} of {self.run}")[0]

    def started_by(self, pid: int, seconds: float) -> Execution:
        """Wait for the first execution by this process."""
        return until(lambda: [each for each in self.executions() if each.pid == pid], f"{pid} goes on", seconds)[0]

    def judge(self, tally: Tally, *, may_start_twice: int) -> None:
        """At its end: it succeeded, its state is right, no more effects doubled than were in flight, no fork."""
        over = self.client.settled(self.thread)
        status = self.client.run_status(self.thread, self.run)
        tally.fault("runs that did not succeed", [] if over and status == "success" else [f"{self.run}: {status}"])
        done: list[str] = self.client.thread_row(self.thread)["values"]["done"]
        executions = self.executions()
        calls = {each.id: each.call for each in executions}
        expected = [f"step {number}" for number in range(self.count)]
        tally.fault("wrong final states", [] if [calls.get(each) for each in done] == expected else [f"{done}"])
        doubled = {key: number for key, number in starts_per_key(executions).items() if number > 1}
        allowed = len(doubled) <= may_start_twice and all(number == 2 for number in doubled.values())
        tally.count("effects in flight that started again", len(doubled))
        tally.fault("steps executed twice", [] if allowed else [str(doubled)])
        tally.fault("checkpoint forks", self.client.forks(self.thread))
