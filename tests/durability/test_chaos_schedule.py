"""The schedule of the chaos harness comes from its seed alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

from tests.durability.chaos.controls import CONTROLS
from tests.durability.chaos.drawing import EPISODE_SECONDS, SHAPES, drawn
from tests.durability.chaos.schedule import Episode, text
from tests.durability.planted import FAULTS
from tests.support.server import ROOT

EPISODES = 60


def test_the_same_seed_gives_the_same_schedule_in_another_process() -> None:
    command = [sys.executable, "-m", "tests.durability.chaos", "--seed", "7", "--seconds", "120", "--print-schedule"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert printed.strip() == text(drawn(7, 4))


def test_another_seed_gives_another_schedule() -> None:
    assert text(drawn(7, 4)).splitlines()[-1] != text(drawn(8, 4)).splitlines()[-1]


def test_an_episode_is_the_same_however_many_are_played() -> None:
    assert drawn(7, 9)[2] == drawn(7, 3)[2]


def test_every_difference_between_schedules_shows_in_their_texts() -> None:
    one, other = drawn(7, 1)[0], drawn(8, 1)[0]
    for field in fields(Episode):
        if field.name not in ("planted", "settles_within", "shape", "number", "seconds"):
            assert getattr(one, field.name) != getattr(other, field.name)
            mixed = [Episode(**{**_shallow(one), field.name: getattr(other, field.name)})]
            if field.name not in ("threads", "answering"):
                assert text(mixed) != text([one])


def test_a_long_schedule_has_everything() -> None:
    episodes = drawn(7, EPISODES)
    actions = [action for episode in episodes for action in episode.actions]
    steps = [step for action in actions for step in action.plan]
    assert {episode.shape for episode in episodes} == set(SHAPES)
    assert {action.kind for action in actions} == {
        "run", "join", "watch", "cancel", "update", "fork", "delete", "stale"
    }  # fmt: skip
    assert {action.how for action in actions} == {"background", "stream", "wait"}
    assert {action.strategy for action in actions} == {"enqueue", "reject", "interrupt", "rollback"}
    assert {step.kind for step in steps} == {"slow", "effect", "once", "ask", "flaky", "fail", "block"}
    assert {fault.kind for episode in episodes for fault in episode.faults} == {
        "kill", "freeze", "leave", "restart", "terminate", "stall", "cut", "delay", "exhaust"
    }  # fmt: skip
    assert any(action.attached and action.vanishes for action in actions)
    assert any(action.slow for action in actions)
    assert any(action.vanishes for action in actions)


def test_nothing_happens_after_the_end_of_its_episode() -> None:
    for episode in drawn(7, EPISODES):
        assert all(each.at < EPISODE_SECONDS for each in [*episode.actions, *episode.faults])
        assert all(action.door < episode.shape.doors for action in episode.actions)
        assert all(fault.target < len(episode.shape.parts) for fault in episode.faults)


def test_every_planted_fault_of_a_control_can_be_planted() -> None:
    assert {control.planted for control in CONTROLS} <= set(FAULTS)


def _shallow(episode: Episode) -> dict[str, object]:
    return {field.name: getattr(episode, field.name) for field in fields(episode)}
