"""Group commit: who comes together goes together, each gets its own answer, and nobody waits for company."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from psycopg import IntegrityError

from holdfast.db import groups
from holdfast.db.groups import Group
from holdfast.errors import DatabaseUnavailable
from holdfast.telemetry.metrics import Metrics
from tests.db.stage import until

pytestmark = pytest.mark.anyio


class Commits:
    """Commits that take until they are let through."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.gate = asyncio.Event()
        self.refuses: set[str] = set()
        self.error: Exception | None = None

    async def __call__(self, items: Sequence[str]) -> Mapping[str, str]:
        self.groups.append(list(items))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return {item: item.upper() for item in items if item not in self.refuses}

    async def begun(self, count: int) -> None:
        await until(lambda: len(self.groups) >= count)


@pytest.fixture
def commits() -> Commits:
    return Commits()


async def test_what_comes_during_a_commit_is_the_next_group(commits: Commits) -> None:
    group: Group[str, str] = Group("g", commits, Metrics())
    first = asyncio.create_task(group.join("a", "a"))
    await commits.begun(1)
    others = [asyncio.create_task(group.join(item, item)) for item in "bcd"]
    await asyncio.sleep(0)
    commits.gate.set()
    assert await asyncio.gather(first, *others) == ["A", "B", "C", "D"]
    assert commits.groups == [["a"], ["b", "c", "d"]]


async def test_each_gets_its_own_answer(commits: Commits) -> None:
    group: Group[str, str] = Group("g", commits, Metrics())
    commits.refuses = {"b"}
    commits.gate.set()
    assert await asyncio.gather(*(group.join(item, item) for item in "abc")) == ["A", None, "C"]


@pytest.mark.parametrize("error", [DatabaseUnavailable("away"), IntegrityError("taken")])
async def test_of_a_group_that_failed_everybody_goes_alone_and_the_next_one_is_not_concerned(
    commits: Commits, error: Exception
) -> None:
    group: Group[str, str] = Group("g", commits, Metrics())
    commits.error = error
    commits.gate.set()
    assert await asyncio.gather(group.join("a", "a"), group.join("b", "b")) == [None, None]
    commits.error = None
    assert await group.join("a", "a") == "A"


async def test_a_defect_leaves_nobody_waiting(commits: Commits) -> None:
    group: Group[str, str] = Group("g", commits, Metrics())
    commits.error = ZeroDivisionError()
    first = asyncio.create_task(group.join("a", "a"))
    await commits.begun(1)
    worker = next(task for task in asyncio.all_tasks() if task.get_name() == "g")
    second = asyncio.create_task(group.join("b", "b"))
    await asyncio.sleep(0)
    commits.gate.set()
    async with asyncio.timeout(5):
        assert await asyncio.gather(first, second) == [None, None]
    with pytest.raises(ZeroDivisionError):
        await worker


async def test_of_two_with_one_key_the_second_comes_after_the_first(commits: Commits) -> None:
    group: Group[str, str] = Group("g", commits, Metrics())
    commits.gate.set()
    await asyncio.gather(group.join("k", "a"), group.join("k", "b"), group.join("l", "c"))
    assert commits.groups == [["a", "c"], ["b"]]


async def test_a_group_has_a_bound_and_what_is_large_goes_alone(
    commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    group: Group[str, str] = Group("g", commits, Metrics())
    commits.gate.set()
    monkeypatch.setattr(groups, "MOST_MEMBERS", 3)
    assert await group.join("large", "large", groups.MOST_BYTES) is None
    await asyncio.gather(*(group.join(item, item, groups.MOST_BYTES // 3) for item in "abcd"))
    assert commits.groups == [["a", "b", "c"], ["d"]]


async def test_who_is_cancelled_is_so_when_the_commit_is_through(commits: Commits) -> None:
    group: Group[str, str] = Group("g", commits, Metrics())
    saving = asyncio.create_task(group.join("a", "a"))
    await commits.begun(1)
    saving.cancel()
    await asyncio.sleep(0)
    assert not saving.done(), "what was sent may be committed"
    commits.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await saving
