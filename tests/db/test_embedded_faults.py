"""The embedded Postgres when something is in its way: bad data, killed tools, death, takeover."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

import psycopg
import pytest

from holdfast.db import cluster as cluster_module
from holdfast.db import postmaster as postmaster_module
from holdfast.db.cluster import OwnerLock, bound_log, marker_for
from holdfast.db.embedded import EmbeddedPostgres
from holdfast.errors import DatabaseUnavailable
from tests.db.clusters import (
    Spawn,
    answers,
    as_root,
    has_another_postmaster,
    pids_of,
    postmaster_of,
    remember,
    remembered,
    until,
)


def test_an_interrupt_at_the_terminal_does_not_reach_postgres(spawn: Spawn, data_dir: Path) -> None:
    owner = spawn(
        data_dir, before="signal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))", PGPORT="1"
    )
    url, _ = owner.started()
    with psycopg.connect(url) as connection:
        os.killpg(owner.pid, signal.SIGINT)
        assert owner.read() == "interrupted"
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert os.getsid(postmaster_of(data_dir)) != owner.pid
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
