"""What an episode left: the observations, the effects, and what the public API shows when everything is over.

The judgements in `judging/` are pure functions over it, so that they can be tried with evidence that was made up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Line = Mapping[str, Any]
SLACK = 2.0
"""Seconds that a commit may take after its effect, and a process after it was healed, on a machine with other work."""
STALE_SECONDS = 6.0
"""How long after it was woken a process may act on what it believed before."""


@dataclass(frozen=True, slots=True)
class ThreadView:
    """One thread, as the public API shows it at the end; `row` is None if it is gone."""

    row: Line | None
    runs: Sequence[Line] = ()
    """Newest first."""
    state: Line = field(default_factory=dict)
    history: Sequence[Line] = ()
    """Newest first."""
    replays: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The frames of each run, replayed from the start."""
    results: Mapping[str, Any] = field(default_factory=dict)
    """What joining a run that failed comes to."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a task."""

    key: str
    id: str
    thread: str
    run: str
    mark: str
    place: int
    kind: str
    pid: int
    started: float
    finished: float | None
    interrupt: str | None = None
    answer: Any = None


@dataclass(frozen=True, slots=True)
class Window:
    """A fault, and when it was."""

    kind: str
    began: float
    ended: float
    pids: frozenset[int]

    def touches(self, begin: float, end: float) -> bool:
        return self.began <= end and begin <= self.ended


@dataclass(frozen=True)
class Evidence:
    """Everything that there is to judge."""

    observations: Sequence[Line]
    effects: Sequence[Line]
    threads: Mapping[str, ThreadView]

    @cached_property
    def asked(self) -> Mapping[str, Line]:
        """Every request by its name."""
        return {line["op"]: line for line in self.observations if line["what"] == "asked"}

    @cached_property
    def answered(self) -> Mapping[str, Line]:
        return {line["op"]: line for line in self.observations if line["what"] == "answered"}

    @cached_property
    def left(self) -> frozenset[str]:
        """Requests whose client went away."""
        gone = ("vanished", "hung")
        return frozenset(line["op"] for line in self.observations if line["what"] == "closed" and line["how"] in gone)

    @cached_property
    def faults(self) -> Sequence[Window]:
        return [
            Window(line["kind"], line["began"], line["ended"], frozenset(line["pids"]))
            for line in self.observations
            if line["what"] == "fault"
        ]

    @cached_property
    def executions(self) -> Sequence[Execution]:
        """In the order in which they started."""
        finished = {line["execution"]: line["at"] for line in self.effects if line["event"] == "finished"}
        executions = [
            Execution(
                **{name: line[name] for name in ("key", "thread", "run", "mark", "place", "kind", "pid")},
                id=line["execution"],
                started=line["at"],
                finished=finished.get(line["execution"]),
                interrupt=line.get("interrupt"),
                answer=line.get("answer"),
            )
            for line in self.effects
            if line["event"] == "started"
        ]
        return sorted(executions, key=lambda each: each.started)

    @cached_property
    def by_key(self) -> Mapping[str, Sequence[Execution]]:
        grouped: dict[str, list[Execution]] = defaultdict(list)
        for each in self.executions:
            grouped[each.key].append(each)
        return grouped

    @cached_property
    def acknowledged(self) -> Mapping[str, Line]:
        """Runs whose id was sent to a client, and the request that started each."""
        starts = {"run", "fork", "answer"}
        return {
            line["run"]: self.asked[op]
            for op, line in self.answered.items()
            if line["status"] == 200 and line.get("run") and op in self.asked and self.asked[op]["kind"] in starts
        }

    def of_kind(self, *kinds: str, thread: str | None = None) -> Iterator[Line]:
        """The requests of these kinds that may have been carried out: no answer, or a good one."""
        for op, line in self.asked.items():
            answer = self.answered.get(op)
            refused = answer is not None and answer["status"] is not None and 400 <= answer["status"] < 500
            if line["kind"] in kinds and not refused and thread in (None, line["thread"]):
                yield line

    def deleted(self, thread: str) -> bool:
        return any(self.of_kind("delete", thread=thread))

    def forked(self, thread: str) -> bool:
        return any("checkpoint_id" in line for line in self.of_kind("run", thread=thread))

    def rollbacks(self, thread: str) -> list[Line]:
        """The requests that may have taken back what runs of the thread did."""
        cancels = [line for line in self.of_kind("cancel", thread=thread) if line["action"] == "rollback"]
        return [*cancels, *(line for line in self.of_kind("run", thread=thread) if line["strategy"] == "rollback")]

    def rolled_back(self, thread: str) -> bool:
        """Somebody may have rolled back something there."""
        return bool(self.rollbacks(thread))

    def cancels(self, thread: str) -> Sequence[Line]:
        """The requests that stop runs of the thread."""
        stopping = ("interrupt", "rollback")
        runs = [
            line
            for line in self.of_kind("run", thread=thread)
            if line["strategy"] in stopping or (line["attached"] and line["op"] in self.left)
        ]
        return [*runs, *self.of_kind("cancel", "delete", thread=thread)]
