"""What operators are told of, and when.

    state      seen                          not seen for QUIET_SECONDS
    (none)     -> pending                    -
    pending    for its hold -> firing, told  -> gone, nobody was told
    firing     every so often, told again    -> gone, told that it is over

That is of what lasts. What happened once fires at once and has no end; while it is remembered, it is told again only if
it happened again. Whoever sees something writes it down (`Sighting`); one process at a time takes the steps
(`db/alerts.py`), and what begins, goes on or ends together is told together, in one `Notice` per kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

Severity = Literal["warning", "critical"]
State = Literal["firing", "reminder", "resolved"]
Move = Literal["fire", "remind", "resolve", "forget"]

QUIET_SECONDS = 60.0
"""What nobody has seen for so long is over; several rounds, so that one that is missed says nothing."""

MOST_ITEMS = 5
"""How many of those that belong to one notice are named."""

ABANDONED_DAYS = 7
"""A question that has been asked for longer than this is taken for abandoned and wakes nobody."""

FAILING_ATTEMPTS = 4
"""A delivery that was tried so often in vain: its receiver has been away for half a minute or more."""

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LONGEST = {"subject": 200, "title": 200, "text": 1000}


@dataclass(frozen=True, slots=True)
class Kind:
    """An alert that the server raises by itself from what the database says.

    `text` is filled in with `count`, `age` (of the oldest, in words) and `some` (names of the first few).
    """

    title: str
    text: str
    severity: Severity
    hold_seconds: float = 0.0


KINDS: Mapping[str, Kind] = {
    "stuck_run": Kind(
        "Runs make no progress", "{count} running, nothing new from the oldest for {age}: {some}", "critical"
    ),
    "queue_wait": Kind(
        "Runs wait for a free slot", "{count} are due and not started, the oldest for {age}: {some}", "warning"
    ),
    "approval_wait": Kind(
        "Questions wait for an answer", "{count}, the oldest for {age}, on threads {some}", "warning"
    ),
    "webhook_failing": Kind(
        "Webhooks do not get through", "{count} deliveries, the first for {age}, to {some}", "warning"
    ),
    "no_worker": Kind("No worker is alive", "Runs are accepted, and nobody executes them.", "critical", 30.0),
}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """`limits`: from when on, in seconds, by kind; None is never. What goes on is told again every `repeat_seconds`."""

    limits: Mapping[str, float | None] = field(default_factory=dict)
    repeat_seconds: float = 14_400.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What the database says of one kind: how many, since how many seconds the oldest, and the first few."""

    count: int
    seconds: float = 0.0
    some: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Sighting:
    """Something is wrong right now (`once`: something happened)."""

    kind: str
    subject: str
    title: str
    text: str
    severity: Severity = "warning"
    once: bool = False
    hold_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Alert:
    """What is remembered of sightings."""

    sighting: Sighting
    state: Literal["pending", "firing"]
    times: int
    since: datetime
    seen_at: datetime
    told_at: datetime | None


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told, as JSON has it; times are ISO 8601."""

    kind: str
    state: State
    severity: Severity
    title: str
    count: int
    since: str
    at: str
    items: list[dict[str, Any]] = field(default_factory=list)
    """`subject`, `text` and `times` of the first few."""


@dataclass(frozen=True, slots=True)
class MetricRule:
    """Fires while a sample of the process's metrics is above a value; `labels` have to be among the sample's."""

    name: str
    metric: str
    above: float
    labels: Mapping[str, str] = field(default_factory=dict)
    for_seconds: float = 0.0
    severity: Severity = "warning"


BREAKER_OPEN = MetricRule("breaker_open", "agent_breaker_state", 1.5, severity="critical")
"""The reference agent's circuit breakers: 0 closed, 1 half open, 2 open. Silent where there is no such metric."""

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels, value."""


def sightings(findings: Mapping[str, Finding]) -> list[Sighting]:
    """What the database's findings amount to."""
    return [_sighting(name, KINDS[name], found) for name, found in findings.items() if found.count]


def _sighting(name: str, kind: Kind, found: Finding) -> Sighting:
    named = ", ".join(found.some[:MOST_ITEMS]) + (", ..." if found.count > MOST_ITEMS else "")
    text = kind.text.format(count=found.count, age=in_words(found.seconds), some=named)
    return Sighting(name, "", kind.title, text, kind.severity, hold_seconds=kind.hold_seconds)


def above(rules: Iterable[MetricRule], samples: Sequence[Sample]) -> list[Sighting]:
    """What the samples amount to under these rules."""
    return [
        Sighting(
            rule.name,
            _fitting("subject", ",".join(f"{key}={text}" for key, text in sorted(labels.items()))),
            rule.name.replace("_", " "),
            f"{name} is {value:g}, above {rule.above:g}",
            rule.severity,
            hold_seconds=rule.for_seconds,
        )
        for rule in rules
        for name, labels, value in samples
        if name == rule.metric and rule.labels.items() <= labels.items() and value > rule.above
    ]


def raised(given: object, message: str, severity: Severity) -> Sighting | None:
    """The alert of a log record, `extra={"alert": {"kind": ..., "subject": ...}}`; None if it is none.

    Args:
        given: what stands under `alert`; `kind` is a word in lower case, the rest may be left out.
        message: the record's, which is the text.
        severity: by the record's level, where the alert names none.
    """
    if not isinstance(given, Mapping) or not isinstance(kind := given.get("kind"), str) or not _KIND.fullmatch(kind):
        return None
    own, subject, title = given.get("severity"), given.get("subject"), given.get("title")
    return Sighting(
        kind,
        _fitting("subject", subject if isinstance(subject, str) else ""),
        _fitting("title", title if isinstance(title, str) else kind.replace("_", " ")),
        _fitting("text", message),
        own if own in ("warning", "critical") else severity,
        once=True,
    )


def _fitting(field: str, text: str) -> str:
    # Text from elsewhere may hold what UTF-8 or Postgres has no place for.
    return text[: _LONGEST[field]].replace("\0", "\ufffd").encode(errors="replace").decode()


def move(alert: Alert, now: datetime, repeat_seconds: float) -> Move | None:
    """What follows for an alert: one row of the table above."""
    once, repeat = alert.sighting.once, timedelta(seconds=repeat_seconds)
    if alert.told_at is None:
        if not once and now - alert.seen_at >= timedelta(seconds=QUIET_SECONDS):
            return "forget"
        held = alert.seen_at - alert.since >= timedelta(seconds=alert.sighting.hold_seconds)
        return "fire" if held else None
    if not once and now - alert.seen_at >= timedelta(seconds=QUIET_SECONDS):
        return "resolve"
    if now - alert.told_at < repeat:
        return None
    return "remind" if not once or alert.seen_at > alert.told_at else "forget"


def look_at(alert: Alert, now: datetime, repeat_seconds: float) -> datetime:
    """When something can follow next: of what happened once not before it may be told again."""
    return now + timedelta(seconds=repeat_seconds) if alert.sighting.once else now


_TOLD: Mapping[Move, State] = {"fire": "firing", "remind": "reminder", "resolve": "resolved"}


def notices(moved: Sequence[tuple[Alert, Move]], now: datetime) -> list[Notice]:
    """What is to be told of these moves, together what belongs together; the gravest severity counts."""
    told: dict[tuple[str, State], Notice] = {}
    for alert, made in moved:
        if (state := _TOLD.get(made)) is None:
            continue
        seen, since = alert.sighting, alert.since.isoformat()
        item = {"subject": seen.subject, "text": seen.text, "times": alert.times}
        before = told.get((seen.kind, state))
        if before is None:
            told[seen.kind, state] = Notice(
                seen.kind, state, seen.severity, seen.title, 1, since, now.isoformat(), [item]
            )
            continue
        told[seen.kind, state] = replace(
            before,
            count=before.count + 1,
            since=min(before.since, since),
            severity="critical" if "critical" in (before.severity, seen.severity) else "warning",
            items=[*before.items, item][:MOST_ITEMS],
        )
    return list(told.values())


def as_json(notice: Notice) -> dict[str, Any]:
    return asdict(notice)


def by_known_kind(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by the server's own kinds, none left out, and `other`: labels of metrics have to be few."""
    known = {kind: counts.get(kind, 0) for kind in (*KINDS, BREAKER_OPEN.name)}
    return {**known, "other": sum(counts.values()) - sum(known.values())}


def in_words(seconds: float) -> str:
    """A duration for people: "40 s", "12 min", "3 h", "5 days"."""
    for size, word in ((172_800.0, "days"), (7_200.0, "h"), (120.0, "min")):
        if seconds >= size:
            unit = {"days": 86_400, "h": 3_600, "min": 60}[word]
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds:.0f} s"
