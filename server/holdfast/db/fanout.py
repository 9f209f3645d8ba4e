"""The fan-out: what a run says reaches its followers in other processes through Redis, and not through the database.

Theory of operation. Every log is a channel. A process that has written a block publishes it, after the commit; a
process subscribes to the logs that somebody in it follows and hears nothing else. So a block costs a follower's process
no query, and a process without followers nothing at all (the bell wakes every process for every block).

Redis remembers nothing of it, and nothing depends on it: the log is in Postgres. A follower takes a block that goes on
where it is, and reads the log otherwise (`news.py`): at the beginning, when its subscription begins, after a gap, and
when all that was said is "look", as at a run's end. What cannot be published is rung by the bell, which everybody
hears; who cannot listen looks often. A message that is lost although both sides are well is found by the slow look.

Whoever can write to this Redis can put words into streams, as whoever can write to the database can.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg.rows import DictRow

from holdfast.db.bell import DEAF_POLL_SECONDS, GATHER_SECONDS, LISTENING_POLL_SECONDS, RECONNECT_SECONDS, Bell
from holdfast.db.saves import Block
from holdfast.errors import SettingsError

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

logger = logging.getLogger(__name__)

PREFIX = "holdfast:events:"
ALWAYS = f"{PREFIX}all"
"""Nobody says anything there; a connection without subscriptions would not listen."""
MAX_MESSAGE = 256 * 1024
"""A longer block is read from the log."""
CONNECT_SECONDS = 2.0
PUBLISH_SECONDS = 0.5
REST_SECONDS = 5.0
"""How long the bell is rung instead after Redis has failed."""

CANCEL_AGAIN_SECONDS = 0.1

BlockListener = Callable[[UUID, DictRow], None]
RingListener = Callable[[str | None], None]

Message = tuple[UUID, bytes]
"""A log, and what to say in its channel: a block, or nothing but who says it, which is "look"."""


class Fanout:
    """Two connections of this process to Redis: one that listens, one that publishes."""

    def __init__(self, url: str, bell: Bell) -> None:
        """
        Raises:
            SettingsError: the package is not installed, or that is no URL of a Redis.
        """
        try:
            import redis.asyncio as redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as missing:
            raise SettingsError("FANOUT_URL needs a package: pip install 'holdfast[fanout]'") from missing
        self._bell = bell
        self._lost = (redis.RedisError, OSError)
        # A connection that was made again by itself would hide that messages were lost.
        options: dict[str, Any] = {
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_keepalive": True,
            "retry": Retry(NoBackoff(), 0),
        }
        try:
            self._ear = redis.Redis.from_url(url, **options)
            self._mouth = redis.Redis.from_url(url, socket_timeout=PUBLISH_SECONDS, **options)
        except ValueError as error:
            raise SettingsError(f"FANOUT_URL: {error}") from error
        self._me = os.urandom(6).hex().encode()
        self._wanted: set[UUID] = set()
        self._changed = asyncio.Event()
        self._waiting: list[Message] = []
        self._publishing: asyncio.Task[None] | None = None
        self._rests_until = 0.0
        self._listening = False
        self._said_lost = False
        self._bring: BlockListener = _nobody
        self._tell: RingListener = _nobody

    @property
    def poll_seconds(self) -> float:
        """How long a follower may wait before somebody looks for it."""
        return LISTENING_POLL_SECONDS if self._listening else DEAF_POLL_SECONDS

    def on_block(self, listener: BlockListener) -> None:
        self._bring = listener

    def on_ring(self, listener: RingListener) -> None:
        """`listener` gets ids with blanks between them, or None after a gap."""
        self._tell = listener

    def subscribe(self, log: UUID) -> None:
        self._wanted.add(log)
        self._changed.set()

    def unsubscribe(self, log: UUID) -> None:
        self._wanted.discard(log)
        self._changed.set()

    def publish(self, looking: Sequence[UUID], log: UUID | None = None, block: Block | None = None) -> None:
        """Let the followers of these logs look, and give those of `log` a block of it. Returns at once."""
        messages = [(each, b"") for each in looking]
        if log is not None and block is not None:
            messages.append((log, _written(block)))
        if asyncio.get_running_loop().time() < self._rests_until:
            self._ring(messages)
            return
        self._waiting += messages
        if self._publishing is None or self._publishing.done():
            # A context of its own: it speaks for all runs, not for the one that happened to come first.
            self._publishing = Context().run(asyncio.create_task, self._send(), name="fanout-publish")

    async def listen(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._listen_once()
            except self._lost as error:
                self._say_lost(error)
            finally:
                self._listening = False
            await asyncio.sleep(RECONNECT_SECONDS)

    async def close(self) -> None:
        """Let the last blocks out."""
        if self._publishing is not None:
            await asyncio.wait([self._publishing], timeout=1.0)
        await self._ear.aclose()
        await self._mouth.aclose()

    def _say_lost(self, error: BaseException) -> None:
        if not self._said_lost:
            logger.warning("the fan-out is not there: %s (the bell rings, and followers look often)", error)
        self._said_lost = True

    async def _listen_once(self) -> None:
        async with self._ear.pubsub() as channels:
            await channels.subscribe(ALWAYS)
            both = [
                asyncio.create_task(self._keep_subscribed(channels), name="fanout-subscribe"),
                asyncio.create_task(self._hear(channels), name="fanout-hear"),
            ]
            try:
                ended, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                ended.pop().result()
            finally:
                await _stopped(both)

    async def _keep_subscribed(self, channels: PubSub) -> None:
        there: set[UUID] = set()
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            come, gone = self._wanted - there, there - self._wanted
            there = set(self._wanted)
            if come:
                await channels.subscribe(*map(_channel, come))
            if gone:
                await channels.unsubscribe(*map(_channel, gone))

    async def _hear(self, channels: PubSub) -> None:
        async for message in channels.listen():
            channel = message["channel"].decode()
            if message["type"] == "subscribe":
                self._begun(channel)
            elif message["type"] == "message":
                self._heard(channel.removeprefix(PREFIX), message["data"])

    def _begun(self, channel: str) -> None:
        """A subscription holds from now on; what came before it has to be looked for."""
        if channel == ALWAYS:
            self._listening = True
            self._said_lost = False
            self._tell(None)
        else:
            self._tell(channel.removeprefix(PREFIX))

    def _heard(self, log: str, said: bytes) -> None:
        sender, _, block = said.partition(b"\n")
        if sender == self._me:
            return
        try:
            row = _read(block) if block else None
        except ValueError:
            # Whatever that was, the log says what is so.
            row = None
        if row is None:
            self._tell(log)
        else:
            self._bring(UUID(log), row)

    async def _send(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_SECONDS)
            messages, self._waiting = self._waiting, []
            try:
                async with self._mouth.pipeline(transaction=False) as pipeline:
                    for log, said in messages:
                        pipeline.publish(_channel(log), self._me + b"\n" + said)
                    await pipeline.execute()
            except self._lost as error:
                self._say_lost(error)
                self._rests_until = asyncio.get_running_loop().time() + REST_SECONDS
                self._ring(messages)

    def _ring(self, messages: Sequence[Message]) -> None:
        for log, _ in messages:
            self._bell.ring("events", log)


async def _stopped(tasks: Sequence[asyncio.Task[None]]) -> None:
    running = set(tasks)
    while running:
        # The client takes a cancellation for a timeout while it connects.
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)


def _nobody(*_: object) -> None:
    pass


def _channel(log: UUID) -> str:
    return f"{PREFIX}{log}"


def _written(block: Block) -> bytes:
    """`first last\\nframes`; nothing for a block that is too long."""
    return b"" if len(block.frames) > MAX_MESSAGE else b"%d %d\n" % (block.first_seq, block.last_seq) + block.frames


def _read(said: bytes) -> dict[str, Any]:
    """The block as a row of the log."""
    numbers, _, frames = said.partition(b"\n")
    first, last = map(int, numbers.split())
    return {"first_seq": first, "last_seq": last, "frames": frames}
