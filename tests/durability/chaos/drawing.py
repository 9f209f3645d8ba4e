"""Drawing a schedule: from a seed to values, and nothing else comes in.

Every episode has a chance of its own, made of the seed and its number, so that one of them can be played alone. Shapes
come in turn, so that every length of play has as many of them as it can.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from tests.durability.chaos.schedule import (
    HOLDER,
    Action,
    ActionKind,
    AnswerStyle,
    Episode,
    Fault,
    FaultKind,
    How,
    Shape,
    Step,
    StepKind,
    Strategy,
)

SHORT_LEASE = ("HOLDFAST_LEASE_SECONDS", "2")
SHAPES = (
    Shape("one server", ("serve",), settings=(SHORT_LEASE,)),
    Shape("an API and two workers", ("api", "worker", "worker"), settings=(SHORT_LEASE,)),
    Shape("two servers", ("serve", "serve"), settings=(SHORT_LEASE,)),
    Shape("two servers, one with a fast clock", ("serve", "serve"), settings=(SHORT_LEASE,), skewed=1),
    Shape("two servers with tiny pools", ("serve", "serve"), settings=(SHORT_LEASE, ("HOLDFAST_POOL_SIZE", "5"))),
    Shape(
        "two servers behind PgBouncer",
        ("serve", "serve"),
        "pgbouncer",
        (SHORT_LEASE, ("HOLDFAST_POOLER", "transaction")),
    ),
)

EPISODE_SECONDS = 14.0
LAST_ACTION = 11.0
NOMINAL_SECONDS = 30.0
"""What an episode takes with its start, its end and its judgement, for planning."""

STEPS: dict[StepKind, int] = {"slow": 3, "effect": 5, "once": 4, "ask": 4, "flaky": 2, "fail": 1, "block": 1}
ACTIONS: dict[ActionKind, int] = {
    "run": 8,
    "join": 4,
    "watch": 1,
    "cancel": 3,
    "update": 2,
    "fork": 1,
    "stale": 2,
    "delete": 1,
}
HOWS: tuple[How, ...] = ("background", "stream", "stream", "stream", "wait")
STRATEGIES: dict[Strategy, int] = {"enqueue": 6, "reject": 1, "interrupt": 2, "rollback": 2}
STYLES: tuple[AnswerStyle, ...] = ("bare", "map", "double", "race", "again")
FAULTS: dict[FaultKind, int] = {
    "kill": 5,
    "freeze": 3,
    "leave": 2,
    "restart": 2,
    "terminate": 2,
    "stall": 2,
    "cut": 2,
    "delay": 1,
    "exhaust": 1,
}
OF_PROCESSES = frozenset({"kill", "freeze", "leave"})
LONGEST: dict[FaultKind, float] = {
    "kill": 1.5,
    "freeze": 4.5,
    "leave": 1.0,
    "restart": 4.0,
    "terminate": 4.0,
    "stall": 4.0,
    "cut": 2.0,
    "delay": 3.0,
    "exhaust": 3.0,
}


def drawn(seed: int, episodes: int, *, shapes: Sequence[Shape] = SHAPES, planted: str = "") -> list[Episode]:
    """The schedule of a seed."""
    schedule = [episode(seed, number, shapes[number % len(shapes)]) for number in range(episodes)]
    return [replace(each, planted=planted) for each in schedule]


def episode(seed: int, number: int, shape: Shape) -> Episode:
    """One episode; what it is depends on nothing but these."""
    chance = random.Random(f"{seed}/{number}")
    threads = tuple(str(UUID(int=chance.getrandbits(128), version=4)) for _ in range(chance.randint(3, 6)))
    answering = tuple(tuple(chance.choices(STYLES, k=3)) for _ in threads)
    actions = sorted(
        (action for thread in range(len(threads)) for action in _actions(chance, thread, shape)),
        key=lambda action: (action.at, action.thread),
    )
    faults = _faults(chance, shape)
    return Episode(number, shape, threads, answering, tuple(actions), faults, EPISODE_SECONDS)


def _actions(chance: random.Random, thread: int, shape: Shape) -> list[Action]:
    """What happens on one thread: first a run, then whatever comes; a thread that is deleted is deleted late."""
    first = _run(chance, thread, shape, f"t{thread}-0", round(chance.uniform(0.0, 1.5), 2))
    actions = [first]
    for number in range(1, chance.randint(3, 8)):
        kind = chance.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        actions.append(_action(chance, thread, shape, f"t{thread}-{number}", kind))
    return actions


def _action(chance: random.Random, thread: int, shape: Shape, mark: str, kind: ActionKind) -> Action:
    at = round(chance.uniform(1.0, LAST_ACTION), 2)
    if kind == "run":
        return _run(chance, thread, shape, mark, at)
    return Action(
        at if kind != "delete" else round(chance.uniform(LAST_ACTION, LAST_ACTION + 1), 2),
        thread,
        kind,
        chance.randrange(shape.doors),
        mark,
        plan=_plan(chance) if kind == "fork" else (),
        rollback=kind == "cancel" and chance.random() < 0.4,
        waits=kind == "cancel" and chance.random() < 0.5,
        from_start=kind != "join" or chance.random() < 0.7,
        vanishes=_vanishes(chance) if kind == "join" else 0.0,
        slow=kind == "join" and chance.random() < 0.15,
    )


def _run(chance: random.Random, thread: int, shape: Shape, mark: str, at: float) -> Action:
    how = chance.choice(HOWS)
    return Action(
        at,
        thread,
        "run",
        chance.randrange(shape.doors),
        mark,
        plan=_plan(chance),
        how=how,
        strategy=chance.choices(list(STRATEGIES), list(STRATEGIES.values()))[0],
        keyed=chance.random() < 0.5,
        attached=how != "background" and chance.random() < 0.2,
        vanishes=_vanishes(chance) if how != "background" else 0.0,
    )


def _vanishes(chance: random.Random) -> float:
    return round(chance.uniform(0.3, 2.0), 2) if chance.random() < 0.2 else 0.0


def _plan(chance: random.Random) -> tuple[Step, ...]:
    kinds = chance.choices(list(STEPS), list(STEPS.values()), k=chance.randint(1, 5))
    return tuple(_step(chance, kind) for kind in kinds)


def _step(chance: random.Random, kind: StepKind) -> Step:
    wide = {"effect": (1, 1, 3), "once": (1, 1, 2), "ask": (1, 1, 1, 2)}.get(kind, (1,))
    longest = 1.2 if kind == "slow" else 0.5
    return Step(kind, round(chance.uniform(0.05, longest), 2), chance.choice(wide), chance.randint(1, 2))


def _faults(chance: random.Random, shape: Shape) -> tuple[Fault, ...]:
    faults = []
    at = chance.uniform(0.5, 3.0)
    while at < LAST_ACTION:
        kind = chance.choices(list(FAULTS), list(FAULTS.values()))[0]
        one = HOLDER if chance.random() < 0.5 else chance.randrange(len(shape.parts))
        target = one if kind in OF_PROCESSES else 0
        way = chance.choice(("there", "back", "both")) if kind == "stall" else "both"
        seconds = round(chance.uniform(0.2, LONGEST[kind]), 2)
        faults.append(Fault(round(at, 2), kind, seconds, target, way))
        at += chance.uniform(1.0, 4.0)
    return tuple(faults)
