"""`holdfast serve` (or `api`, `worker`) as a subprocess."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from bench import machine

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60.0
STOP_SECONDS = 30.0


class Elsewhere:
    """A server that runs already, and how tests talk to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.port = httpx.URL(url).port or 80

    def client(self, **headers: str) -> LangGraphClient:
        return get_client(url=self.url, headers=headers)

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, **options)


class Server(Elsewhere):
    """One process of Holdfast, or a supervisor with its `processes`.

    As a context manager it is started, ready, and gone afterwards.
    """

    def __init__(
        self,
        *,
        config: Path,
        database_url: str | None = None,
        data_dir: Path | None = None,
        part: str = "serve",
        port: int | None = None,
        processes: int = 1,
        planted: str = "",
        tree: Path = ROOT,
        under: Sequence[str] = (),
        **environment: str,
    ) -> None:
        """`planted`: faults of `tests/durability/planted.py` that this server is to have; `tree`: where its code is;
        `under`: a program that starts it and stands aside (strace -D)."""
        super().__init__(f"http://127.0.0.1:{port or free_port()}")
        self.part = part
        program = ["tests.durability.planted", planted] if planted else ["holdfast"]
        self._command = [*under, sys.executable, "-m", *program, part, "--config", str(config)]
        if part != "worker":
            self._command += ["--port", str(self.port)]
        if database_url:
            self._command += ["--database-url", database_url]
        if processes > 1:
            self._command += ["--processes", str(processes)]
        if data_dir:
            self._command += ["--data-dir", str(data_dir)]
        # Beside the tests lies a directory named `server`, which no project should find.
        path = [str(tree / "server"), *([str(ROOT)] if planted else [])]
        around = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
        readable = {"LOG_FORMAT": "console"}
        self._environment = {**around, **readable, "PYTHONPATH": os.pathsep.join(path), **environment}
        if not database_url:
            # A data directory asks for the embedded Postgres, whatever this machine offers.
            self._environment.pop("DATABASE_URL", None)
        self._log = tempfile.NamedTemporaryFile("w+", prefix=f"holdfast-{part}-", suffix=".log")  # noqa: SIM115
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._log.close()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()
        self._log.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def siblings(self) -> set[int]:
        """The pids of the processes that a supervisor has."""
        return {pid for pid in machine.tree(self.pid) if b"\0sibling\0" in _command_line(pid)}

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the process wrote so far."""
        return Path(self._log.name).read_text()

    def start(self) -> None:
        """Start and wait until the process is ready."""
        before = len(self.log)
        self._process = subprocess.Popen(
            self._command, stdout=self._log, stderr=subprocess.STDOUT, env=self._environment, text=True
        )
        deadline = time.monotonic() + READY_SECONDS
        while "Holdfast is ready" not in self.log[before:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.part} did not start:\n{self.log}")
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM, then wait; the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for the process to end, killing it if it takes too long; the exit status."""
        assert self._process is not None
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return int(self._process.returncode)


def refusal_to_start(config: Path, database_url: str | None = None, **environment: str) -> str:
    """What `holdfast serve` says where it must not start: one line."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    command = [sys.executable, "-m", "holdfast", "serve", "--config", str(config), "--port", "0"]
    ended = subprocess.run(
        [*command, *(["--database-url", database_url] if database_url else [])],
        env={**kept, "PYTHONPATH": str(ROOT / "server"), "LOG_FORMAT": "console", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=READY_SECONDS,
        check=False,
    )
    assert ended.returncode != 0
    lines = ended.stdout.strip().splitlines()
    assert "Traceback (most recent call last):" not in lines
    return lines[-1]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def with_sections(project: Path, place: Path, **sections: Any) -> Path:
    """A langgraph.json in `place`: the graphs of `project`, with these sections."""
    document = json.loads(project.read_text())
    graphs = {name: spec["path"] if isinstance(spec, dict) else spec for name, spec in document["graphs"].items()}
    targets = {name: str((project.parent / target).resolve()) for name, target in graphs.items()}
    config = place / "langgraph.json"
    config.write_text(json.dumps({"dependencies": [], "graphs": targets, **sections}))
    return config
