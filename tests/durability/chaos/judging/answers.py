"""Answers: each meets the question that it was given for, once, and no tool that asks runs without one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tests.durability.chaos.evidence import Evidence, Execution, Line


def without_answer(evidence: Evidence) -> Iterator[str]:
    """Tools that ran with something that no client ever sent."""
    sent = {line["answer"] for line in evidence.asked.values() if line["kind"] == "answer"}
    for each in _tools(evidence):
        if _id(each) not in sent:
            yield f"{each.key}: {each.id} ran with {each.answer!r}"


def misapplied(evidence: Evidence) -> Iterator[str]:
    """Answers that met another question than the one they name; a bare one, a question asked after it had come."""
    sent = {line["answer"]: line for line in evidence.asked.values() if line["kind"] == "answer"}
    asked_first = _first_asked(evidence)
    for each in _tools(evidence):
        answer = sent.get(_id(each))
        if answer is None or answer["interrupt"] == each.interrupt:
            continue
        reply = evidence.answered.get(answer["op"])
        came = reply["at"] if reply is not None else float("inf")
        if not answer["bare"] or asked_first.get(each.interrupt, 0.0) > came:
            yield f"{each.key}: {each.interrupt} got the answer to {answer['interrupt']}"


def applied_twice(evidence: Evidence) -> Iterator[str]:
    """Questions with two answers, and answers to two questions; an answer whose run was stopped does not count."""
    stopped = _stopped_runs(evidence)
    by_question: dict[str | None, set[str]] = defaultdict(set)
    by_answer: dict[str, set[str | None]] = defaultdict(set)
    for each in _tools(evidence):
        if each.run not in stopped:
            by_question[each.interrupt].add(_id(each))
        by_answer[_id(each)].add(each.interrupt)
    yield from (f"question {asked}: {sorted(given)}" for asked, given in by_question.items() if len(given) > 1)
    yield from (f"answer {given}: {sorted(map(str, asked))}" for given, asked in by_answer.items() if len(asked) > 1)


def accepted_twice(evidence: Evidence) -> Iterator[str]:
    """Questions to which several answers were accepted, although the run of the first was not stopped."""
    stopped = _stopped_runs(evidence)
    accepted: dict[str, list[str]] = defaultdict(list)
    for run, line in evidence.acknowledged.items():
        kept = not evidence.forked(line["thread"]) and not evidence.rolled_back(line["thread"])
        if line["kind"] == "answer" and not line["bare"] and run not in stopped and kept:
            accepted[line["interrupt"]].append(run)
    yield from (f"question {asked}: runs {runs}" for asked, runs in accepted.items() if len(runs) > 1)


def lost_answers(evidence: Evidence) -> Iterator[str]:
    """Answers that were accepted, whose run succeeded, and that no tool ever ran with."""
    used = {_id(each) for each in _tools(evidence) if each.finished is not None}
    statuses = {run["run_id"]: run["status"] for view in evidence.threads.values() for run in view.runs}
    for run, line in evidence.acknowledged.items():
        if line["kind"] == "answer" and statuses.get(run) == "success" and line["answer"] not in used:
            yield f"answer {line['answer']} to {line['interrupt']}: run {run} did nothing with it"


def _tools(evidence: Evidence) -> Sequence[Execution]:
    return [each for each in evidence.executions if each.kind == "ask"]


def _id(each: Execution) -> str:
    return str(each.answer.get("id")) if isinstance(each.answer, dict) else repr(each.answer)


def _first_asked(evidence: Evidence) -> dict[str | None, float]:
    first: dict[str | None, float] = {}
    for line in evidence.effects:
        if line["event"] == "asked":
            first.setdefault(line["interrupt"], line["at"])
    return first


def _stopped_runs(evidence: Evidence) -> set[str]:
    """Runs that did not come to their own end: cancelled, failed, rolled back."""
    ended: set[str] = {
        run["run_id"] for view in evidence.threads.values() for run in view.runs if run["status"] == "success"
    }
    failed_late = {run for run in evidence.acknowledged if _late(evidence, run)}
    mentioned = {*evidence.acknowledged, *(each.run for each in evidence.executions)}
    return mentioned - ended - failed_late


def _late(evidence: Evidence, run: str) -> bool:
    line: Line = evidence.acknowledged[run]
    result = evidence.threads[line["thread"]].results.get(run) or {}
    return (result.get("__error__") or {}).get("error") == "LateAnswer"
