"""What became of runs and inputs: nothing that was acknowledged is lost, nothing is stuck, every end has a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.durability.chaos.evidence import Evidence, Line, ThreadView

ACTIVE = frozenset({"pending", "running"})


def lost_runs(evidence: Evidence) -> Iterator[str]:
    """Acknowledged runs that are not there, although nobody deleted the thread or rolled anything back."""
    for run, asked in evidence.acknowledged.items():
        thread = asked["thread"]
        if evidence.deleted(thread) or evidence.rolled_back(thread):
            continue
        if run not in _statuses(evidence.threads[thread]):
            yield f"run {run} of thread {thread} ({asked['mark']})"


def lost_threads(evidence: Evidence) -> Iterator[str]:
    for thread, view in evidence.threads.items():
        if view.row is None and not evidence.deleted(thread):
            yield thread


def stuck(evidence: Evidence) -> Iterator[str]:
    """Runs that have not ended, and threads that are busy, when everything is healed and had its time."""
    for thread, view in evidence.threads.items():
        for run, status in _statuses(view).items():
            if status in ACTIVE:
                yield f"run {run} of thread {thread} is {status}"
        if view.row is not None and view.row["status"] == "busy":
            yield f"thread {thread} is busy"


def wrong_ends(evidence: Evidence) -> Iterator[str]:
    """Runs that ended as nothing in the schedule makes them end."""
    for thread, view in evidence.threads.items():
        for run, status in _statuses(view).items():
            error = (view.results.get(run) or {}).get("__error__") or {}
            if status == "timeout" or (status == "error" and not _may_fail(evidence, thread, run, error)):
                yield f"run {run} of thread {thread} ended as {status}: {error}"
            if status == "interrupted" and not evidence.cancels(thread):
                yield f"run {run} of thread {thread} was interrupted by nobody"


def _may_fail(evidence: Evidence, thread: str, run: str, error: Line) -> bool:
    if error.get("error") == "ValueError" and error.get("message") == "planned":
        return any(each.kind == "fail" and each.run == run for each in evidence.executions)
    asked = evidence.acknowledged.get(run)
    return error.get("error") == "LateAnswer" and (asked is None or asked["kind"] == "answer")


def cancelled_otherwise(evidence: Evidence) -> Iterator[str]:
    """Runs whose cancellation was acknowledged and that ended as something that it does not lead to.

    A run that was just ending may win against its cancellation; it has then ended by itself.
    """
    for line in evidence.of_kind("cancel"):
        answer = evidence.answered.get(line["op"])
        if answer is None or answer["status"] not in (200, 202) or evidence.deleted(line["thread"]):
            continue
        status = _statuses(evidence.threads[line["thread"]]).get(line["run"], "gone")
        rolled_back = evidence.rolled_back(line["thread"])
        fits = {"success", "error", *(("gone",) if rolled_back else ())}
        fits |= {"interrupted"} if line["action"] == "interrupt" or _interrupted_too(evidence, line) else set()
        if status not in fits:
            yield f"run {line['run']} of thread {line['thread']}: {line['action']} led to {status}"


def _interrupted_too(evidence: Evidence, line: Line) -> bool:
    thread = line["thread"]
    cancels = any(each["run"] == line["run"] and each is not line for each in evidence.of_kind("cancel", thread=thread))
    return cancels or any(each["strategy"] == "interrupt" for each in evidence.of_kind("run", thread=thread))


def lost_inputs(evidence: Evidence) -> Iterator[str]:
    """Inputs, state updates and answers that were taken and are not in the state; after a fork, in no state."""
    for thread, view in evidence.threads.items():
        if view.row is None:
            continue
        shown = _shown(view, everywhere=evidence.forked(thread))
        statuses = _statuses(view)
        for run, asked in evidence.acknowledged.items():
            taken = asked["thread"] == thread and asked["kind"] == "run" and statuses.get(run) == "success"
            if taken and asked["mark"] not in shown:
                yield f"{asked['mark']} of thread {thread}: run {run} succeeded without its input"
        for line in evidence.of_kind("update", thread=thread):
            answer = evidence.answered.get(line["op"])
            if answer is not None and answer["status"] == 200 and line["mark"] not in shown:
                yield f"{line['mark']} of thread {thread}: the state update is not there"


def doubled_inputs(evidence: Evidence) -> Iterator[str]:
    """Inputs that a state has twice."""
    for thread, view in evidence.threads.items():
        states = [view.state, *view.history]
        doubled = {
            mark
            for state in states
            for mark, number in Counter((state.get("values") or {}).get("inputs", [])).items()
            if number > 1
        }
        yield from (f"{mark} of thread {thread}" for mark in sorted(doubled))


def repeats_that_ran(evidence: Evidence) -> Iterator[str]:
    """Requests with one idempotency key that were acknowledged as several runs."""
    runs: dict[tuple[str, str], set[str]] = {}
    for run, asked in evidence.acknowledged.items():
        if asked.get("keyed"):
            runs.setdefault((asked["thread"], asked["mark"]), set()).add(run)
    for (thread, mark), made in runs.items():
        if len(made) > 1:
            yield f"{mark} of thread {thread}: {sorted(made)}"


def _shown(view: ThreadView, *, everywhere: bool) -> set[str]:
    states = [view.state, *(view.history if everywhere else ())]
    return {mark for state in states for mark in (state.get("values") or {}).get("inputs", [])}


def _statuses(view: ThreadView) -> dict[str, str]:
    return {run["run_id"]: run["status"] for run in view.runs}
