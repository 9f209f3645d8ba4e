"""What a schedule is: everything that will be tried, as plain values, before anything starts.

Theory of operation. An episode is a fresh database, a shape of processes around it, some threads with what clients do
to them and when, and faults with their times. `drawing.py` makes it of a seed alone. What comes of it is another
matter:
clients, servers and faults run at once, and a run that is to be cancelled may have ended. So a client's action names
the thread, and when its time has come it means the runs and questions that the thread has by then. The same seed gives
the same schedule, and not the same story.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

StepKind = Literal["slow", "effect", "once", "ask", "flaky", "fail", "block"]
ActionKind = Literal["run", "join", "watch", "cancel", "update", "fork", "delete", "stale"]
FaultKind = Literal["kill", "freeze", "leave", "restart", "terminate", "stall", "cut", "delay", "exhaust"]
How = Literal["background", "stream", "wait"]
Strategy = Literal["enqueue", "reject", "interrupt", "rollback"]
AnswerStyle = Literal["bare", "map", "double", "race", "again"]
Link = Literal["direct", "proxy", "pgbouncer"]

HOLDER = -1
"""As the target of a fault: whichever process executes something at that moment."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Processes around one database."""

    name: str
    parts: tuple[str, ...]
    """serve, api or worker; those with an API are the clients' doors, in this order."""
    link: Link = "proxy"
    """How the processes reach the database."""
    settings: tuple[tuple[str, str], ...] = ()
    skewed: int | None = None
    """The process whose wall clock is an hour fast."""

    @property
    def doors(self) -> int:
        return sum(part != "worker" for part in self.parts)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan: so many tasks at once, each of which takes so long."""

    kind: StepKind
    seconds: float
    width: int = 1
    times: int = 1
    """How often a flaky step fails before it does not."""


@dataclass(frozen=True, slots=True)
class Action:
    """What one client does on one thread, `at` seconds after the beginning."""

    at: float
    thread: int
    kind: ActionKind
    door: int
    mark: str
    """Names the action, and its input or state update in the thread's state."""
    plan: tuple[Step, ...] = ()
    how: How = "background"
    strategy: Strategy = "enqueue"
    keyed: bool = False
    """It has an idempotency key, and is sent again until it is acknowledged."""
    rollback: bool = False
    waits: bool = False
    from_start: bool = True
    """A join replays the run from its first frame; otherwise it is live only."""
    attached: bool = False
    """The run is to be cancelled when its client goes away."""
    vanishes: float = 0.0
    """The client goes away after so many seconds; 0 is never."""
    slow: bool = False
    """The client reads a byte a second for a while."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong `at` seconds after the beginning, and for how long."""

    at: float
    kind: FaultKind
    seconds: float
    target: int = 0
    """The process, or HOLDER; nothing for faults of the database."""
    way: Literal["there", "back", "both"] = "both"


@dataclass(frozen=True, slots=True)
class Episode:
    """One fresh database and what happens around it."""

    number: int
    shape: Shape
    threads: tuple[str, ...]
    """Their ids."""
    answering: tuple[tuple[AnswerStyle, ...], ...]
    """How the questions of each thread are answered, one after the other and round again."""
    actions: tuple[Action, ...]
    faults: tuple[Fault, ...]
    seconds: float
    """Until everything is healed."""
    planted: str = ""
    """Faults of `planted.py` that the processes have."""
    settles_within: float = 60.0
    """Seconds that runs have to come to their end once everything is healed, on a machine with other work."""


def text(episodes: Sequence[Episode]) -> str:
    """The schedule as lines, and the hash of them: the same for the same seed, on every machine."""
    lines = [line for episode in episodes for line in _lines(episode)]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return "\n".join([*lines, f"schedule {digest}"])


def _lines(episode: Episode) -> list[str]:
    shape = episode.shape
    settings = " ".join(f"{name}={value}" for name, value in shape.settings)
    skewed = "" if shape.skewed is None else f", the clock of process {shape.skewed} an hour fast"
    head = f"episode {episode.number}: {shape.name}, {shape.link}, {episode.seconds:g} s{skewed} {settings}".rstrip()
    threads = [
        f"  thread {number} {thread} answers {' '.join(styles)}"
        for number, (thread, styles) in enumerate(zip(episode.threads, episode.answering, strict=True))
    ]
    timed = sorted([*episode.actions, *episode.faults], key=lambda each: (each.at, isinstance(each, Fault)))
    return [head, *threads, *(f"  {_line(each)}" for each in timed)]


def _line(each: Action | Fault) -> str:
    """The kind, and every field that is not as usual."""
    said = [f"{each.at:6.2f}", "fault" if isinstance(each, Fault) else f"thread {each.thread}", each.kind]
    for field in fields(each):
        value = getattr(each, field.name)
        if field.name not in ("at", "thread", "kind") and value != field.default:
            said.append(f"{field.name}={_short(value)}")
    return " ".join(said)


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(_short(each) for each in value)
    if isinstance(value, Step):
        return f"{value.kind}({value.seconds:g}s x{value.width})"
    return f"{value:g}" if isinstance(value, float) else str(value)
