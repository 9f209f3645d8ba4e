"""What threads take up, measured little by little in the background.

A round goes through all threads in the order of their ids, some at a time, and rests fifty times as long as each
look took: it costs two percent of one connection, however many threads there are. What it found is published when it is
complete. Several processes that measure at once would find the same, so who sees a fresh report rests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from uuid import UUID

from holdfast.db.metrics import Sizes
from holdfast.errors import DatabaseError
from holdfast.rules.storage import StorageTally

logger = logging.getLogger(__name__)

BATCH = 50
REST = 50.0
"""Times as long as a look took."""
ROUND_SECONDS = 60.0
"""A report is fresh for so long."""

FIRST = UUID(int=0)


async def measure_threads(sizes: Sizes) -> None:
    """Go round until cancelled."""
    while True:
        try:
            age = await sizes.age()
            if age is None or age >= ROUND_SECONDS:
                await sizes.publish((await _round(sizes)).report)
                age = 0.0
        except DatabaseError as error:
            logger.warning("threads are measured later: %s", error)
            age = 0.0
        await asyncio.sleep(ROUND_SECONDS - age)


async def _round(sizes: Sizes) -> StorageTally:
    tally, after = StorageTally(), FIRST
    while True:
        began = time.monotonic()
        measured = await sizes.measure(after=after, limit=BATCH)
        for thread_id, size in measured:
            tally.add(thread_id, size)
        if len(measured) < BATCH:
            return tally
        after = measured[-1][0]
        await asyncio.sleep(REST * (time.monotonic() - began))
