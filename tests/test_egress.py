"""Nothing leaves the machine unless somebody configured or asked for it (invariant 11).

The server, and everything that it starts, runs in a network of its own that has nothing but loopback, and strace writes
down every address that any of its threads wants to reach: denied is not enough, there must be no attempt. Who talks to
it has to be in the same network, so this file is also what runs there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.postgres import Cluster
from tests.support.server import ROOT, Server
from tests.support.talk import new_thread, stream, wait

SECONDS = 110.0
ELSEWHERE = "93.184.215.14"
"""A public address, as the agent may be asked to fetch a page from."""
_WANTED = re.compile(r"\b(?:connect|sendto|sendmsg)\(.*?(?:inet_addr\(\"([^\"]+)\"|inet_pton\(AF_INET6, \"([^\"]+)\")")
_LOOPBACK = re.compile(r"127\.|::1$")
_CALLS_HOME = re.compile(r"LANG(SMITH|CHAIN|FUSE)|OTEL|SENTRY|OPENAI|HOLDFAST|DATABASE|.*_proxy", re.IGNORECASE)


def wanted(trace: Path) -> set[str]:
    """The addresses outside this machine in what strace has written."""
    found = (match[1] or match[2] for line in trace.read_text().splitlines() if (match := _WANTED.search(line)))
    return {address for address in found if not _LOOPBACK.match(address)}


def converse(database_url: str, trace: str, *, curious: bool) -> None:
    """A life of a server: start, chat with tools, a question and its answer, streams, metrics, stop."""
    strace = ["strace", "-D", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", trace]
    with (
        Server(config=ROOT / "langgraph.json", database_url=database_url, under=strace) as server,
        server.http(timeout=60.0) as http,
    ):
        for text in ("what is 6 * 7", "look up threads", *([f"fetch http://{ELSEWHERE}/"] if curious else [])):
            thread = new_thread(http)
            stream(http, thread, "agent", input={"messages": [{"role": "user", "content": text}]})
        asking = new_thread(http)
        wait(http, asking, "agent", input={"messages": [{"role": "user", "content": "send hello to Ada"}]})
        wait(http, asking, "agent", command={"resume": {"decisions": [{"type": "approve"}]}})
        for path in ("/info", "/metrics", "/openapi.json", "/docs"):
            http.get(path).raise_for_status()
        assert server.stop() == 0


@pytest.fixture(scope="module")
def tools() -> None:
    """strace, and the right to a network of one's own."""
    if shutil.which("strace") is None:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            pytest.skip("strace is not installed, and this is no Debian of which we are root")
        subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
        subprocess.run(["apt-get", "install", "-q", "-y", "strace"], check=True, capture_output=True)
    tried = subprocess.run(["unshare", "--net", "strace", "-D", "-o", os.devnull, "true"], check=False)
    if tried.returncode != 0:
        pytest.skip("this machine lets nobody have a network of their own, or trace programs")


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    ("curious", "reached"),
    [(False, set()), (True, {ELSEWHERE})],
    ids=["nobody asks for it", "the model fetches a page"],
)
def test_nothing_tries_to_leave_the_machine_unless(curious: bool, reached: set[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    inside = f"ip link set lo up && exec {sys.executable} -m tests.test_egress {int(curious)} {trace}"
    kept = {name: value for name, value in os.environ.items() if not _CALLS_HOME.match(name)}
    # At a socket in the file system: whatever Postgres the other tests use may be out of reach from there.
    with Cluster.embedded(tmp_path / "postgres") as cluster, cluster.database() as url:
        ours = {"TALK_TO": url, "OUTBOX_PATH": str(tmp_path / "outbox"), "PYTHONPATH": f"{ROOT}:{ROOT}/server"}
        done = subprocess.run(
            ["unshare", "--net", "sh", "-c", inside],
            cwd=ROOT,
            env=kept | ours,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sun_path" in trace.read_text(), "it was traced"
    assert wanted(trace) == reached


if __name__ == "__main__":
    converse(os.environ["TALK_TO"], sys.argv[2], curious=sys.argv[1] == "1")
