"""What threads take up: the figures that a round of measuring adds up."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any

BOUNDS = tuple(4**power * 1024 for power in range(1, 11))
"""Bytes: 4 KiB, 16 KiB, ... 1 GiB."""

LARGEST = 10


@dataclass(slots=True)
class StorageTally:
    """Threads by size, and the largest of them."""

    threads: int = 0
    bytes: int = 0
    up_to: dict[int, int] = field(default_factory=lambda: dict.fromkeys(BOUNDS, 0))
    """How many threads have at most so many bytes; who has more than the last bound is only in `threads`."""
    largest: list[tuple[int, str]] = field(default_factory=list)

    def add(self, thread_id: object, size: int) -> None:
        self.threads += 1
        self.bytes += size
        for bound in BOUNDS:
            self.up_to[bound] += size <= bound
        self.largest = nlargest(LARGEST, [*self.largest, (size, str(thread_id))])

    @property
    def report(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "bytes": self.bytes,
            "threads_up_to_bytes": {str(bound): count for bound, count in self.up_to.items()},
            "largest": [{"thread_id": thread_id, "bytes": size} for size, thread_id in self.largest],
        }
