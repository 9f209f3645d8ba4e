"""Effects once: a server that is killed inside tool calls, for real, and what the ledger makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.durability.effects import EffectLog, starts_per_key
from tests.durability.walk import PROJECT
from tests.support.server import ROOT, Server
from tests.support.talk import get_thread, new_thread, start, until, wait

MORTAL = ROOT / "tests" / "support" / "mortal" / "langgraph.json"
PATIENCE = 60.0


def decide(http: httpx.Client, thread: str, kind: str) -> None:
    decision = {"type": kind, **({"message": "Ada has it."} if kind == "respond" else {})}
    start(http, thread, "agent", command={"resume": {"decisions": [decision]}})


def asked(http: httpx.Client, thread: str) -> dict[str, Any]:
    """What the thread asks about."""
    until(lambda: get_thread(http, thread)["status"] == "interrupted", "the thread asks something", PATIENCE)
    [[question]] = get_thread(http, thread)["interrupts"].values()
    action: dict[str, Any] = question["value"]["action_requests"][0]
    return action


def approved(http: httpx.Client, recipient: str) -> str:
    """A thread in which a message was approved."""
    thread = new_thread(http)
    words = {"role": "user", "content": f"send hello to {recipient}"}
    wait(http, thread, "agent", input={"messages": [words]})
    decide(http, thread, "approve")
    return thread


def last_words(http: httpx.Client, thread: str) -> str:
    until(lambda: get_thread(http, thread)["status"] in ("idle", "error"), "the thread is at rest", PATIENCE)
    return str(get_thread(http, thread)["values"]["messages"][-1]["content"])


def test_a_kill_inside_a_tool_call_repeats_nothing_and_asks_a_human_what_nobody_knows(
    database_url: str, tmp_path: Path
) -> None:
    sent = tmp_path / "sent"
    with Server(config=MORTAL, database_url=database_url, SENT=str(sent)) as server, server.http() as http:
        known = approved(http, "Bob")
        unknown = [approved(http, "Ada") for _ in range(3)]
        hanging = {f"sent.{thread}" for thread in (known, *unknown)}
        until(lambda: hanging <= {file.name for file in tmp_path.iterdir()}, "all of them hang", PATIENCE)
        server.kill()
        server.start()
        assert last_words(http, known) == "Sent to Bob."
        assert sent.read_text().count(known) == 1
        outcomes = {
            "approve": (2, "Sent to Ada."),
            "respond": (1, "Ada has it."),
            "reject": (1, "send_message did not work out: unknown: Whether send_message took effect is not known"),
        }
        for thread, (kind, (times, words)) in zip(unknown, outcomes.items(), strict=True):
            action = asked(http, thread)
            assert action["args"] == {"recipient": "Ada", "body": "hello"}
            for piece in ("is not known: it was started at", "attempt 1", f"idempotency key {thread}:call_"):
                assert piece in action["description"]
            assert sent.read_text().count(thread) == 1
            decide(http, thread, kind)
            assert last_words(http, thread).startswith(words)
            assert sent.read_text().count(thread) == times


@pytest.mark.parametrize("planted", ["", "no-ledger"])
def test_a_step_of_any_graph_starts_once_because_of_the_ledger(database_url: str, tmp_path: Path, planted: str) -> None:
    effects = EffectLog(tmp_path / "effects")
    given = {"config": PROJECT, "database_url": database_url, "EFFECT_LOG": str(effects.path)}
    with Server(planted=planted, **given) as server, server.http() as http:
        thread = new_thread(http)
        start(http, thread, "ledgered", input={"count": 3, "pause": 0.5, "done": []})
        until(lambda: len(effects.of(thread)) == 2, "the second step has started", PATIENCE)
        server.kill()
        server.start()
        until(lambda: get_thread(http, thread)["status"] == "idle", "the run is over", PATIENCE)
        starts = starts_per_key(effects.of(thread))
        second = get_thread(http, thread)["values"]["done"][1]
        assert list(starts.values()) == ([1, 2, 1] if planted else [1, 1, 1])
        assert (second == "unknown") is (not planted)
