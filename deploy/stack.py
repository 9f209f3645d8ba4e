"""`make stack`: two replicas behind nginx, watched by Prometheus, on this machine and without Docker.

    python -m deploy.stack [--port 8080]

Everything is real: `holdfast serve` twice on one Postgres (DATABASE_URL, or one of its own below .holdfast/stack), the
installed nginx with deploy/nginx.conf, the installed Prometheus with deploy/prometheus. Ctrl-C or SIGTERM ends all of
it, the replicas first, so that their runs are handed back; what dies by itself ends the rest. Figures of Prometheus go
with it, the conversations stay.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from string import Template
from types import FrameType
from typing import Any, Self

import yaml

from holdfast.db.embedded import EmbeddedPostgres
from holdfast.foundation import SPARE_CONNECTIONS
from holdfast.settings import Settings, load_settings

DEPLOY = Path(__file__).parent
REPLICAS = 2
READY_SECONDS = 90.0
STOP_SECONDS = 200.0
"""More than HOLDFAST_DRAIN_SECONDS and what comes after; a second Ctrl-C does not wait for steps in progress."""
POLL_SECONDS = 0.1
SCRAPE_SECONDS = 5
NGINX = """
daemon off;
{user}
pid nginx.pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include holdfast.conf;
}}
"""


class Failed(Exception):
    """The stack cannot be had, or a part of it has ended by itself."""


class Programs:
    """Children, each in a process group of its own, so that Ctrl-C reaches them in our order; they write to files.

    As a context manager it leaves none of them: the replicas hand their runs back while nginx passes answers on.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        replicas = [process for name, process in self._running.items() if name.startswith("replica")]
        for group in (replicas, self._running.values()):
            for process in group:
                _ask_to_stop(process)
            for process in group:
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def start(self, name: str, command: Sequence[str]) -> None:
        with self._log(name).open("w") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 - ours
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def check(self) -> None:
        """Raises `Failed` if one has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                end = self._log(name).read_text()[-2000:]
                raise Failed(f"{name} ended with status {process.returncode}:\n{end}")

    def hurry(self) -> None:
        """Tell all of them again: replicas break off the steps in progress."""
        for process in self._running.values():
            _ask_to_stop(process)

    def _log(self, name: str) -> Path:
        return self._place / f"{name}.log"


def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()


def run(port: int, say: Callable[[str], object]) -> None:
    """Start everything, say where it is, and return when it was told to stop and is gone.

    Raises:
        Failed: a program is missing, does not start, or has ended.
    """
    settings = load_settings()
    ports = [_free_port() for _ in range(REPLICAS)]
    figures = _free_port()
    with tempfile.TemporaryDirectory(prefix="holdfast-stack-") as directory, _database(settings) as url:
        place = Path(directory)
        with Programs(place) as programs:
            told = _signals(programs)
            programs.start("prometheus", _prometheus(place, ports, figures))
            programs.start("nginx", _nginx(place, ports, port))
            for number, each in enumerate(ports, 1):
                programs.start(f"replica-{number}", _replica(settings, url, each))
            places = [*((each, "/ready") for each in ports), (figures, "/-/ready"), (port, "/ok")]
            _until_ready(programs, told, places)
            if not told:
                say(_welcome(port, ports, figures))
            while not told:
                programs.check()
                time.sleep(POLL_SECONDS)


def _signals(programs: Programs) -> list[int]:
    """The signals that came, from now on."""
    told: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        told.append(number)
        if len(told) > 1:
            programs.hurry()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hear)
    return told


def _until_ready(programs: Programs, told: Sequence[int], places: Sequence[tuple[int, str]]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    waiting = list(places)
    while waiting and not told:
        programs.check()
        waiting = [place for place in waiting if not _answers(*place)]
        if time.monotonic() > deadline:
            raise Failed(f"these do not answer: {waiting}")
        time.sleep(POLL_SECONDS)


def _answers(port: int, path: str) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    if settings.database_url is not None:
        yield settings.database_url
        return
    connections = REPLICAS * (settings.pool_size + SPARE_CONNECTIONS)
    postgres = EmbeddedPostgres(settings.data_dir / "stack", connections=connections)
    try:
        yield postgres.start_sync()
    finally:
        postgres.stop_sync()


def _replica(settings: Settings, url: str, port: int) -> list[str]:
    options = {"--config": str(settings.config), "--port": str(port), "--database-url": url}
    return [sys.executable, "-P", "-m", "holdfast", "serve", *(part for option in options.items() for part in option)]


def _nginx(place: Path, ports: Sequence[int], port: int) -> list[str]:
    servers = " ".join(f"server 127.0.0.1:{each} max_fails=1 fail_timeout=2s;" for each in ports)
    given = {"HOLDFAST_SERVERS": servers, "HOLDFAST_LISTEN": f"127.0.0.1:{port}"}
    (place / "holdfast.conf").write_text(Template((DEPLOY / "nginx.conf").read_text()).safe_substitute(given))
    (place / "nginx.conf").write_text(NGINX.format(user="user root;" if os.geteuid() == 0 else ""))
    return [_installed("nginx"), "-p", str(place), "-c", str(place / "nginx.conf")]


def _prometheus(place: Path, ports: Sequence[int], port: int) -> list[str]:
    """The shipped configuration and rules, with our replicas as targets and nobody to send alerts to."""
    target = place / "prometheus"
    shutil.copytree(DEPLOY / "prometheus", target)
    file = target / "prometheus.yml"
    shipped: dict[str, Any] = yaml.safe_load(file.read_text())
    shipped.pop("alerting", None)
    shipped["global"] = {**shipped.get("global", {}), "scrape_interval": f"{SCRAPE_SECONDS}s"}
    targets = [f"127.0.0.1:{each}" for each in ports]
    own = next(job for job in shipped["scrape_configs"] if job["job_name"] == "holdfast")
    kept = {name: value for name, value in own.items() if not name.endswith("_configs") or "relabel" in name}
    kept["scrape_interval"] = f"{SCRAPE_SECONDS}s"
    shipped["scrape_configs"] = [{**kept, "static_configs": [{"targets": targets}]}]
    file.write_text(yaml.safe_dump(shipped))
    options = ["--config.file", str(file), "--storage.tsdb.path", str(place / "figures")]
    return [_installed("prometheus"), *options, "--web.listen-address", f"127.0.0.1:{port}"]


def _installed(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise Failed(f"{name} is not installed: apt-get install {name}")
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _welcome(port: int, ports: Sequence[int], prometheus: int) -> str:
    replicas = ", ".join(f"http://127.0.0.1:{each}" for each in ports)
    lines = [
        "The stack is ready",
        "",
        f"  API         http://127.0.0.1:{port}  (nginx)",
        f"  Replicas    {replicas}",
        f"  Prometheus  http://127.0.0.1:{prometheus}",
        "",
        "Ctrl-C ends all of it.",
    ]
    return "\n".join(lines)


def main() -> None:
    words = argparse.ArgumentParser(prog="make stack", description=(__doc__ or "").partition("\n")[0])
    words.add_argument("--port", type=int, default=8080, help="where nginx listens; 0 picks one")
    port = words.parse_args().port or _free_port()
    try:
        run(port, lambda text: sys.stdout.write(f"{text}\n") and sys.stdout.flush())
    except Failed as failed:
        raise SystemExit(f"make stack: {failed}") from None


if __name__ == "__main__":
    main()
