"""The judgements of the chaos harness, tried with evidence that was made up.

There is a story in which all is well, and for every judgement there are stories in which something is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.durability.chaos.checker import JUDGEMENTS, judged
from tests.durability.chaos.evidence import Evidence, ThreadView

T, RUN, ANSWERED = "thread", "run-1", "run-2"
ASKED = "question"
FRAMES = [
    'event: metadata\r\ndata: {"attempt":1}\r\nid: 5-1',
    'event: updates\r\ndata: {"step":1}\r\nid: 5-2',
    'event: updates\r\ndata: {"step":2}\r\nid: 5-3',
]
AGAIN = 'event: metadata\r\ndata: {"attempt":2}\r\nid: 5-100004'


@dataclass
class Story:
    """An input whose plan is an effect, one under the ledger and a question; its answer; a stream, and a `wait`."""

    observations: list[dict[str, Any]] = field(default_factory=list)
    effects: list[dict[str, Any]] = field(default_factory=list)
    view: ThreadView = field(default_factory=lambda: ThreadView(None))

    def __post_init__(self) -> None:
        self.asks("t0.0#1", "run", 1.0, RUN, strategy="enqueue", how="stream", keyed=True)
        for raw in FRAMES:
            self.observe("frame", 1.5, op="t0.0#1", run=RUN, id=raw.rpartition("id: ")[2], raw=raw)
        self.observe("closed", 2.0, op="t0.0#1", run=RUN, how="clean", status="success")
        self.executes("effect", 0, 1.1)
        self.executes("once", 1, 1.3)
        self.effects.append({"event": "asked", "at": 1.5, "interrupt": ASKED})
        self.asks("q0#2", "answer", 3.0, ANSWERED, interrupt=ASKED, answer="yes", bare=False)
        self.executes("ask", 2, 3.2, run=ANSWERED, interrupt=ASKED, answer={"id": "yes", "meant": ASKED})
        self.asks("t0.1#3", "run", 4.0, "run-3", strategy="enqueue", how="wait", keyed=False)
        self.observe("result", 5.0, op="t0.1#3", run="run-3", body={"inputs": ["t0.0", "t0.1"]})
        done = [f"{T}:t0.0:{place}:0 x{place}" for place in range(3)]
        values = {"inputs": ["t0.0", "t0.1"], "done": done}
        history = [
            {"parent_checkpoint_id": parent, "values": {"inputs": ["t0.0"]}} for parent in ("third", "second", None)
        ]
        runs = [{"run_id": run, "status": "success"} for run in ("run-3", ANSWERED, RUN)]
        state = {"values": values, "next": [], "tasks": []}
        self.view = ThreadView({"status": "idle", "interrupts": {}}, runs, state, history, {RUN: FRAMES}, {})

    @property
    def evidence(self) -> Evidence:
        return Evidence(self.observations, self.effects, {T: self.view})

    def observe(self, what: str, at: float, **more: Any) -> None:
        self.observations.append({"what": what, "at": at, **more})

    def asks(
        self, op: str, kind: str, at: float, made: str | None = None, status: int | None = 200, **more: Any
    ) -> None:
        more = {"attached": False, **more} if kind == "run" else more
        self.observe("asked", at, op=op, mark=op.partition("#")[0], kind=kind, thread=T, **more)
        self.observe("answered", at + 0.05, op=op, status=status, run=made if status == 200 else None)

    def executes(
        self, kind: str, place: int, at: float, execution: str = "", pid: int = 7, run: str = RUN, **more: Any
    ) -> None:
        entry = {"thread": T, "run": run, "mark": "t0.0", "place": place, "kind": kind, "pid": pid}
        entry |= {"key": f"{T}:t0.0:{place}:0", "execution": execution or f"x{place}"}
        self.effects.append({**entry, "event": "started", "at": at, **more})
        self.effects.append({**entry, "event": "finished", "at": at + 0.1})

    def fault(self, kind: str, began: float, ended: float, pid: int = 7) -> None:
        self.observe("fault", ended, kind=kind, began=began, ended=ended, pids=[pid])

    def shows(self, **changes: Any) -> None:
        self.view = replace(self.view, **changes)

    def row(self, **changes: Any) -> None:
        self.shows(row={**(self.view.row or {}), **changes})

    def state(self, **changes: Any) -> None:
        self.shows(state={**self.view.state, **changes})

    def values(self, **changes: Any) -> None:
        self.state(values={**self.view.state["values"], **changes})

    def ended(self, run: str, status: str | None, error: dict[str, str] | None = None) -> None:
        kept = [{**each, "status": status} if each["run_id"] == run else each for each in self.view.runs]
        self.shows(runs=[each for each in kept if each["status"] is not None])
        if error is not None:
            self.shows(results={**self.view.results, run: {"__error__": error}})

    def change(self, what: str, op: str, **changes: Any) -> None:
        for line in self.observations:
            if line["what"] == what and line.get("op") == op:
                line.update(changes)

    def tool(self, **changes: Any) -> None:
        for line in self.effects:
            if line.get("kind") == "ask" and line["event"] == "started":
                line.update(changes)

    def drop_frame(self, event_id: str) -> None:
        self.observations = [line for line in self.observations if line.get("id") != event_id]


def _gone(story: Story) -> None:
    story.shows(row=None, runs=[], state={}, history=[], replays={})


def _cancel(story: Story, action: str, status: str | None) -> None:
    story.asks("t0.2#4", "cancel", 1.2, None, 202, run=RUN, action=action)
    story.ended(RUN, status)


def _second_answer(story: Story) -> None:
    story.asks("q0#9", "answer", 3.0, "run-9", interrupt=ASKED, answer="no", bare=False)
    story.shows(runs=[*story.view.runs, {"run_id": "run-9", "status": "error"}])
    story.shows(results={"run-9": {"__error__": {"error": "LateAnswer", "message": ""}}})


def _answered_late(story: Story) -> None:
    """A bare answer was taken for a question that was asked after it had come."""
    story.change("asked", "q0#2", bare=True, interrupt="an older one")
    story.effects[4]["at"] = 3.1


BROKEN: dict[str, list[Callable[[Story], object]]] = {
    "acknowledged runs lost": [lambda story: story.ended(ANSWERED, None)],
    "threads lost": [_gone],
    "runs or threads stuck": [
        lambda story: story.ended(RUN, "pending"),
        lambda story: story.ended(RUN, "running"),
        lambda story: story.row(status="busy"),
    ],
    "runs that ended for no reason": [
        lambda story: story.ended(RUN, "interrupted"),
        lambda story: (story.change("asked", "t0.0#1", attached=True), story.ended(RUN, "interrupted")),
        lambda story: story.ended(RUN, "timeout"),
        lambda story: story.ended(RUN, "error", {"error": "RuntimeError", "message": "gone"}),
        lambda story: story.ended(RUN, "error", {"error": "ValueError", "message": "planned"}),
        lambda story: story.ended(RUN, "error", {"error": "LateAnswer", "message": ""}),
    ],
    "cancellations that led elsewhere": [
        lambda story: _cancel(story, "interrupt", None),
        lambda story: _cancel(story, "rollback", "interrupted"),
        lambda story: _cancel(story, "interrupt", "pending"),
    ],
    "inputs lost": [
        lambda story: story.values(inputs=["t0.1"]),
        lambda story: story.asks("t0.3#7", "update", 6.0),
    ],
    "inputs doubled": [
        lambda story: story.values(inputs=["t0.0", "t0.1", "t0.1"]),
        lambda story: story.view.history[1]["values"].update(inputs=["t0.0", "t0.0"]),
    ],
    "idempotent requests carried out twice": [
        lambda story: story.asks("t0.0#5", "run", 1.6, ANSWERED, strategy="enqueue", how="stream", keyed=True)
    ],
    "effects doubled though nothing stopped them": [lambda story: story.executes("effect", 0, 1.15, "y")],
    "effects repeated after their commit": [lambda story: story.executes("effect", 0, 1.35, "y")],
    "ledgered effects doubled": [lambda story: story.executes("once", 1, 1.45, "y")],
    "wrong states": [
        lambda story: story.values(done=[f"{T}:t0.0:0:0 somebody"]),
        lambda story: story.values(done=[*story.view.state["values"]["done"], f"{T}:t0.0:0:0 x0"]),
    ],
    "tools run without an answer": [
        lambda story: story.tool(answer=None),
        lambda story: story.tool(answer={"id": "nobody's"}),
    ],
    "answers misapplied": [lambda story: story.tool(interrupt="another"), _answered_late],
    "answers applied twice": [
        lambda story: story.executes("ask", 3, 3.6, run=ANSWERED, interrupt="another", answer={"id": "yes"}),
        lambda story: story.executes("ask", 2, 3.6, run=ANSWERED, interrupt=ASKED, answer={"id": "no"}),
    ],
    "questions with two accepted answers": [_second_answer],
    "answers lost": [lambda story: story.tool(answer={"id": "other"})],
    "checkpoint forks": [
        lambda story: story.view.history[0].update(parent_checkpoint_id="second"),
        lambda story: story.view.history[1].update(parent_checkpoint_id=None),
    ],
    "streams out of order": [
        lambda story: story.observations.insert(4, dict(story.observations[2])),
        lambda story: story.shows(replays={RUN: [FRAMES[0], FRAMES[2], FRAMES[1]]}),
    ],
    "frames that differ from the replay": [
        lambda story: story.shows(replays={RUN: [*FRAMES[:2], FRAMES[2].replace("2}", "3}")]})
    ],
    "frames missed in between": [lambda story: story.drop_frame("5-2")],
    "frames that are not in the log": [
        lambda story: story.shows(replays={RUN: FRAMES[:2]}),
        lambda story: story.shows(replays={RUN: [FRAMES[0], FRAMES[2], AGAIN]}),
    ],
    "streams that ended early": [
        lambda story: story.change("closed", "t0.0#1", status="running"),
        lambda story: story.drop_frame("5-3"),
    ],
    "streams that never ended": [lambda story: story.change("closed", "t0.0#1", how="hung")],
    "wrong results of wait": [lambda story: story.change("result", "t0.1#3", body={"inputs": ["t0.0"]})],
    "wrong thread status": [
        lambda story: story.state(next=["act"]),
        lambda story: story.row(status="interrupted"),
        lambda story: (story.row(status="interrupted"), story.state(tasks=[{"interrupts": []}])),
        lambda story: story.row(status="error"),
    ],
    "questions shown wrongly": [lambda story: story.row(interrupts={"task": [{"id": ASKED}]})],
    "5xx other than 503": [lambda story: story.change("answered", "t0.1#3", status=500)],
    "refusals without a reason": [
        lambda story: story.asks("t0.9#9", "run", 5.0, None, 422, strategy="enqueue"),
        lambda story: story.asks("t0.9#9", "run", 5.0, None, 409, strategy="enqueue"),
        lambda story: story.asks("t0.9#9", "run", 5.0, None, 404, strategy="enqueue"),
    ],
}
"""What each judgement has to notice."""


def _killed_in_flight(story: Story) -> None:
    story.fault("kill", 1.15, 1.2)
    story.effects[1]["event"] = "never"
    story.executes("effect", 0, 1.25, "y", pid=8)
    story.values(done=[f"{T}:t0.0:0:0 y", *story.view.state["values"]["done"][1:]])


def _woken_late(story: Story) -> None:
    story.fault("freeze", 1.2, 2.0)
    story.executes("effect", 0, 2.1, "y")


def _died_before_it_logged(story: Story) -> None:
    story.shows(replays={RUN: [*FRAMES[:2], AGAIN]})
    story.change("closed", "t0.0#1", how="broken", status=None)


def _rolled_back(story: Story) -> None:
    _cancel(story, "rollback", None)
    story.shows(replays={})


def _answered_again_after_a_rollback(story: Story) -> None:
    story.executes("effect", 3, 3.8, run=ANSWERED)
    story.asks("t0.2#4", "cancel", 4.0, None, 202, run=ANSWERED, action="rollback")
    story.ended(ANSWERED, None)
    story.asks("q0#9", "answer", 5.0, "run-9", interrupt=ASKED, answer="no", bare=False)
    story.executes("ask", 2, 5.1, "y", run="run-9", interrupt=ASKED, answer={"id": "no", "meant": ASKED})
    story.executes("effect", 3, 5.3, "z", run="run-9")
    story.shows(runs=[{"run_id": "run-9", "status": "success"}, *story.view.runs])


def _planned_to_fail(story: Story) -> None:
    story.executes("fail", 3, 5.5)
    story.ended(RUN, "error", {"error": "ValueError", "message": "planned"})


def _forked_on_purpose(story: Story) -> None:
    story.asks("t0.5#5", "run", 5.0, None, None, strategy="enqueue", checkpoint_id="second")
    story.view.history[0]["parent_checkpoint_id"] = "second"


def _first_answer_stopped(story: Story) -> None:
    _cancel(story, "interrupt", "success")
    story.ended(ANSWERED, "interrupted")
    story.asks("q0#9", "answer", 5.0, "run-9", interrupt=ASKED, answer="no", bare=False)
    story.executes("ask", 2, 5.1, "y", run="run-9", interrupt=ASKED, answer={"id": "no", "meant": ASKED})
    story.shows(runs=[{"run_id": "run-9", "status": "success"}, *story.view.runs])


def _left_alone(story: Story) -> None:
    story.change("asked", "t0.0#1", attached=True)
    story.change("closed", "t0.0#1", how="vanished", status=None)
    story.ended(RUN, "interrupted")


FORGIVEN: list[Callable[[Story], object]] = [
    _killed_in_flight,
    _woken_late,
    _died_before_it_logged,
    _rolled_back,
    _answered_again_after_a_rollback,
    _planned_to_fail,
    _forked_on_purpose,
    _first_answer_stopped,
    _left_alone,
    lambda story: story.asks("t0.9#9", "run", 5.0, None, 503, strategy="enqueue"),
    lambda story: story.asks("t0.9#9", "run", 5.0, None, None, strategy="enqueue"),
    lambda story: story.asks("t0.9#9", "run", 5.0, None, 409, strategy="reject"),
    lambda story: story.asks("q9#9", "answer", 5.0, None, 409, interrupt=ASKED, answer="late", bare=False),
    lambda story: (story.asks("t0.9#9", "delete", 6.0, None, 204), _gone(story)),
]
"""What no judgement may take for a fault."""


def _failing(story: Story) -> dict[str, list[str]]:
    return {name: found for name, found in judged(story.evidence).items() if found}


def test_a_story_in_which_all_is_well_passes() -> None:
    assert _failing(Story()) == {}


@pytest.mark.parametrize("name", JUDGEMENTS)
def test_a_judgement_notices_what_it_is_there_for(name: str) -> None:
    for breaks in BROKEN[name]:
        story = Story()
        breaks(story)
        assert name in _failing(story)


@pytest.mark.parametrize("happens", FORGIVEN)
def test_what_a_fault_or_a_request_explains_is_no_failure(happens: Callable[[Story], object]) -> None:
    story = Story()
    happens(story)
    assert _failing(story) == {}
