"""Workers that start quickly, so that they can be killed a thousand times: each is forked from a process that has
imported everything before.

    python -m tests.durability.forkserver CONFIG FAULTS

reads one line for every worker that it is to start, and answers with its process id. It is forked before there is a
thread or an event loop, and runs what `holdfast worker` runs. All of them go when the standard input ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import uvloop

from tests.support.server import ROOT

READY = "ready\n"


class ForkServer:
    """The process that forks; as a context manager it is there, and all its workers are gone afterwards."""

    def __init__(
        self, *, config: Path, database_url: str, planted: str, log: Path, environment: Mapping[str, str]
    ) -> None:
        self._command = [sys.executable, "-m", "tests.durability.forkserver", str(config), planted]
        path = os.pathsep.join((str(ROOT / "server"), str(ROOT)))
        self._environment = {**os.environ, "PYTHONPATH": path, "DATABASE_URL": database_url, **environment}
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                text=True,
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == READY, self._log.read_text()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._process is not None
        self._process.communicate(timeout=30)

    def start(self) -> int:
        """The process id of a new worker, which is not ready yet."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def _serve(config: Path) -> None:
    # The kernel buries the workers at once: a zombie would seem to be alive.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    workers = []
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _work(config)
        workers.append(pid)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def _work(config: Path) -> None:
    from holdfast.app import run
    from holdfast.settings import load_settings

    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    settings = load_settings(config=config)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(settings, "worker", lambda *_: None))
    os._exit(0)


def main() -> None:
    from tests.durability.planted import plant

    config, faults = sys.argv[1:]
    sys.argv = ["holdfast"]
    plant(faults)
    _warm_up(Path(config))
    gc.freeze()
    sys.stdout.write(READY)
    sys.stdout.flush()
    _serve(Path(config))


def _warm_up(config: Path) -> None:
    """Import server and project once; the workers find them in `sys.modules`."""
    import holdfast.app  # noqa: F401 - for the workers, all of which would import it
    from holdfast.project import load_project
    from holdfast.worker.graphs import Graphs

    asyncio.run(Graphs.load(load_project(config)))


if __name__ == "__main__":
    main()
