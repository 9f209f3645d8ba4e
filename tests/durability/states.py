"""R14: whatever JSON a client sends, it comes back exactly, or is refused at the border; no run fails because of it.

A round sends one random state on one of four ways into a thread and reads it on every way out. What no JSON number,
Unicode text or 64-bit integer can be has to be 422 and leave nothing behind; everything else has to be taken.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle
from typing import Any

import httpx

from tests.durability.client import Client
from tests.durability.goals import Control, Goal, Trial
from tests.durability.tally import Tally
from tests.durability.walk import PROJECT
from tests.support.postgres import Cluster

WAYS = ("wait", "stream", "update", "resume")
AT_ONCE = 8
DEEPEST = 180
"""Levels that are taken for certain; from 200 on, the envelope counted, a body is refused."""
LONGEST = 300_000

RAN = {"success", "interrupted"}
"""Some servers call a run interrupted that asked something."""

FAILED, WRONG, REFUSED, TAKEN = "failed runs", "values not exact", "refused without reason", "taken but not sayable"
LEFT = "left behind by a refusal"


def play(trial: Trial) -> Tally:
    """`trial.rounds` random states."""
    tally = Tally("states", FAILED, WRONG, REFUSED, TAKEN, LEFT)
    states = [random_state(trial.chance) for _ in range(trial.rounds)]
    log = str(trial.directory / "effects")
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster.embedded(trial.directory / "postgres"))
        url = stack.enter_context(cluster.database())
        server = stack.enter_context(trial.server(config=PROJECT, database_url=url, EFFECT_LOG=log))
        client = stack.enter_context(Client(server.url))
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        for judged in pool.map(lambda pair: _judged(client, *pair), zip(cycle(WAYS), states, strict=False)):
            for name, found in judged.items():
                tally.fault(name, found) if name in (FAILED, WRONG, REFUSED, TAKEN, LEFT) else tally.count(name)
    return tally


def _judged(client: Client, way: str, state: Any) -> dict[str, list[str]]:
    """What is to be counted (an empty list) and what was not as it has to be, by name."""
    said = f"{way} of {ascii(state)[:200]}"
    try:
        return _tried(client, way, state, said)
    except httpx.HTTPError as error:
        return {f"{way} broken off": [], FAILED: [f"{said}: {error}"]}


def _tried(client: Client, way: str, state: Any, said: str) -> dict[str, list[str]]:
    thread = client.thread()
    if way in ("update", "resume"):
        client.http.post(f"/threads/{thread}/runs/wait", json=_run({"ask": way == "resume"})).raise_for_status()
    problem = unsayable(state)
    before = _standing(client, thread) if problem else None
    answer = _sent(client.http, way, thread, state)
    if answer.status_code == 422:
        left = [said] if problem and _standing(client, thread) != before else []
        return {f"{way} refused": [], LEFT: left, REFUSED: [] if problem else [said]}
    statuses = client.statuses(thread).values()
    if answer.status_code != 200 or not {*statuses} <= RAN:
        return {f"{way} failed": [], FAILED: [f"{said}: {answer.status_code} {list(statuses)}"]}
    return {
        f"{way} taken": [],
        TAKEN: [f"{said}: {problem}"] if problem else [],
        WRONG: [
            f"{said}: {where} says {ascii(it)[:200]}"
            for where, it in _shown(client, way, thread, answer)
            if not same(it, state)
        ],
    }


def _run(given: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    return {"assistant_id": "keep", "input": given, **more}


def _sent(http: httpx.Client, way: str, thread: str, state: Any) -> httpx.Response:
    path, body = {
        "wait": ("runs/wait", _run({"said": state})),
        "stream": ("runs/stream", _run({"said": state}, stream_mode="values", stream_resumable=True)),
        "update": ("state", {"values": {"said": state}, "as_node": "keep"}),
        "resume": ("runs/wait", _run(None, command={"resume": {"said": state}})),
    }[way]
    # As Python's own clients write JSON: NaN and lone surrogates are no reason for them to refuse.
    kind = {"content-type": "application/json"}
    return http.post(f"/threads/{thread}/{path}", content=json.dumps(body), headers=kind)


def _shown(client: Client, way: str, thread: str, answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Every place that shows the state, and what it shows."""
    path = f"/threads/{thread}"
    shown = {
        "thread": lambda: client.values(thread),
        "state": lambda: client.state(thread)["values"],
        "history": lambda: _read(client, f"{path}/history?limit=1").json()[0]["values"],
    }
    if way in ("wait", "resume"):
        shown["answer"] = answer.json
    if way == "stream":
        shown["stream"] = lambda: _last_values(answer)
    if way != "update":
        newest = f"{path}/runs/{next(iter(client.statuses(thread)))}"
        shown["join"] = lambda: _read(client, f"{newest}/join").json()
    if way == "stream":
        from_the_start = {"last-event-id": "-1"}
        shown["replay"] = lambda: _last_values(_read(client, f"{newest}/stream", headers=from_the_start))
    for where, show in shown.items():
        try:
            found = show() or {}
        except httpx.HTTPStatusError as error:
            found = {"said": f"nothing: {error.response.status_code}"}
        yield where, found.get("said", "nothing")


def _read(client: Client, path: str, **given: Any) -> httpx.Response:
    return client.http.get(path, **given).raise_for_status()


def _last_values(stream: httpx.Response) -> Any:
    """Of the last such event; some servers end their lines with LF alone."""
    events = [frame for frame in re.split(rb"\r?\n\r?\n", stream.content) if b"event: values" in frame]
    return json.loads(events[-1].partition(b"data: ")[2].splitlines()[0]) if events else None


def _standing(client: Client, thread: str) -> tuple[Any, ...]:
    return client.thread_row(thread), client.statuses(thread), client.state(thread)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: 1 is not 1.0, and -0.0 not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other) if isinstance(one, float) else bool(one == other)


def unsayable(state: Any, depth: int = 1) -> str:
    """Why a state may be refused; empty if it has to be taken."""
    if isinstance(state, float):
        return "" if math.isfinite(state) else "not a JSON number"
    if isinstance(state, int):
        return "" if -(2**63) <= state < 2**64 else "over 64 bits"
    if isinstance(state, str):
        return "half a character" if any("\ud800" <= char <= "\udfff" for char in state) else ""
    if depth > DEEPEST and state:
        return "too deep"
    inside: list[Any] = [*state, *state.values()] if isinstance(state, dict) else list(state or ())
    return next(filter(None, (unsayable(each, depth + 1) for each in inside)), "")


_ODD_TEXTS = (
    "",
    "\0",
    "a\0b\0",
    "\\u0000",
    "\\",
    '"',
    "\u2028\u2029",
    "\ufffd",
    "\ufeff",
    "\U0001f600",
    "e\u0301",
    "\x7f\x1b",
)
_HALVES = ("\ud800", "\udfff", "x\ude00\ud83dy")
_NUMBERS = (
    *(0.0, -0.0, 0.1, 1e16, 1e20, 2.0**64, -1e25, 1e300, 1.7976931348623157e308, 5e-324, 2.2250738585072014e-308, 1e-7),
    *(0, -1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
)
_NO_NUMBERS = (math.nan, math.inf, -math.inf, 2**64, -(2**63) - 1, 10**30, -(10**300))


def random_state(chance: random.Random) -> Any:
    """One JSON state: nine times out of ten one that has to be taken."""
    state = _value(chance, chance.randrange(5))
    if chance.random() < 0.1:
        strange: Any = chance.choice((*_HALVES, *_NO_NUMBERS))
        return {"fine": state, "strange": [strange] if chance.random() < 0.8 else {str(strange): strange}}
    if chance.random() < 0.05:
        return _nested(chance, state, chance.choice((50, 150, DEEPEST - 10, 250, 600)))
    if chance.random() < 0.02:
        return [state, _text(chance) * (LONGEST // 4), "x" * chance.randrange(LONGEST)]
    return state


def _value(chance: random.Random, depth: int) -> Any:
    made: tuple[Callable[[], Any], ...] = (
        lambda: _text(chance),
        lambda: chance.choice(_NUMBERS),
        lambda: chance.uniform(-1, 1) * 10.0 ** chance.randint(-300, 300),
        lambda: chance.randint(-(2**63), 2**64 - 1),
        lambda: chance.choice((None, True, False)),
        lambda: [_value(chance, depth - 1) for _ in range(chance.randrange(5))],
        lambda: {_text(chance): _value(chance, depth - 1) for _ in range(chance.randrange(5))},
    )
    return chance.choice(made if depth > 0 else made[:5])()


def _text(chance: random.Random) -> str:
    if chance.random() < 0.4:
        return chance.choice(_ODD_TEXTS)
    points = (chr(chance.randrange(0x20 if chance.random() < 0.7 else 0, 0xD800)) for _ in range(chance.randrange(12)))
    return "".join(points)


def _nested(chance: random.Random, state: Any, levels: int) -> Any:
    for _ in range(levels):
        state = [state] if chance.random() < 0.5 else {_text(chance): state}
    return state


R14 = Goal(
    "R14",
    "random JSON states",
    play,
    rounds=2000,
    at_least={**{f"{way} taken": 350 for way in WAYS}, **{f"{way} refused": 20 for way in WAYS}},
    controls=(Control("jsonb-values", (FAILED, WRONG), rounds=60),),
    for_peers=True,
)
