"""A slice of `make chaos`: two episodes of a fixed seed, and one planted fault that has to be found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.durability.chaos.controls import CONTROLS, caught
from tests.durability.chaos.drawing import drawn
from tests.durability.chaos.play import play
from tests.durability.chaos.schedule import Episode
from tests.durability.chaos.site import Postgres

SEED = 1
PLANTED = "new-run-id"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as postgres:
        yield postgres


@pytest.mark.parametrize("episode", drawn(SEED, 2), ids=lambda episode: episode.shape.name)
def test_nothing_is_lost_or_done_twice_in_chaos(episode: Episode, postgres: Postgres, tmp_path: Path) -> None:
    story = play(episode, postgres, tmp_path)
    assert not story.failures
    assert story.evidence.acknowledged
    assert story.evidence.faults
    assert story.evidence.executions


def test_a_planted_fault_is_found(postgres: Postgres, tmp_path: Path) -> None:
    control = next(each for each in CONTROLS if each.planted == PLANTED)
    assert caught(control, postgres, tmp_path)
