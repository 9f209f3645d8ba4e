"""The bell: processes wake each other through LISTEN/NOTIFY.

A ring says "look", never "this happened": every listener looks into the tables, and polls slowly in case a ring was
lost. Rings of one process are gathered for a moment and go out as one, outside of all transactions (NOTIFY serialises
the commits that contain it). Behind a transaction pooler there is no LISTEN; then
polling is all there is.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextvars import Context
from typing import Literal

import psycopg
from psycopg import AsyncConnection

from holdfast.db.pool import Database
from holdfast.errors import DatabaseError

logger = logging.getLogger(__name__)

Tone = Literal["run", "cancel", "events"]
"""A run is waiting; a run shall stop; a run's event log has grown or ended."""

Listener = Callable[[str | None], None]
"""Gets what the ring was about, or None after a gap in which rings may have been lost."""

CHANNEL = "holdfast"
MAX_PAYLOAD = 7900
RECONNECT_SECONDS = 0.2
LISTENING_POLL_SECONDS = 5.0
DEAF_POLL_SECONDS = 0.25
GATHER_SECONDS = 0.005


class Bell:
    """One LISTEN connection per process, and the way to ring."""

    def __init__(self, database: Database, listen_url: str | None) -> None:
        self._database = database
        self._listen_url = listen_url
        self._listeners: dict[str, list[Listener]] = {}
        self._me = os.urandom(6).hex()
        self._waiting: dict[str, None] = {}
        self._ringing: asyncio.Task[None] | None = None
        self._listening = False

    @property
    def poll_seconds(self) -> float:
        """How long a listener may sleep before it looks by itself."""
        return LISTENING_POLL_SECONDS if self._listening else DEAF_POLL_SECONDS

    def on(self, tone: Tone, listener: Listener) -> None:
        self._listeners.setdefault(tone, []).append(listener)

    def ring(self, tone: Tone, about: object = "") -> None:
        """Wake the other processes; returns at once. This process's own listeners are not called."""
        self._waiting[f"{tone}:{about}"] = None
        if self._ringing is None or self._ringing.done():
            # A context of its own: it rings for everybody, not for the request that happened to come first.
            self._ringing = Context().run(asyncio.create_task, self._send(), name="bell-ring")

    async def listen(self) -> None:
        """Listen until cancelled; ends at once where there is no place to listen."""
        if self._listen_url is None:
            return
        while True:
            try:
                await self._listen_once(self._listen_url)
            except psycopg.Error as error:
                logger.warning("the bell's connection was lost: %s", error)
            finally:
                self._listening = False
            await asyncio.sleep(RECONNECT_SECONDS)

    async def close(self) -> None:
        """Let the last rings out."""
        if self._ringing is not None:
            await asyncio.wait([self._ringing], timeout=1.0)

    async def _listen_once(self, url: str) -> None:
        async with await AsyncConnection.connect(
            url, autocommit=True, connect_timeout=5, application_name="holdfast bell"
        ) as conn:
            await conn.execute(f"LISTEN {CHANNEL}")
            self._listening = True
            for tone in self._listeners:
                self._deliver(tone, None)
            async for notify in conn.notifies():
                sender, _, rings = notify.payload.partition("\n")
                if sender != self._me:
                    self._hear(rings)

    def _hear(self, rings: str) -> None:
        for ring in rings.split("\n"):
            tone, _, about = ring.partition(":")
            self._deliver(tone, about)

    def _deliver(self, tone: str, about: str | None) -> None:
        for listener in self._listeners.get(tone, ()):
            listener(about)

    async def _send(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_SECONDS)
            payload = self._take()
            try:
                async with self._database.connection("worker") as conn:
                    await conn.execute("SELECT pg_notify(%s, %s)", [CHANNEL, payload])
            except DatabaseError as error:
                logger.warning("could not ring: %s (listeners poll)", error)

    def _take(self) -> str:
        payload = self._me
        for ring in list(self._waiting):
            if len(payload) + len(ring) >= MAX_PAYLOAD:
                break
            payload += f"\n{ring}"
            del self._waiting[ring]
        return payload
