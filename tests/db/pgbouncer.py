"""A PgBouncer in transaction mode before the test session's Postgres."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tests.support.server import free_port

READY_SECONDS = 10.0
NOBODY = 65534


def binary() -> str | None:
    """Where PgBouncer is, if it is installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def pgbouncer(database_url: str, *, server_connections: int = 5) -> Iterator[str]:
    """The URL of the same database through PgBouncer; few server connections, so that clients really share them."""
    target = conninfo_to_dict(database_url)
    port = free_port()
    server = " ".join(
        f"{key}={target[key]}" for key in ("host", "port", "user", "password", "dbname") if target.get(key)
    )
    config = f"""
[databases]
{target["dbname"]} = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {server_connections}
max_client_conn = 200
server_login_retry = 0.5
"""
    with tempfile.TemporaryDirectory() as directory:
        process = _started(config, Path(directory), Path(str(target["host"])))
        try:
            _await_listening(port, process)
            yield f"postgresql://{target['user']}@127.0.0.1:{port}/{target['dbname']}"
        finally:
            process.terminate()
            process.wait(10)


def _started(config: str, directory: Path, socket_dir: Path) -> subprocess.Popen[bytes]:
    """PgBouncer does not run as root; it becomes the one who may open the server's socket."""
    file = directory / "pgbouncer.ini"
    file.write_text(config)
    command = [str(binary()), "-q", str(file)]
    if os.geteuid() != 0:
        return subprocess.Popen(command)
    owner = (socket_dir if socket_dir.is_dir() else Path("/proc/self")).stat()
    user = owner.st_uid or NOBODY
    os.chown(directory, user, -1)
    os.chown(file, user, -1)
    return subprocess.Popen(command, user=user, group=owner.st_gid or NOBODY, extra_groups=[])


def _await_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        assert process.poll() is None, "pgbouncer did not start"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return
