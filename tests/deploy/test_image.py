"""What deploy/Dockerfile does, done here without Docker: the wheel built and installed by its steps, then served."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.dockerfile import Image, stages
from tests.support.proxy import Proxy
from tests.support.server import READY_SECONDS, ROOT, free_port
from tests.support.talk import new_thread, until, wait

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
NOT_ROOT = "10001"
KEY = {"x-api-key": "key-a"}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """All stages, played; what stands for the image's Python is a fresh environment of this one's."""
    with tempfile.TemporaryDirectory(prefix="holdfast-image-") as directory:
        root = Path(directory)
        root.chmod(0o755)
        subprocess.run([sys.executable, "-m", "venv", "--copies", root / "usr" / "local"], check=True)
        played = Image(DOCKERFILE, ROOT, root)
        for name in ("data", "tmp"):
            (root / name).mkdir()
        played.play("build", "server", "agent")
        yield played


@contextmanager
def container(image: Image, database_url: str, *, locked: bool = False) -> Iterator[httpx.Client]:
    """What the image runs, ready. `locked`: not as root, and with a root file system that cannot be written to."""
    port = free_port()
    name, *words = image.command()
    command = [f"{image.root}/opt/holdfast/bin/{name}", *words]
    if locked:
        writable = " ".join(f"{image.root}/{each}" for each in ("data", "tmp"))
        lock = f"mount -o remount,ro,bind /; for each in {writable}; do mount -t tmpfs -o mode=1777 tmpfs $each; done"
        drop = f"setpriv --reuid {NOT_ROOT} --regid {NOT_ROOT} --clear-groups --bounding-set=-all --no-new-privs"
        command = ["unshare", "--mount", "sh", "-ec", f'{lock}; exec {drop} "$@"', "sh", *command]
    given = {"PORT": str(port), "TMPDIR": f"{image.root}/tmp", "HOLDFAST_API_KEYS": "ada:key-a"}
    # Only its owner comes to the socket of the tests' Postgres.
    with Proxy(database_url) as proxy, tempfile.TemporaryFile("w+") as log:
        environment = {**image.environment, **given, "DATABASE_URL": proxy.url}
        place = image.root / "project"
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            until(lambda: process.poll() is not None or _healthcheck(port, "/ready") == 0, "it is ready", READY_SECONDS)
            log.seek(0)
            assert process.poll() is None, log.read()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=KEY, timeout=60.0) as http:
                yield http
        finally:
            process.terminate()
            process.wait(30)
        assert process.returncode == 0


def _healthcheck(port: int, path: str) -> int:
    """The image's own health check, as Docker calls it."""
    command = [sys.executable, str(ROOT / "deploy" / "healthcheck.py"), path]
    return subprocess.run(command, env={**os.environ, "PORT": str(port)}, check=False).returncode


def test_only_packages_and_users_of_the_base_image_are_not_played(image: Image) -> None:
    assert ["tini" in each and "useradd" in each for each in image.left_out] == [True]


def test_the_installed_wheel_migrates_an_empty_database_and_serves_the_agent(
    image: Image, empty_database_url: str
) -> None:
    check = [f"{image.root}/opt/holdfast/bin/holdfast", "migrate", "--check", "--database-url", empty_database_url]
    assert subprocess.run(check, cwd=image.root, check=False, capture_output=True).returncode == 1
    with container(image, empty_database_url) as http:
        question = {"messages": [{"role": "user", "content": "what is 6 * 7"}]}
        values = wait(http, new_thread(http), "agent", input=question)
        assert "42" in values["messages"][-1]["content"]
        assert http.get("/docs").status_code == 200, "the page's files are in the wheels"
    assert subprocess.run(check, cwd=image.root, check=False, capture_output=True).returncode == 0
    where = [f"{image.root}/opt/holdfast/bin/python", "-c", "import holdfast; print(holdfast.__file__)"]
    found = subprocess.run(where, cwd=image.root, check=True, capture_output=True, text=True).stdout
    assert found.startswith(f"{image.root}/opt/holdfast/lib/"), "and not of the checkout"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can mount")
def test_the_server_needs_neither_root_nor_a_root_file_system_that_it_can_write(
    image: Image, empty_database_url: str
) -> None:
    with container(image, empty_database_url, locked=True) as http:
        body = {"messages": [{"role": "user", "content": "send hello to Ada"}]}
        thread = new_thread(http)
        wait(http, thread, "agent", input=body)
        approved = wait(http, thread, "agent", command={"resume": {"decisions": [{"type": "approve"}]}})
        assert approved["messages"][-1]["type"] == "ai", "the tool wrote its outbox"


def test_the_health_check_fails_where_nobody_answers() -> None:
    assert _healthcheck(free_port(), "/ok") == 1


def test_the_image_starts_as_an_ordinary_user_and_carries_no_secret() -> None:
    last = dict(stages(DOCKERFILE.read_text())["agent"].steps)
    assert last["USER"] == "${HOLDFAST_UID}:${HOLDFAST_UID}"
    assert last["ARG"] == f"HOLDFAST_UID={NOT_ROOT}"
    assert not [word for word in DOCKERFILE.read_text().split() if "KEY=" in word or "PASSWORD=" in word]


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    if not linter.exists():
        pytest.skip("make test installs what looks at deploy/")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)
