"""A worker's heartbeat in a process of its own, for `test_liveness.py`: prints what is reported to it, ends with its
standard input.

    python -m tests.db.other_worker URL WORKER_ID LEASE SESSIONS BEAT
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from uuid import UUID

from holdfast.db import liveness as module
from holdfast.db.liveness import Liveness, Reports


def say(word: str) -> None:
    print(word, flush=True)  # noqa: T201 - the pipe to the test


def main(url: str, worker_id: str, lease: str, sessions: str, beat: str) -> None:
    def dead(workers: Sequence[UUID]) -> None:
        say(f"dead {' '.join(map(str, workers))}")

    module.BEAT_SECONDS = float(beat)
    liveness = Liveness(
        url,
        worker_id=UUID(worker_id),
        lease=float(lease),
        sessions=sessions == "True",
        reports=Reports(dead=dead, lost=lambda: say("lost"), back=lambda: None),
    )
    liveness.start()
    say("started")
    sys.stdin.read()
    liveness.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
