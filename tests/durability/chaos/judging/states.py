"""Checkpoints, threads, and what the API answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from tests.durability.chaos.evidence import Evidence, ThreadView

REFUSALS: Mapping[str, frozenset[int]] = {
    "run": frozenset({404, 409}),
    "answer": frozenset({404, 409, 422}),
    "cancel": frozenset({404}),
    "update": frozenset({400, 404, 409}),
    "join": frozenset({404}),
    "rejoin": frozenset({404}),
    "watch": frozenset({404}),
    "delete": frozenset({404}),
}
"""What each kind of request may be refused with, on a thread where so much happens at once."""


def forks(evidence: Evidence) -> Iterator[str]:
    """Checkpoints with two children of which nobody had asked for one, and threads with two beginnings."""
    for thread, view in evidence.threads.items():
        meant = {line["checkpoint_id"] for line in evidence.of_kind("run", thread=thread) if "checkpoint_id" in line}
        children = Counter(state["parent_checkpoint_id"] for state in view.history)
        for parent, number in children.items():
            if number > 1 and parent not in meant:
                yield f"thread {thread}: checkpoint {parent} has {number} children"


def wrong_thread_status(evidence: Evidence) -> Iterator[str]:
    """Threads whose status does not fit their latest state and their last run."""
    for thread, view in evidence.threads.items():
        if view.row is None or (problem := _status_problem(view)) is None:
            continue
        yield f"thread {thread} is {view.row['status']}, {problem}"


def _status_problem(view: ThreadView) -> str | None:
    status = view.row["status"]
    unfinished = bool(view.state.get("next"))
    if status == "idle" and unfinished:
        return f"but {view.state['next']} is left to run"
    if status == "interrupted" and not unfinished:
        return "but nothing is left to run"
    if status == "error" and not any(run["status"] in ("error", "timeout") for run in view.runs):
        return "but no run failed"
    last = view.runs[0]["status"] if view.runs else None
    return "although its last run failed" if last == "error" and status == "idle" and unfinished else None


def wrong_questions(evidence: Evidence) -> Iterator[str]:
    """Threads that show other questions than their state asks."""
    for thread, view in evidence.threads.items():
        if view.row is None:
            continue
        shown = {each["id"] for task in (view.row.get("interrupts") or {}).values() for each in task}
        asked = {each["id"] for task in view.state.get("tasks", []) for each in task["interrupts"]}
        if shown != asked:
            yield f"thread {thread} shows {sorted(shown)}, its state {sorted(asked)}"


def bad_answers(evidence: Evidence) -> Iterator[str]:
    """5xx other than 503, which tells clients to come again."""
    for line in evidence.observations:
        if (
            line["what"] == "answered"
            and line["status"] is not None
            and line["status"] >= 500
            and line["status"] != 503
        ):
            yield f"{line['op']}: {line['status']} {line.get('error', '')[:200]}"


def wrong_refusals(evidence: Evidence) -> Iterator[str]:
    """4xx that nothing in the schedule explains."""
    for op, line in evidence.answered.items():
        status, asked = line["status"], evidence.asked.get(op)
        if status is None or not 400 <= status < 500 or asked is None:
            continue
        gone = status == 404 and asked["kind"] == "run" and not evidence.deleted(asked["thread"])
        busy = status == 409 and asked["kind"] == "run" and asked["strategy"] != "reject"
        if status not in REFUSALS.get(asked["kind"], ()) or gone or busy:
            yield f"{op} ({asked['kind']}): {status} {line.get('error', '')[:200]}"
