"""The stream of a thread over several processes, and over the death of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.durability.walk import PROJECT
from tests.support.follow import Follower, following
from tests.support.server import Server
from tests.support.talk import new_thread, start

STEPS = 8
KILL_AFTER = 3


def over(follower: Follower) -> bool:
    return b'"status":"run_done"' in follower.whole


@pytest.mark.requirement("streams.thread_restart")
def test_a_follower_that_reconnects_after_a_kill_has_read_every_byte_once(database_url: str, tmp_path: Path) -> None:
    with (
        Server(config=PROJECT, database_url=database_url, EFFECT_LOG=str(tmp_path / "effects.jsonl")) as server,
        server.http(timeout=30) as http,
    ):
        thread = new_thread(http)
        path = f"/threads/{thread}/stream"
        with following(server.url, path, "-") as before:
            start(http, thread, "walk", input={"count": STEPS, "pause": 0.15, "done": []}, stream_mode=["updates"])
            before.until(lambda one: one.names.count("updates") >= KILL_AFTER, "it is under way")
            server.kill()
            before.until(lambda one: one.broken, "the connection broke")
        server.start()
        with following(server.url, path, before.events[-1].id) as after:
            after.until(over, "the run has ended")
        with following(server.url, path, "-") as replay:
            replay.until(over, "all of it again")
    assert before.whole + after.whole == replay.whole
    assert replay.names.count("updates") >= STEPS
    assert [event.data["attempt"] for event in replay.events if "attempt" in event.data] == [1, 2]


@pytest.mark.requirement("streams.thread_processes")
def test_a_follower_at_one_process_hears_the_runs_of_another(database_url: str, tmp_path: Path) -> None:
    effects = str(tmp_path / "effects.jsonl")
    with (
        Server(config=PROJECT, database_url=database_url, part="api", EFFECT_LOG=effects) as api,
        Server(config=PROJECT, database_url=database_url, EFFECT_LOG=effects) as both,
        Server(config=PROJECT, database_url=database_url, part="worker", EFFECT_LOG=effects),
        api.http(timeout=30) as http,
    ):
        thread = new_thread(http)
        path = f"/threads/{thread}/stream"
        with following(api.url, path) as far, following(both.url, path) as near:
            for _ in range(2):
                start(http, thread, "walk", input={"count": 3, "pause": 0.02, "done": []}, stream_mode=["updates"])
            for follower in (far, near):
                follower.until(lambda one: one.whole.count(b'"status":"run_done"') == 2, "both runs have ended")
        with following(api.url, path, "-") as replay:
            replay.until(lambda one: one.whole.count(b'"status":"run_done"') == 2, "both again")
    assert far.whole == near.whole == replay.whole
