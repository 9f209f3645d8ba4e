"""The observation log: what clients asked, when, and all that they were told. One JSON object a line.

Every line has `what`, `at` (seconds of the monotonic clock, as in the effect log) and, where it belongs to a request,
its `op`: the action's mark, and a number for each request that the action makes.

    asked      op, thread, kind, and what was asked for     before it is sent
    answered   op, status, run                              the status line and the id in content-location
    frame      op, run, id, raw                             one event of a stream
    closed     op, run, how, status                         clean, broken or vanished; the run's status right after
    result     op, run, body                                what wait or join came to
    fault      kind, began, ended, pids                     when it was over
    question   thread, interrupt                            a client saw that it is asked
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

Line = Mapping[str, Any]


class Log:
    """Appends lines to a file. A context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self._file = self._path.open("w")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, what: str, **more: Any) -> None:
        self._file.write(json.dumps({"what": what, "at": time.monotonic(), **more}) + "\n")


def read(path: Path) -> Sequence[Line]:
    """All lines of a log; of an effect log too, which is none if nothing ever wrote it."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
