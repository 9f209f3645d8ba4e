"""What the machine says: CPU and memory of whole process trees, and how noisy it is just now."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from bench.figures import Figures

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LOOPS = 300_000
SYNCS = 8
SYNC_BYTES = 8192


def tree(root: int) -> list[int]:
    """A process and everything below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> float:
    """CPU of a process tree since it began; what ended meanwhile is counted with its parent."""
    known = (_stat(pid) for pid in tree(root))
    return sum(sum(int(ticks) for ticks in fields[11:15]) for fields in known if fields) / TICKS


def rss_mb(root: int) -> float:
    """Resident memory of a process tree; pages that its processes share are counted for each."""
    known = (_stat(pid) for pid in tree(root))
    return sum(int(fields[21]) for fields in known if fields) * PAGE_BYTES / 2**20


def own_cpu_seconds(pid: int) -> float:
    """CPU of one process."""
    return sum(int(ticks) for ticks in _stat(pid)[11:13]) / TICKS


def own_rss_mb(pid: int) -> float:
    """Resident memory of one process."""
    return int(_stat(pid)[21]) * PAGE_BYTES / 2**20


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on; none of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def noise(place: Path) -> Figures:
    """How long a fixed loop takes, and an fdatasync of 8 kB in `place`; the best of two, the median of eight."""
    loops = []
    for _ in range(2):
        began = time.perf_counter()
        for _ in range(LOOPS):
            pass
        loops.append(time.perf_counter() - began)
    return {"loop_ms": 1000 * min(loops), "fdatasync_ms": 1000 * _sync_seconds(place)}


def _sync_seconds(place: Path) -> float:
    taken = []
    path = place / "noise"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for number in range(SYNCS):
            began = time.perf_counter()
            os.pwrite(descriptor, b"x" * SYNC_BYTES, number * SYNC_BYTES)
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()
    return sorted(taken)[SYNCS // 2]


def description() -> dict[str, str]:
    """What the figures were taken on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES / 2**30
    processor = model[0].partition(": ")[2] if model else platform.machine()
    return {
        "machine": f"{os.cpu_count()} x {processor}, {memory:.0f} GB",
        "system": platform.platform(),
        "python": platform.python_version(),
    }
