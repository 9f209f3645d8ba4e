"""The report of an evaluation: as JSON, as text, and beside an earlier one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.evaluation.dataset import DataSet
from tests.evaluation.play import Played, Result

TOLERANCE = 1.25
"""How much more than in the baseline a conversation may take."""
_MEASURES = ("supersteps", "tokens")


@dataclass(frozen=True, slots=True)
class Subject:
    """What was evaluated."""

    server: str
    mode: str
    models: Sequence[str]


def report(data: DataSet, subject: Subject, results: Sequence[Result]) -> dict[str, Any]:
    """The report as JSON."""
    outcomes = [result.outcome for result in results]
    return {
        "version": data.version,
        "assistant": data.assistant,
        "server": subject.server,
        "mode": subject.mode,
        "models": sorted(subject.models),
        "git": git_describe(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "passed": bool(outcomes) and set(outcomes) == {"passed"},
        "counts": {name: outcomes.count(name) for name in ("passed", "failed", "error")},
        "conversations": [_conversation(result) for result in results],
    }


def git_describe() -> str | None:
    """Which commit this is; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.strip()


def _conversation(result: Result) -> dict[str, Any]:
    seen = [played.seen for played in result.turns]
    prices = [each.usd for each in seen if each.usd is not None]
    return {
        "name": result.name,
        "round": result.round,
        "outcome": result.outcome,
        "error": result.error,
        "thread": result.thread,
        "seconds": round(sum(each.seconds for each in seen), 3),
        "supersteps": sum(each.supersteps for each in seen),
        "tokens": sum(each.tokens for each in seen),
        "usd": sum(prices) if len(prices) == len(seen) else None,
        "turns": [_turn(played) for played in result.turns],
    }


def _turn(played: Played) -> dict[str, Any]:
    return {
        "sent": played.turn.brief,
        "answer": played.seen.answer[:2_000],
        "checks": [
            {
                "check": verdict.check.kind,
                "wanted": verdict.check.wanted,
                "outcome": verdict.outcome,
                "problem": verdict.problem,
            }
            for verdict in played.verdicts
        ],
    }


def as_text(document: dict[str, Any]) -> Iterator[str]:
    """The report line by line, what went wrong under each conversation."""
    models = ", ".join(document["models"]) or "an unknown model"
    yield f"data set {document['version']}, {models} ({document['mode']}), {document['server']}, {document['git']}"
    for each in document["conversations"]:
        price = "" if each["usd"] is None else f"{each['usd']:10.5f} USD"
        figures = f"{each['seconds']:7.2f} s {each['supersteps']:4} supersteps {each['tokens']:7} tokens{price}"
        yield f"{each['outcome']:7} {each['name']:66} {figures}"
        yield from _problems(each)
    counts = document["counts"]
    yield f"{counts['passed']} passed, {counts['failed']} failed, {counts['error']} could not be played to their end"


def _problems(conversation: dict[str, Any]) -> Iterator[str]:
    for number, turn in enumerate(conversation["turns"], 1):
        for check in turn["checks"]:
            if check["outcome"] == "failed":
                wanted = f"{check['check']} {check['wanted']!r}"
                yield f"        turn {number}, {turn['sent']}: wanted {wanted:.200}: {check['problem']}"
                yield f"                answer: {turn['answer']!r:.200}"
    if conversation["error"]:
        yield f"        turn {len(conversation['turns']) + 1}: {conversation['error']}"
    if conversation["outcome"] != "passed":
        yield f"        thread {conversation['thread']} is kept"


def regressions(now: dict[str, Any], earlier: dict[str, Any], *, partial: bool = False) -> list[str]:
    """What was better in an `earlier` report. `partial`: conversations may be missing now."""
    found = []
    like_then = all(now[key] == earlier[key] for key in ("version", "mode", "models"))
    for name, before in _by_name(earlier).items():
        after = _by_name(now).get(name)
        if after is None:
            if not partial and like_then:
                found.append(f"{name} is not there any more")
        elif _passed(before) and not _passed(after):
            found.append(f"{name} passed before")
        elif like_then:
            found += _growth(name, before, after)
    return found


def _growth(name: str, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> Iterator[str]:
    for measure in _MEASURES:
        then, now = (max(each[measure] for each in rounds) for rounds in (before, after))
        if now > then * TOLERANCE:
            yield f"{name} takes {now} {measure} instead of {then}"


def _by_name(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    names: dict[str, list[dict[str, Any]]] = {}
    for each in document["conversations"]:
        names.setdefault(each["name"], []).append(each)
    return names


def _passed(rounds: Sequence[dict[str, Any]]) -> bool:
    return all(each["outcome"] == "passed" for each in rounds)
