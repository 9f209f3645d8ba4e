"""Says which code keeps the event loop from turning.

Theory of operation. Everything in a process shares one event loop: requests, runs, streams. A node that calls
`time.sleep`, or computes for a second, without a thread of its own stops all of them. A thread sends the loop a beat,
several times within the time that it may be late. While one does not come back, the thread looks twice at what the loop
is doing: the same task both times is one that blocks; different ones are a loop that has a lot to do, which the
histogram shows and which is nobody's fault in particular. Nothing is stopped: it is a warning.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from pathlib import Path
from types import FrameType
from typing import Any

from prometheus_client import Histogram
from structlog.contextvars import STRUCTLOG_KEY_PREFIX

from holdfast.telemetry.logs import config_variable, current_node

logger = logging.getLogger(__name__)

BEATS = 4
"""Beats within the time that the loop may be late; so late is found late by at most a quarter of it."""
LONGEST_SECONDS = 5.0
"""After so long the warning does not wait for the end."""

_LOOP = ("/asyncio/runners.py", "/asyncio/base_events.py", "/asyncio/events.py")
_NOT_THE_USERS = (
    *(sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]),
)
"""Where the code lies that users did not write: Python's, packages', ours."""


class LoopLag:
    """Watches one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, lag: Histogram) -> None:
        """To be made in the loop's own thread. `seconds`: how late is too late; `lag` is told how late it was."""
        self._lag = lag
        self._loop = loop
        self._loops_thread = threading.get_ident()
        self._seconds = seconds
        self._turned = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="holdfast-loop-lag", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns when the thread has ended."""
        self._stopped.set()
        self._turned.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._seconds / BEATS):
            sent = time.monotonic()
            self._turned.clear()
            if self._stopped.is_set():
                return
            self._loop.call_soon_threadsafe(self._turned.set)
            if not self._turned.wait(self._seconds / 2):
                self._look(sent)
            self._lag.observe(time.monotonic() - sent)

    def _look(self, sent: float) -> None:
        """The loop is late; wait until it turns, and say who kept it if somebody did."""
        before = self._seen()
        if self._turned.wait(self._seconds / 2):
            return
        seen = self._seen()
        if before is None or seen is None or seen.doer is not before.doer:
            self._turned.wait()
            return
        turned = self._turned.wait(LONGEST_SECONDS)
        if self._stopped.is_set():
            return
        self._warn(seen, time.monotonic() - sent, turned=turned)
        if not turned:
            self._turned.wait()
            logger.info("the event loop turns again, after %.2f s", time.monotonic() - sent)

    def _seen(self) -> _Seen | None:
        """What the loop is doing; None if it does nothing, or has just ended."""
        frame = sys._current_frames().get(self._loops_thread)
        task = asyncio.current_task(self._loop)
        if frame is None or (task is None and _is_idle(frame)):
            return None
        return _Seen(task or frame, frame, _context(task))

    def _warn(self, seen: _Seen, seconds: float, *, turned: bool) -> None:
        node, run_id = seen.ids.get("node"), seen.ids.get("run_id")
        who = f"node {node!r} of run {run_id}" if node else f"run {run_id}" if run_id else "something"
        what = "blocked the event loop for" if turned else "blocks the event loop, so far for"
        logger.warning(
            "%s %s %.2f s, in %s; everything else waits meanwhile: use async calls, or a thread (asyncio.to_thread)",
            who,
            what,
            seconds,
            seen.place,
            extra={**seen.ids, "blocked_seconds": round(seconds, 3), "stack": seen.stack},
        )


class _Seen:
    """A look at the loop's thread. `doer`: whatever has it, to be compared; its task, or a callback's frame."""

    def __init__(self, doer: object, frame: FrameType, ids: Mapping[str, Any]) -> None:
        self.doer = doer
        self.ids = ids
        frames = _below_the_loop(traceback.extract_stack(frame))
        self.stack = "".join(traceback.format_list(frames)).rstrip()
        users = [entry for entry in frames if not entry.filename.startswith(_NOT_THE_USERS)]
        nearest = (users or frames)[-1]
        self.place = f"{nearest.name} ({nearest.filename}:{nearest.lineno})"


@contextmanager
def watching(seconds: float, lag: Histogram) -> Iterator[None]:
    """Watch the running loop; with 0 seconds nothing at all."""
    if not seconds:
        yield
        return
    watch = LoopLag(asyncio.get_running_loop(), seconds, lag)
    watch.start()
    try:
        yield
    finally:
        watch.stop()


def _below_the_loop(frames: Sequence[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Without how the process got to its event loop."""
    loops = [place for place, frame in enumerate(frames) if frame.filename.endswith(_LOOP)]
    return list(frames[loops[-1] + 1 :] if loops and loops[-1] + 1 < len(frames) else frames)


def _is_idle(frame: FrameType) -> bool:
    # uvloop waits in C, below the frame of whoever runs it.
    return frame.f_code.co_filename.endswith(("/selectors.py", *_LOOP))


def _context(task: asyncio.Task[Any] | None) -> dict[str, Any]:
    """The ids of a task's context."""
    get_context = getattr(task, "get_context", None)  # from Python 3.12 on; before, the tasks of runs have it
    if get_context is None:
        return {}
    context: Context = get_context()
    ids = {
        variable.name.removeprefix(STRUCTLOG_KEY_PREFIX): value
        for variable, value in context.items()
        if variable.name.startswith(STRUCTLOG_KEY_PREFIX) and value is not Ellipsis
    }
    if (variable := config_variable()) is not None and (node := current_node(context.get(variable))) is not None:
        ids["node"] = node
    return ids
