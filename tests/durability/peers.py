"""Other servers of the same API, to which some goals can be put as well: what the field does with the same questions.

    python -m tests.durability R4 R5 R14 --peer "langgraph dev --config {config} --port {port} --no-browser --no-reload"

A peer gets the same project, under its own interpreter, the log of effects and, where its command line says so with
`{database}`, a database. It is ready when it answers.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from tests.support.server import READY_SECONDS, ROOT, Server, free_port


class Peer(Server):
    """A command line, with `{config}`, `{port}` and perhaps `{database}` in it, as a server."""

    def __init__(self, command: str, *, config: Path, database_url: str, **environment: str) -> None:
        port = free_port()
        super().__init__(config=config, port=port)
        # Peers read paths from where they are started and keep their files there: each trial has its own place.
        self._place = tempfile.TemporaryDirectory(prefix="holdfast-peer-", ignore_cleanup_errors=True)
        shutil.copytree(config.parent, self._place.name, dirs_exist_ok=True)
        self._command = shlex.split(command.format(config=config.name, port=port, database=database_url))
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=self._place.name,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the peer did not start:\n{self.log}")
            time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        # What it started goes with it.
        os.killpg(self.pid, number)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ok").status_code < 500
        except httpx.TransportError:
            return False
