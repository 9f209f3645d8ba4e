"""The event log: what a run says, live and later.

A run's frames are finished wire bytes, numbered once. The process that executes the run keeps the newest of them on a
`Tape` and writes them to the log in blocks. A follower in the same process reads the tape, any other follower (or one
that comes later, or falls behind) reads the log; both get the same bytes in the same order, so a stream can be
resumed anywhere (invariant 6).

A thread's log is all of that in one: the blocks of its runs by number, which runs ended where, and what was said
about the thread itself. It never ends. It is read from the database alone, one query for every ring of the bell:
whoever follows a thread hears a moment later what the followers of its run hear at once.

A recovered attempt starts its numbers `ATTEMPT_GAP` higher: live followers of the dead process may have seen frames
that never reached the log, and none of those numbers may come back with another meaning.

Followers who are at the same place of a log want the same of it at the same time, so they ask together (`shared.py`):
a thousand cost what one costs. With a fan-out (`fanout.py`) a run's blocks are brought to them, and they ask only at
the beginning, after a gap and at the end.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from psycopg.rows import DictRow

from holdfast.db.bell import Bell
from holdfast.db.fanout import Fanout
from holdfast.db.news import News
from holdfast.db.pool import Database, persistent, repeated
from holdfast.db.runs import Runs
from holdfast.db.saves import Block
from holdfast.db.scope import scoped, sight_key
from holdfast.db.shared import Shared
from holdfast.db.sql import statements
from holdfast.rules.caller import Caller
from holdfast.rules.run import ACTIVE

ATTEMPT_GAP = 100_000
TAPE_BYTES = 4 * 2**20
BLOCKS_PER_READ = 64
BATCH_BYTES = 256 * 1024
"""About what a follower who reads slowly holds in memory; one frame may be longer."""
BREATH_SECONDS = 0.01
"""How long a follower who has just been told something waits for more: so many tokens are one write."""
EAGER_FRAMES = 16
"""So many are told at once, before anybody takes a breath: the first words count."""
NEVER_WRITTEN = 2**62
"""A number after all that there are: who waits after it waits for the end."""

Frames = list[bytes]


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a thread's log: frames, and the ids of runs that ended after them, numbered from `first_seq` on."""

    first_seq: int
    at_ms: int
    """When it was logged, in milliseconds since 1970."""
    said: Sequence[bytes | UUID]


class Tape:
    """The newest frames of one run in this process."""

    def __init__(self, first_seq: int) -> None:
        self._frames: deque[bytes] = deque()
        self.first = first_seq
        self._bytes = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._breathing: set[asyncio.Future[None]] = set()
        self.last = first_seq - 1
        self.ended = False
        self.over = False
        """The run has a final status; an ended tape whose run is not over goes on elsewhere."""
        self.result: bytes | None = None
        """The run's final JSON, as `wait` and `join` answer it; None if it has to be read from the database."""

    def append(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._bytes += len(frame)
        self.last += 1
        _wake(self._waiting)

    def trim(self, logged_to: int) -> None:
        """Forget the oldest frames that the log has, as far as the tape is too long."""
        while self._bytes > TAPE_BYTES and self.first <= logged_to:
            self._bytes -= len(self._frames.popleft())
            self.first += 1

    def end(self, result: bytes | None, *, over: bool) -> None:
        self.result = result
        self.over = over
        self.ended = True
        _wake([*self._waiting, *self._breathing])

    def since(self, seq: int) -> Frames | None:
        """The next frames after `seq`, or None if the tape does not reach back that far."""
        if seq < self.first - 1:
            return None
        newer: Frames = []
        size = 0
        for place in range(seq - self.first + 1, len(self._frames)):
            newer.append(self._frames[place])
            size += len(newer[-1])
            if size >= BATCH_BYTES:
                break
        return newer

    async def news(self) -> None:
        """Until something was appended, or the run ended."""
        if not self.ended:
            await self._wait(self._waiting)

    async def breath(self, told: int) -> None:
        """For `BREATH_SECONDS`, or until the run ended; not for who was told only a few frames."""
        if self.ended or told <= EAGER_FRAMES:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(BREATH_SECONDS, _wake, (waiter,))
        try:
            await self._wait(self._breathing, waiter)
        finally:
            timer.cancel()

    async def _wait(self, among: set[asyncio.Future[None]], waiter: asyncio.Future[None] | None = None) -> None:
        waiter = waiter or asyncio.get_running_loop().create_future()
        among.add(waiter)
        try:
            await waiter
        finally:
            among.discard(waiter)


def _wake(waiting: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiting:
        if not waiter.done():
            waiter.set_result(None)


class EventLog:
    """Follow any run, wherever it is executed."""

    def __init__(
        self,
        database: Database,
        runs: Runs,
        bell: Bell,
        split: Callable[[bytes], Sequence[bytes]],
        fanout: Fanout | None = None,
    ) -> None:
        self._database = database
        self._runs = runs
        self._bell = bell
        self._fanout = fanout
        self._split = split
        self._sql = statements("events")
        self._tapes: dict[UUID, Tape] = {}
        self._followers: Counter[UUID] = Counter()
        self._news = News(database, bell, fanout)
        self._rows: Shared[Hashable, DictRow | None] = Shared()
        self._blocks: Shared[Hashable, list[DictRow]] = Shared()

    def open_tape(self, run_id: UUID, first_seq: int) -> Tape:
        """Start a tape for a run that this process executes."""
        tape = self._tapes[run_id] = Tape(first_seq)
        # Who waited for the run to begin reads the tape from now on.
        self._news.tell(str(run_id))
        return tape

    def close_tape(self, run_id: UUID, thread_id: UUID, result: bytes | None, *, over: bool) -> None:
        """This process is done with the run; everybody who asks from now on finds it in the database."""
        if tape := self._tapes.pop(run_id, None):
            tape.end(result, over=over)
        self.grown(thread_id, run_id)

    def grown(self, *logs: UUID) -> None:
        """There is something new in the logs of these runs and threads: followers everywhere look again."""
        about = " ".join(map(str, logs))
        if self._fanout is None:
            self._bell.ring("events", about)
        else:
            self._fanout.publish(logs)
        self._news.tell(about)

    def logged(self, thread_id: UUID, run_id: UUID, block: Block) -> None:
        """A block of this run is in its log and in its thread's."""
        if self._fanout is None:
            self.grown(thread_id, run_id)
            return
        self._fanout.publish([thread_id], run_id, block)
        self._news.tell(str(thread_id))

    def is_followed(self, run_id: UUID) -> bool:
        """Whether somebody in this process follows the run at this moment."""
        return run_id in self._followers

    @contextmanager
    def _following(self, run_id: UUID) -> Iterator[None]:
        self._followers[run_id] += 1
        try:
            yield
        finally:
            self._followers[run_id] -= 1
            if not self._followers[run_id]:
                del self._followers[run_id]

    async def follow(self, caller: Caller, run_id: UUID, after: int | None) -> AsyncIterator[Frames]:
        """The run's frames in order, in batches, until it has ended.

        Args:
            after: the last number already seen; 0 from the start, None for what is said from now on.
        """
        with self._following(run_id):
            cursor = after if after is not None else await self._newest(run_id)
            tape: Tape | None = None
            begun = cursor
            while True:
                tape = tape or self._tapes.get(run_id)
                if tape is None:
                    async for frames, last in self._from_log(caller, run_id, cursor):
                        cursor = last
                        yield frames
                    if run_id not in self._tapes:
                        return
                    continue
                newer = tape.since(cursor)
                if newer is None:
                    logged, cursor = await self._catch_up(run_id, cursor, tape)
                    if logged:
                        yield logged
                elif newer:
                    cursor += len(newer)
                    yield newer
                    await tape.breath(told=cursor - begun)
                elif not tape.ended:
                    await tape.news()
                elif tape.over:
                    return
                else:
                    tape = None

    async def follow_thread(self, caller: Caller, thread_id: UUID, after: int | None) -> AsyncIterator[list[Piece]]:
        """The thread's log in order, in batches, until the thread is deleted.

        Args:
            after: the last number already seen; 0 from the start, None for what is logged from now on.
        """
        cursor = after if after is not None else await self._newest_of_thread(thread_id)
        with self._news.of("thread", thread_id, cursor) as place:
            while True:
                await place.news()
                place.takes_look()
                blocks = await self._read_thread(caller, thread_id, place.after)
                if blocks and blocks[-1]["last_seq"] is not None:
                    yield [self._piece(block, place.after) for block in blocks]
                    place.after = blocks[-1]["last_seq"]
                    place.look_again()
                elif blocks and blocks[-1]["ended_last"] is not None:
                    place.after = blocks[-1]["event_seq"]
                    yield [Piece(place.after, blocks[-1]["ended_ms"], blocks[-1]["ended_last"])]
                    place.look_again()
                elif not blocks or blocks[-1]["gone"]:
                    return

    async def result(self, caller: Caller, run_id: UUID) -> bytes | None:
        """Wait for the run's end; its final JSON if it ended in this process, else None."""
        with self._news.of("run", run_id, NEVER_WRITTEN) as place:
            while True:
                if tape := self._tapes.get(run_id):
                    while not tape.ended:
                        await tape.news()
                    if tape.over:
                        return tape.result
                    place.look_again()
                if place.takes_look():
                    run = await self._find(caller, run_id)
                    if run_id not in self._tapes and (run is None or run["status"] not in ACTIVE):
                        return None
                if run_id not in self._tapes:
                    await place.news()

    async def watch(self) -> None:
        """Look after all who wait, in case a ring was lost; until cancelled."""
        await self._news.watch()

    @repeated
    async def expire(self, *, ttl: float, batch: int) -> int:
        """Drop blocks of ended runs older than `ttl` seconds; returns how many."""
        async with self._database.connection("worker") as conn:
            return (await conn.execute(self._sql["expire"], {"ttl": ttl, "batch": batch})).rowcount

    async def is_silent(self, run_id: UUID) -> bool:
        """The log has nothing of the run: it has expired, or was never kept."""
        return await self._newest(run_id) == 0

    @persistent
    async def next_in_run(self, run_id: UUID) -> int:
        """The number, within the run, of the next frame to be logged."""
        async with self._database.connection("worker") as conn:
            row = await (await conn.execute(self._sql["count_in_run"], {"run_id": run_id})).fetchone()
        return int(row["next_in_run"]) if row else 1

    @persistent
    async def _newest(self, run_id: UUID) -> int:
        if tape := self._tapes.get(run_id):
            return tape.last
        async with self._database.connection("api") as conn:
            row = await (await conn.execute(self._sql["newest"], {"run_id": run_id})).fetchone()
        return int(row["newest"]) if row else 0

    @persistent
    async def _newest_of_thread(self, thread_id: UUID) -> int:
        async with self._database.connection("api") as conn:
            row = await (await conn.execute(self._sql["newest_of_thread"], {"thread_id": thread_id})).fetchone()
        return int(row["newest"]) if row else 0

    async def _read_thread(self, caller: Caller, thread_id: UUID, after: int) -> list[DictRow]:
        key = (thread_id, after, sight_key(caller))
        return await self._blocks.ask(key, lambda: self._query_thread(caller, thread_id, after))

    @persistent
    async def _query_thread(self, caller: Caller, thread_id: UUID, after: int) -> list[DictRow]:
        limits = {"limit": BLOCKS_PER_READ, "bytes": BATCH_BYTES}
        query = scoped(caller, self._sql["read_thread"], thread_id=thread_id, after=after, **limits)
        async with self._database.connection("api") as conn:
            return await (await conn.execute(*query)).fetchall()

    def _piece(self, block: DictRow, cursor: int) -> Piece:
        said = [*self._split(block["frames"]), *block["ended_runs"]]
        seen = max(0, cursor - block["first_seq"] + 1)
        return Piece(block["first_seq"] + seen, block["at_ms"], said[seen:])

    async def _from_log(self, caller: Caller, run_id: UUID, cursor: int) -> AsyncIterator[tuple[Frames, int]]:
        """Follow the log until the run has ended, or turns out to be executed here."""
        with self._news.of("run", run_id, cursor) as place:
            while run_id not in self._tapes:
                blocks, is_last = place.told(), False
                if place.takes_look():
                    # The status is read before the log: what an ended run said is then all there.
                    run = await self._find(caller, run_id)
                    blocks = await self._read(run_id, place.after)
                    if _is_full(blocks):
                        place.look_again()
                    else:
                        is_last = run is None or run["status"] not in ACTIVE
                for block in blocks:
                    # Empty where all that a block says is that the run ended.
                    if frames := self._rest_of(block, place.after):
                        yield frames, block["last_seq"]
                    place.after = max(place.after, block["last_seq"])
                if is_last:
                    return
                await place.news()

    async def _catch_up(self, run_id: UUID, cursor: int, tape: Tape) -> tuple[Frames, int]:
        """What the log has between the cursor and the tape; the cursor moves to the tape where the log has nothing."""
        blocks = await self._read(run_id, cursor)
        if not blocks:
            return [], tape.first - 1
        frames = [frame for block in blocks for frame in self._rest_of(block, cursor)]
        return frames, blocks[-1]["last_seq"]

    async def _find(self, caller: Caller, run_id: UUID) -> DictRow | None:
        return await self._rows.ask((run_id, sight_key(caller)), lambda: self._query_run(caller, run_id))

    @persistent
    async def _query_run(self, caller: Caller, run_id: UUID) -> DictRow | None:
        return await self._runs.find(caller, run_id)

    async def _read(self, run_id: UUID, after: int) -> list[DictRow]:
        return await self._blocks.ask((run_id, after), lambda: self._query(run_id, after))

    @persistent
    async def _query(self, run_id: UUID, after: int) -> list[DictRow]:
        params = {"run_id": run_id, "after": after, "limit": BLOCKS_PER_READ, "bytes": BATCH_BYTES}
        async with self._database.connection("api") as conn:
            return await (await conn.execute(self._sql["read"], params)).fetchall()

    def _rest_of(self, block: DictRow, cursor: int) -> Frames:
        return list(self._split(block["frames"])[max(0, cursor - block["first_seq"] + 1) :])


def _is_full(blocks: Sequence[DictRow]) -> bool:
    """Whether there may be more of what was read."""
    return len(blocks) >= BLOCKS_PER_READ or sum(len(block["frames"]) for block in blocks) >= BATCH_BYTES
