"""Reading the effect log that the graphs of `project/` write."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a step; times in seconds of the monotonic clock."""

    id: str
    call: str
    key: str
    pid: int
    started: float
    finished: float | None


@dataclass(frozen=True, slots=True)
class EffectLog:
    """The file, read anew with every question."""

    path: Path

    def of(self, thread: str) -> list[Execution]:
        """The thread's executions in the order in which they started."""
        return self.by_thread().get(thread, [])

    def by_thread(self) -> dict[str, list[Execution]]:
        """All executions, by thread, in the order in which they started."""
        written = self.path.read_text() if self.path.exists() else ""
        # The last line may be half there: somebody is writing it.
        entries = [json.loads(line) for line in written[: written.rfind("\n") + 1].splitlines()]
        finished = {entry["execution"]: entry["at"] for entry in entries if entry["event"] == "finished"}
        found: dict[str, list[Execution]] = defaultdict(list)
        for entry in entries:
            if entry["event"] == "started":
                at = finished.get(entry["execution"])
                found[entry["thread"]].append(
                    Execution(entry["execution"], entry["call"], entry["key"], entry["pid"], entry["at"], at)
                )
        return found


def starts_per_key(executions: list[Execution]) -> dict[str, int]:
    """How often each effect was started."""
    keys = [execution.key for execution in executions]
    return {key: keys.count(key) for key in keys}
