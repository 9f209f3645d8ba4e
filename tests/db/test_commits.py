"""A commit whose answer is lost is looked up; what did not happen is done again, and nothing is done twice."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from holdfast.db import commits
from holdfast.db.pool import Connection, Database
from holdfast.errors import DatabaseUnavailable, OutcomeUnknown
from tests.db.stage import ANN, Stage, opened, until
from tests.support.proxy import Proxy

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("status", "same", "fate"),
    [
        ("committed", True, "committed"),
        ("committed", False, "unknown"),
        ("aborted", True, "undone"),
        ("aborted", False, "undone"),
        ("in progress", True, "under way"),
        ("in progress", False, "undone"),
        (None, True, "under way"),
        (None, False, "undone"),
    ],
)
def test_what_an_id_says_depends_on_a_crash_in_between(status: str | None, same: bool, fate: str) -> None:
    assert commits.fate(status, same=same) == fate


async def test_postgres_says_what_became_of_a_transaction(stage: Stage) -> None:
    async with stage.outside() as one, stage.outside() as other:
        done = await commits.begin(one)
        assert await commits.ask(other, done) == "under way"
        await one.execute("COMMIT")
        assert await commits.ask(other, done) == "committed"
        undone = await commits.begin(one)
        await one.execute("ROLLBACK")
        assert await commits.ask(other, undone) == "undone"
        beyond = commits.Ticket(str(int(undone.xid) + 1_000_000), undone.incarnation)
        assert await commits.ask(other, beyond) == "under way"


async def test_after_a_crash_a_committed_id_may_be_somebody_elses(stage: Stage) -> None:
    async with stage.outside() as conn:
        ticket = await commits.begin(conn)
        await conn.execute("COMMIT")
        await conn.execute("TRUNCATE holdfast.incarnation")
        assert await commits.ask(conn, ticket) == "unknown"
        assert (await commits.begin(conn)).incarnation != ticket.incarnation
        await conn.execute("ROLLBACK")


async def _insert(database: Database, thread_id: UUID) -> None:
    async with database.transaction("api") as conn:
        await _row(conn, thread_id)


async def _row(conn: Connection, thread_id: UUID) -> None:
    await conn.execute(
        "INSERT INTO holdfast.threads (thread_id, owner, created_at, updated_at, state_updated_at)"
        " VALUES (%s, 'ann', now(), now(), now())",
        [thread_id],
    )


class Watch:
    """Loses the answer to so many COMMITs, or to what else there is in a statement."""

    def __init__(self, what: bytes = b"COMMIT\x00") -> None:
        self.left = 0
        self._what = what

    def __call__(self, piece: bytes) -> bool:
        lost = self.left > 0 and self._what in piece
        self.left -= lost
        return lost


async def test_a_commit_whose_answer_is_lost_has_happened_and_is_not_repeated(clean_url: str) -> None:
    watch = Watch()
    with Proxy(clean_url, watch=watch) as proxy:
        async with opened(proxy.url) as stage:
            thread_id = uuid4()
            watch.left = 1
            await _insert(stage.database, thread_id)
            assert watch.left == 0
            assert await stage.thread_status(thread_id) == "idle"
            watch.left = 1
            await stage.threads.create(ANN, uuid4(), {}, or_keep=False)
            assert watch.left == 0


@pytest.mark.parametrize(
    ("what", "given"),
    [(b"thread_version", {}), (b"COMMIT\x00", {"thread_status": ["idle"]})],
    ids=["in a group", "alone"],
)
async def test_a_run_whose_admission_was_not_answered_is_claimed_once(
    clean_url: str, what: bytes, given: dict[str, Any]
) -> None:
    watch = Watch(what)
    with Proxy(clean_url, watch=watch) as proxy:
        async with opened(proxy.url) as stage:
            thread_id = await stage.thread()
            watch.left = 1
            run_id, admitted = await stage.admit(thread_id, worker_id=stage.worker_id, strategy="reject", **given)
            assert watch.left == 0
            assert admitted.claimed is not None
            assert admitted.claimed.attempt == 1
            assert admitted.claimed.kwargs == b"{}"
            assert await stage.queue.held(stage.worker_id) == {run_id: admitted.claimed.fencing_token}


async def test_a_transaction_that_is_cut_before_its_commit_has_not_happened(stage: Stage) -> None:
    thread_id = uuid4()

    async def cut() -> None:
        async with stage.database.transaction("api") as conn:
            await _row(conn, thread_id)
            await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(DatabaseUnavailable) as raised:
        await cut()
    assert not isinstance(raised.value, OutcomeUnknown)
    assert await stage.sql("SELECT FROM holdfast.threads WHERE thread_id = %s", thread_id) == []


async def test_a_crash_during_a_commit_is_told_and_not_repeated(clean_url: str) -> None:
    watch = Watch()

    def crash(piece: bytes) -> bool:
        if not watch(piece):
            return False
        with psycopg.connect(clean_url, autocommit=True) as conn:
            conn.execute("TRUNCATE holdfast.incarnation")
        return True

    with Proxy(clean_url, watch=crash) as proxy:
        async with opened(proxy.url) as stage:
            watch.left = 1
            with pytest.raises(OutcomeUnknown):
                await stage.threads.create(ANN, uuid4(), {}, or_keep=False)


async def test_a_commit_that_is_under_way_is_waited_for(stage: Stage) -> None:
    async with stage.outside() as slow:
        ticket = await commits.begin(slow)
        learning = asyncio.create_task(stage.database._learn_fate(ticket, DatabaseUnavailable("lost")))
        await until(lambda: not learning.done())
        await slow.execute("COMMIT")
        await learning
