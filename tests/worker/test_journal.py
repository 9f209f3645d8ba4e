"""The journal: every frame once, in order, to live followers and to the log, however slow the log is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from holdfast.db.events import ATTEMPT_GAP
from holdfast.db.queue import Claimed
from holdfast.db.runs import RunEnd
from holdfast.rules.run import RunStatus
from holdfast.wire import sse
from holdfast.worker import journal as module
from holdfast.worker.journal import Journal
from tests.db.stage import ANN, Process, outcome, process, until

pytestmark = pytest.mark.anyio

SMALL, LARGE = b'"s"', b'"' + b"l" * module.FLUSH_BYTES + b'"'


@dataclass
class Bench:
    """One process with one journal at a time."""

    process: Process
    failures: list[str] = field(default_factory=list)

    def journal(self, claim: Claimed) -> Journal:
        return Journal(
            claim,
            runs=self.process.stage.runs,
            events=self.process.events,
            metrics=self.process.stage.database.metrics,
            on_failure=lambda: self.failures.append("failed"),
        )

    async def blocks(self) -> list[tuple[int, int, int]]:
        rows = await self.process.stage.sql(
            "SELECT first_seq, last_seq, first_in_run FROM holdfast.event_blocks ORDER BY first_seq"
        )
        return [(row["first_seq"], row["last_seq"], row["first_in_run"]) for row in rows]

    async def appends_under_way(self) -> int:
        rows = await self.process.stage.sql(
            "SELECT 1 FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database() AND query LIKE '%%WITH fence%%'"
        )
        return len(rows)


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Bench]:
    async with process(database_url, listening=False) as running:
        yield Bench(running)


async def test_a_frame_is_on_the_tape_at_once_and_in_the_log_a_moment_later(bench: Bench) -> None:
    claim = await bench.process.stage.started()
    journal = bench.journal(claim)
    journal.emit("values", SMALL)
    follower = bench.process.events.follow(ANN, claim.run_id, 0)
    assert await anext(follower) == [sse.frame("values", SMALL, None)]
    assert await bench.blocks() == []
    assert await until(bench.blocks) == [(1, 1, 1)]
    assert await journal.close() is None


async def test_frames_that_come_together_are_one_block(bench: Bench) -> None:
    journal = bench.journal(await bench.process.stage.started())
    for _ in range(20):
        journal.emit("values", SMALL)
    assert await until(bench.blocks) == [(1, 20, 1)]


async def test_many_bytes_do_not_wait_for_the_moment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 3600.0)
    journal = bench.journal(await bench.process.stage.started())
    journal.emit("values", SMALL)
    journal.emit("values", LARGE)
    assert await until(bench.blocks) == [(1, 2, 1)]
    await journal.close()


async def test_what_is_left_becomes_the_last_block_and_is_not_written_here(bench: Bench) -> None:
    stage = bench.process.stage
    claim = await stage.started(resumable=True)
    journal = bench.journal(claim)
    journal.emit("values", SMALL)
    block = await journal.close()
    assert block is not None
    assert (block.first_seq, block.last_seq, block.first_in_run) == (1, 1, 1)
    assert await bench.blocks() == []
    await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome(), None, block, journal.last_seq))
    assert await bench.blocks() == [(1, 2, 1)], "the frame, and the end of the run"


async def test_one_append_is_under_way_at_a_time_however_slow_the_database_is(bench: Bench) -> None:
    claim = await bench.process.stage.started()
    journal = bench.journal(claim)
    async with bench.process.stage.outside() as conn:
        await conn.execute("BEGIN; LOCK TABLE holdfast.event_blocks")
        journal.emit("values", SMALL)
        journal.emit("values", LARGE)
        await until(bench.appends_under_way)
        journal.emit("values", SMALL)
        overdue = asyncio.get_running_loop().time() + 3 * module.FLUSH_SECONDS
        await until(lambda: asyncio.get_running_loop().time() > overdue)
        assert await bench.appends_under_way() == 1
        await conn.execute("COMMIT")
    assert await until(bench.blocks) == [(1, 2, 1)]
    closing = await journal.close()
    logged = await bench.blocks()
    assert closing is None or (closing.first_seq, closing.last_seq) == (3, 3)
    assert logged == [(1, 2, 1)] if closing else logged == [(1, 2, 1), (3, 3, 3)]


async def test_every_frame_is_logged_once_and_in_order_whatever_the_rhythm(bench: Bench) -> None:
    stage = bench.process.stage
    claim = await stage.started()
    journal = bench.journal(claim)
    said = []
    for number in range(120):
        data = b"%d" % number if number % 10 else b'"%d%b"' % (number, b"x" * module.FLUSH_BYTES)
        said.append(sse.frame("values", data, None))
        journal.emit("values", data)
        await journal.room()
        if number % 3 == 0:
            await asyncio.sleep(0)
    block = await journal.close()
    await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome(), None, block, journal.last_seq))
    bench.process.events.close_tape(claim.run_id, claim.thread_id, None, over=True)
    replayed = [frame async for frames in bench.process.events.follow(ANN, claim.run_id, 0) for frame in frames]
    assert replayed == said
    blocks = await bench.blocks()
    assert [first for first, _, _ in blocks] == [1, *(last + 1 for _, last, _ in blocks[:-1])]
    assert all(in_run in (first, 0) for first, _, in_run in blocks), "0: a block without frames, that the run ended"


async def test_a_graph_that_talks_too_fast_waits_for_the_database(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FULL_BYTES", len(LARGE))
    journal = bench.journal(await bench.process.stage.started())
    async with bench.process.stage.outside() as conn:
        await conn.execute("BEGIN; LOCK TABLE holdfast.event_blocks")
        journal.emit("values", LARGE)
        await until(bench.appends_under_way)
        journal.emit("values", LARGE)
        waiting = asyncio.create_task(journal.room())
        await until(bench.appends_under_way)
        assert not waiting.done()
        await conn.execute("COMMIT")
    async with asyncio.timeout(5):
        await waiting
    await journal.close()


async def test_a_lost_fence_is_reported_once_and_nothing_is_logged(bench: Bench) -> None:
    stage = bench.process.stage
    claim = await stage.started()
    journal = bench.journal(claim)
    await stage.queue.hand_back(claim)
    journal.emit("values", SMALL)
    await until(lambda: bench.failures)
    await journal.close()
    assert bench.failures == ["failed"]
    assert await bench.blocks() == []


async def test_a_later_attempt_leaves_a_gap_in_the_thread_and_goes_on_counting_in_the_run(bench: Bench) -> None:
    stage = bench.process.stage
    claim = await stage.started()
    first = bench.journal(claim)
    first.emit("values", SMALL)
    first.emit("values", SMALL)
    await until(bench.blocks)
    assert await stage.queue.hand_back(claim)
    again = await stage.claim()
    second = bench.journal(again)
    await second.resume_numbering()
    second.emit("values", SMALL)
    start = 3 + ATTEMPT_GAP
    assert await until(lambda: two(bench)) == [(1, 2, 1), (start, start, 3)]


async def two(bench: Bench) -> list[tuple[int, int, int]]:
    blocks = await bench.blocks()
    return blocks if len(blocks) == 2 else []


async def test_an_unlogged_run_is_heard_live_and_leaves_no_row(bench: Bench) -> None:
    stage = bench.process.stage
    claim = await stage.started(logged=False)
    journal = bench.journal(claim)
    follower = bench.process.events.follow(ANN, claim.run_id, 0)
    journal.emit("values", SMALL)
    assert await anext(follower) == [sse.frame("values", SMALL, None)]
    assert await journal.close() is None
    assert await bench.blocks() == []


async def test_of_an_unlogged_run_its_thread_is_told_what_every_run_tells(bench: Bench) -> None:
    stage = bench.process.stage
    claim = await stage.started(logged=False)
    journal = bench.journal(claim)
    for event in ("metadata", "values", "updates", "error"):
        journal.emit(event, SMALL)
    block = await journal.close()
    assert block is not None
    assert sse.split(block.frames) == [sse.frame(event, SMALL, None) for event in ("metadata", "error")]
    await stage.runs.end(claim, RunEnd(RunStatus.ERROR, outcome(), None, block, journal.last_seq))
    assert await bench.blocks() == [(1, 3, 1)]
    bench.process.events.close_tape(claim.run_id, claim.thread_id, None, over=True)
    assert [frames async for frames in bench.process.events.follow(ANN, claim.run_id, 0)] == []
    (pieces,) = [await anext(bench.process.events.follow_thread(ANN, claim.thread_id, 0))]
    assert [said for piece in pieces for said in piece.said] == [*sse.split(block.frames), claim.run_id]
    assert (await stage.started(claim.thread_id)).event_seq == journal.last_seq + 1


async def test_an_unlogged_stateless_run_leaves_nothing(bench: Bench) -> None:
    stage = bench.process.stage
    claim = await stage.started(logged=False, ephemeral=True)
    journal = bench.journal(claim)
    journal.emit("metadata", SMALL)
    await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome(), None, await journal.close(), journal.last_seq))
    assert await bench.blocks() == []


async def test_the_frames_of_a_resumable_run_carry_ids_that_say_when_and_where(bench: Bench) -> None:
    claim = await bench.process.stage.started(resumable=True)
    journal = bench.journal(claim)
    journal.emit("values", SMALL)
    (frame,) = await anext(bench.process.events.follow(ANN, claim.run_id, 0))
    assert frame == sse.frame("values", SMALL, f"{int(claim.claimed_at * 1000)}-1")
    await journal.close()
