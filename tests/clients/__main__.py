"""`make clients`: the JavaScript clients, unmodified, against a running server.

Starts a Postgres and a server with the tests' project, then Node's own test runner: every method of both SDK lines,
and `useStream` in a headless Chromium. A test may kill the server; it is started again, as a supervisor would.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server

HERE = Path(__file__).parent
PAUSE = 0.1


def main() -> int:
    """The exit status of the Node tests; arguments name test files, all by default."""
    files = sys.argv[1:] or sorted(path.name for path in HERE.glob("*.test.mjs"))
    with (
        tempfile.TemporaryDirectory() as directory,
        Cluster.embedded(Path(directory)) as cluster,
        cluster.database() as url,
        Server(database_url=url, config=PROJECT) as server,
    ):
        pid_file = Path(directory) / "server.pid"
        environment = {**os.environ, "BASE_URL": server.url, "SERVER_PID_FILE": str(pid_file)}
        command = ["node", "--test", "--test-concurrency=1", "--test-reporter=spec", *files]
        pid_file.write_text(str(server.pid))
        tests = subprocess.Popen(command, cwd=HERE, env=environment)
        while tests.poll() is None:
            if not server.is_up:
                server.start()
                pid_file.write_text(str(server.pid))
            time.sleep(PAUSE)
        if tests.returncode:
            sys.stderr.write(server.log[-4000:])
        return tests.returncode


if __name__ == "__main__":
    raise SystemExit(main())
