"""The servers that are measured, each a process group of its own.

Between its turns a server is stopped (SIGSTOP), so that it cannot use the CPU of the one whose turn it is.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from bench import peers
from bench.peers import PLACE, ROOT, Unavailable

PROJECT = ROOT / "bench" / "project"
READY_SECONDS = 90.0
STOP_SECONDS = 8.0
TWO_PROCESSES = "holdfast-2"
"""The same tree as `serve --processes 2`; only the scenario `processes` plays it."""
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Launch:
    """How a server is started: its command line and what it finds in its environment."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    place: Path = ROOT


class Server:
    """A server process; `url` answers once `start` has returned. `database` is None where it keeps none of ours."""

    def __init__(self, name: str, launch: Launch, *, port: int, database: str | None, log: Path) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self.database = database
        self.launch = launch
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Start it; the seconds from there to its first answer.

        Raises:
            Unavailable: it ended, or did not answer in time.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "DATABASE_"))}
        kept.pop("OPENAI_API_KEY", None)
        began = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.launch.command,
                cwd=self.launch.place,
                env=kept | self.launch.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not self._answers():
            if self._process.poll() is not None or time.perf_counter() - began > READY_SECONDS:
                self.stop()
                raise Unavailable(f"{self.name} did not start: see {self._log}")
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - began

    def freeze(self) -> None:
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it: asked first, and not for long, as a server may want to finish its runs."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self.pid, number)
                self.thaw()
                try:
                    self._process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        self._process = None

    def _answers(self) -> bool:
        """Whether it says anything at all: not every server knows `/ok`."""
        try:
            with urlopen(f"{self.url}/ok", timeout=5):
                return True
        except HTTPError as refusal:
            return refusal.code < 500
        except OSError:
            return False


def _holdfast(port: int, place: Path, database: str | None, *, processes: int = 1) -> Launch:
    """This tree; without a database it runs its own Postgres under `place`."""
    command = [sys.executable, "-m", "holdfast", "serve", "--port", str(port)]
    command += ["--config", str(PROJECT / "holdfast.json")]
    command += ["--database-url", database] if database else ["--data-dir", str(place / "data")]
    command += ["--processes", str(processes)] if processes > 1 else []
    return Launch(command, {"PYTHONPATH": str(ROOT / "server")})


def _silent(port: int, place: Path, database: str | None) -> Launch:
    """This tree, with all that can be switched off of what it tells."""
    launch = _holdfast(port, place, database)
    off = {"LOG_LEVEL": "error", "LOG_ACCESS": "false", "LOOP_LAG_SECONDS": "0"}
    return replace(launch, environment=launch.environment | off)


def _traced(port: int, place: Path, database: str | None, *, kind: str) -> Launch:
    """This tree, with a tracer on."""
    launch = _holdfast(port, place, database)
    path = f"{launch.environment['PYTHONPATH']}{os.pathsep}{ROOT}"
    return Launch([sys.executable, "-m", "bench.sink", kind, *launch.command], {"PYTHONPATH": path})


def _handrolled(port: int, _: Path, database: str | None) -> Launch:
    command = [sys.executable, "-m", "uvicorn", "bench.handrolled:app", "--port", str(port)]
    return Launch(command, {"DATABASE_URL": str(database), "PYTHONPATH": str(ROOT)})


def _official(port: int, place: Path, _: str | None) -> Launch:
    found = peers.environment(peers.OFFICIAL) / "bin"
    command = [str(found / "langgraph"), "dev", "--no-browser", "--no-reload", "--allow-blocking"]
    path = f"{found}{os.pathsep}{os.environ.get('PATH', '')}"
    return Launch([*command, "--host", "127.0.0.1", "--port", str(port)], {"PATH": path}, _project_in(place))


def _aegra(port: int, place: Path, database: str | None) -> Launch:
    found = peers.environment(peers.AEGRA) / "bin" / "python"
    environment = {"DATABASE_URL": str(database), "AEGRA_CONFIG": "langgraph.json"}
    return Launch(
        [str(found), "-m", "uvicorn", "aegra_api.main:app", "--port", str(port)], environment, _project_in(place)
    )


def _project_in(place: Path) -> Path:
    """A copy of the project: these servers keep files beside it."""
    return Path(shutil.copytree(PROJECT, place / "project", dirs_exist_ok=True))


LAUNCHES: dict[str, Callable[[int, Path, str | None], Launch]] = {
    "holdfast": _holdfast,
    TWO_PROCESSES: partial(_holdfast, processes=2),
    "holdfast-silent": _silent,
    "holdfast-langfuse": partial(_traced, kind="langfuse"),
    "holdfast-hole": partial(_traced, kind="hole"),
    "holdfast-otlp": partial(_traced, kind="otlp"),
    "handrolled": _handrolled,
    "official": _official,
    "aegra": _aegra,
}
WITHOUT_DATABASE = frozenset({"official"})


def server(name: str, place: Path, database: str | None) -> Server:
    """A server of the benchmark's project, not started; it keeps its files in `place`.

    Raises:
        Unavailable: it cannot be had here.
    """
    place.mkdir(parents=True, exist_ok=True)
    (logs := PLACE / "logs").mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    launch = LAUNCHES[name](port, place, database)
    return Server(name, launch, port=port, database=database, log=logs / f"{place.name}.log")
