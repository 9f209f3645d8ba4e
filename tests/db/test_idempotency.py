"""Idempotency keys: the transaction that does the work takes the key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuids

from holdfast.db.idempotency import KEPT_SECONDS, IdempotencyKeys, Key, Made
from holdfast.db.runs import RunEnd
from holdfast.errors import Conflict, Invalid, Missing
from holdfast.rules.run import RunStatus
from tests.db.stage import ANN, BOB, Stage, new_run, outcome, together

pytestmark = pytest.mark.anyio

KEY, OTHER = Key("k", b"request"), Key("k", b"another request")


async def runs_of(stage: Stage) -> int:
    (row,) = await stage.sql("SELECT count(*) AS runs FROM holdfast.runs")
    return int(row["runs"])


async def test_a_repeat_finds_what_the_first_request_made(stage: Stage) -> None:
    thread_id = await stage.thread()
    first, admitted = await stage.admit(thread_id, key=KEY)
    _, again = await stage.admit(thread_id, key=KEY, worker_id=stage.worker_id)
    assert (admitted.before, again.claimed) == (None, None)
    assert again.before == Made([thread_id], [first])
    assert await runs_of(stage) == 1
    assert await IdempotencyKeys(stage.database).find(ANN, KEY) == Made([thread_id], [first])


async def test_a_key_with_another_request_is_refused(stage: Stage) -> None:
    thread_id = await stage.thread()
    await stage.admit(thread_id, key=KEY)
    with pytest.raises(Invalid, match="another request"):
        await stage.admit(thread_id, key=OTHER)
    with pytest.raises(Invalid, match="another request"):
        await IdempotencyKeys(stage.database).find(ANN, OTHER)
    assert await runs_of(stage) == 1


async def test_two_callers_may_use_the_same_key(stage: Stage) -> None:
    await stage.admit(await stage.thread(), key=KEY)
    _, bobs = await stage.admit(await stage.thread(BOB), caller=BOB, key=OTHER)
    assert bobs.before is None
    assert await runs_of(stage) == 2


@pytest.mark.parametrize("stateless", [False, True])
async def test_of_many_equal_requests_at_once_one_starts_a_run(stage: Stage, stateless: bool) -> None:
    thread_id = await stage.thread()
    admissions = [
        stage.admit(uuids.uuid7(), new_thread={}, key=KEY, worker_id=stage.worker_id)
        if stateless
        else stage.admit(thread_id, key=KEY, worker_id=stage.worker_id)
        for _ in range(16)
    ]
    results = await together(*admissions)
    (first,) = [run_id for run_id, admitted in results if admitted.before is None]
    assert {tuple(admitted.before.run_ids) for _, admitted in results if admitted.before} == {(first,)}
    assert await runs_of(stage) == 1
    assert await stage.run_status(first) == "running"


async def test_of_many_equal_batches_at_once_one_starts_its_runs(stage: Stage) -> None:
    batches = [[new_run(uuids.uuid7(), new_thread={}) for _ in range(3)] for _ in range(8)]
    results = await together(*[stage.admissions.admit_all(ANN, batch, key=KEY) for batch in batches])
    (first,) = [batch for batch, before in zip(batches, results, strict=True) if before is None]
    made = Made([run.thread_id for run in first], [run.run_id for run in first])
    assert [before for before in results if before] == [made] * 7
    assert await runs_of(stage) == 3


async def test_a_request_that_was_refused_leaves_its_key_free(stage: Stage) -> None:
    claim = await stage.started()
    with pytest.raises(Conflict):
        await stage.admit(claim.thread_id, strategy="reject", key=KEY)
    await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome()))
    _, admitted = await stage.admit(claim.thread_id, strategy="reject", key=KEY)
    assert admitted.before is None


async def test_whoever_waits_for_a_request_that_is_refused_is_asked_anew(stage: Stage) -> None:
    thread_id = await stage.thread()
    wrong = [stage.admit(thread_id, key=KEY, thread_status=["interrupted"]) for _ in range(6)]
    results = await together(*wrong, stage.admit(thread_id, key=KEY))
    assert await runs_of(stage) == 1
    (run_id, admitted) = results[-1]
    assert admitted.before is None
    for result in results[:-1]:
        assert isinstance(result, Conflict) or result[1].before == Made([thread_id], [run_id])


async def test_a_key_outlives_its_run(stage: Stage) -> None:
    thread_id = await stage.thread()
    run_id, _ = await stage.admit(thread_id, key=KEY)
    await stage.runs.cancel(ANN, thread_id, run_id, "rollback")
    assert await runs_of(stage) == 0
    _, again = await stage.admit(thread_id, key=KEY)
    assert again.before == Made([thread_id], [run_id])
    assert await runs_of(stage) == 0


async def test_a_batch_with_one_refused_run_starts_none(stage: Stage) -> None:
    batch = [new_run(uuids.uuid7(), new_thread={}), new_run(uuids.uuid7())]
    with pytest.raises(Missing):
        await stage.admissions.admit_all(ANN, batch, key=KEY)
    assert await runs_of(stage) == 0
    assert await stage.sql("SELECT true FROM holdfast.threads") == []
    assert await stage.sql("SELECT true FROM holdfast.idempotency_keys") == []


CREATIONS: dict[str, Callable[[Stage], Awaitable[Made | None]]] = {
    "of any id": lambda stage: stage.threads.create(ANN, uuids.uuid7(), {}, or_keep=False, key=KEY),
    "of one id": lambda stage: stage.threads.create(ANN, UUID(int=1), {}, or_keep=False, key=KEY),
}


@pytest.mark.parametrize("create", CREATIONS.values(), ids=CREATIONS)
async def test_of_many_equal_creations_of_a_thread_one_makes_it(
    stage: Stage, create: Callable[[Stage], Awaitable[Made | None]]
) -> None:
    results: list[Any] = await together(*[create(stage) for _ in range(12)])
    assert results.count(None) == 1
    (row,) = await stage.sql("SELECT thread_id FROM holdfast.threads")
    assert [made for made in results if made] == [Made([row["thread_id"]])] * 11


async def test_a_creation_that_was_refused_leaves_its_key_free(stage: Stage) -> None:
    taken = await stage.thread()
    with pytest.raises(Conflict):
        await stage.threads.create(ANN, taken, {}, or_keep=False, key=KEY)
    assert await stage.threads.create(ANN, uuids.uuid7(), {}, or_keep=False, key=KEY) is None


async def test_a_key_is_kept_for_a_day(stage: Stage) -> None:
    keys = IdempotencyKeys(stage.database)
    thread_id = await stage.thread()
    await stage.admit(thread_id, key=KEY)
    for name, age in (("young", KEPT_SECONDS - 60), ("old", KEPT_SECONDS + 60), ("older", KEPT_SECONDS * 2)):
        await stage.admit(thread_id, key=Key(name, b""))
        await stage.sql(
            "UPDATE holdfast.idempotency_keys SET created_at = now() - make_interval(secs => %s) WHERE key = %s",
            age,
            name,
        )
    assert await keys.sweep(batch=1) == 1
    assert await keys.sweep(batch=10) == 1
    left = await stage.sql("SELECT key FROM holdfast.idempotency_keys ORDER BY key")
    assert [row["key"] for row in left] == ["k", "young"]
    assert (await stage.admit(thread_id, key=Key("old", b"anything else")))[1].before is None
