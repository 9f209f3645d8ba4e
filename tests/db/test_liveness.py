"""Who is dead is seen soon, and nobody who lives is buried."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from holdfast.db import liveness
from holdfast.db.liveness import Liveness, Reports

ROOT = Path(__file__).parents[2]
LEASE = 1.0
BEAT = 0.1
"""Five times as fast as in earnest, so that these tests wait less."""


class Watcher:
    """A heartbeat in this process, and what it reported."""

    def __init__(self, url: str, *, lease: float = LEASE, sessions: bool = True) -> None:
        self.worker_id = uuid4()
        self.dead: list[tuple[float, UUID]] = []
        self.lost = 0
        self.started_at = time.monotonic()
        self.liveness = Liveness(
            url,
            worker_id=self.worker_id,
            lease=lease,
            sessions=sessions,
            reports=Reports(dead=self._note, lost=self._count, back=lambda: None),
        )

    def _note(self, dead: Any) -> None:
        self.dead += [(time.monotonic(), worker_id) for worker_id in dead]

    def _count(self) -> None:
        self.lost += 1

    def buried(self, worker_id: UUID) -> bool:
        return any(worker_id == dead for _, dead in self.dead)


class Other:
    """A heartbeat in another process."""

    def __init__(self, url: str, lease: float, *, sessions: bool) -> None:
        self.worker_id = uuid4()
        self.said: list[str] = []
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'server'}"}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.db.other_worker",
                url,
                str(self.worker_id),
                str(lease),
                str(sessions),
                str(BEAT),
            ],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(10)
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.strip())


class Scene:
    """A database, its workers, and a connection to look and meddle."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._closing: list[Callable[[], None]] = []

    def watcher(self, **given: Any) -> Watcher:
        watcher = Watcher(self.url, **given)
        watcher.liveness.start()
        self._closing.append(watcher.liveness.stop)
        return watcher

    def other(self, *, lease: float = LEASE, sessions: bool = True) -> Other:
        other = Other(self.url, lease, sessions=sessions)
        self._closing.append(other.close)
        until(lambda: "started" in other.said)
        return other

    def close(self) -> None:
        for close in reversed(self._closing):
            close()

    def sql(self, statement: str, *params: Any) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as conn:
            cursor = conn.execute(statement, params)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def workers(self) -> set[UUID]:
        return {row[0] for row in self.sql("SELECT worker_id FROM holdfast.workers")}

    def session_locks(self) -> int:
        """Advisory locks held in this database; the cluster may serve others."""
        return len(
            self.sql(
                "SELECT 1 FROM pg_locks JOIN pg_database d ON d.oid = database"
                " WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND datname = current_database()"
            )
        )

    def cut_heartbeats(self) -> int:
        return len(
            self.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'holdfast liveness'"
            )
        )

    def longest_silence(self) -> float:
        """Seconds since the worker was seen that was seen longest ago."""
        ((seconds,),) = self.sql("SELECT extract(epoch FROM now() - min(seen_at))::float FROM holdfast.workers")
        return float(seconds)

    def seen(self, worker_id: UUID) -> Any:
        ((seen_at,),) = self.sql("SELECT seen_at FROM holdfast.workers WHERE worker_id = %s", worker_id)
        return seen_at

    def beats(self, *workers: UUID, times: int = 2) -> None:
        """Until each of them has been seen anew this many times."""
        for _ in range(times):
            before = {worker_id: self.seen(worker_id) for worker_id in workers}
            until(lambda before=before: all(self.seen(worker_id) > at for worker_id, at in before.items()))

    def stranger(self, *, host: str = "elsewhere", pid: int = 1, lease: str = "1 hour", has_lock: bool = False) -> UUID:
        """A row of a worker that has no process here."""
        worker_id = uuid4()
        self.sql(
            "INSERT INTO holdfast.workers (worker_id, host, pid, lock_key, has_lock, started_at, seen_at, lease_until)"
            " VALUES (%s, %s, %s, 7, %s, now(), now(), now() + %s::interval)",
            worker_id,
            host,
            pid,
            has_lock,
            lease,
        )
        return worker_id

    def here(self) -> str:
        ((host,),) = self.sql("SELECT host FROM holdfast.workers LIMIT 1")
        return str(host)


def until(holds: Callable[[], Any], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


@pytest.fixture
def scene(clean_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", BEAT)
    scene = Scene(clean_url)
    yield scene
    scene.close()


def test_a_worker_is_registered_when_it_has_started_and_gone_when_it_has_stopped(scene: Scene) -> None:
    watcher = Watcher(scene.url)
    watcher.liveness.start()
    assert scene.workers() == {watcher.worker_id}
    scene.beats(watcher.worker_id)
    with within(2):
        watcher.liveness.stop()
    assert scene.workers() == set()
    assert (watcher.dead, watcher.lost) == ([], 0)


def test_a_worker_that_cannot_register_says_so() -> None:
    watcher = Watcher("postgresql://127.0.0.1:1/nothing")
    with pytest.raises(TimeoutError, match="could not register"):
        watcher.liveness.start(timeout=0.3)


@pytest.mark.parametrize("sessions", [True, False])
def test_a_worker_that_leaves_is_not_dead(scene: Scene, sessions: bool) -> None:
    watcher = scene.watcher(sessions=sessions)
    other = scene.other(sessions=sessions)
    scene.beats(watcher.worker_id)
    other.leave()
    assert scene.workers() == {watcher.worker_id}
    scene.beats(watcher.worker_id)
    assert watcher.dead == []
    assert other.said == ["started"]


def test_a_killed_process_on_this_host_is_dead_at_once(scene: Scene) -> None:
    watcher, other = scene.watcher(lease=60), scene.other(lease=60)
    other.process.kill()
    other.process.wait()
    with within(1.5):
        until(lambda: watcher.buried(other.worker_id))


def test_the_dead_are_reported_until_their_runs_were_taken_over(scene: Scene) -> None:
    watcher = scene.watcher()
    dead = scene.stranger(host=scene.here(), pid=2**22 - 1)
    until(lambda: len(watcher.dead) >= 2)
    scene.sql("DELETE FROM holdfast.workers WHERE worker_id = %s", dead)
    scene.beats(watcher.worker_id)
    reported = len(watcher.dead)
    scene.beats(watcher.worker_id)
    assert len(watcher.dead) == reported


def test_an_earlier_process_with_our_own_process_id_is_dead_at_once(scene: Scene) -> None:
    watcher = scene.watcher(lease=60)
    dead = scene.stranger(host=scene.here(), pid=os.getpid())
    with within(1.5):
        until(lambda: watcher.buried(dead))


def test_a_process_id_of_another_host_says_nothing(scene: Scene) -> None:
    watcher = scene.watcher()
    living = scene.stranger(pid=2**22 - 1)
    scene.beats(watcher.worker_id, times=3)
    assert not watcher.buried(living)


def test_a_free_session_lock_is_death_once_the_worker_is_overdue(scene: Scene) -> None:
    scene.sql(
        "SELECT 1 WHERE pg_sleep(greatest(0, 3.2 - extract(epoch FROM now() - pg_postmaster_start_time()))) IS NULL"
    )
    watcher = scene.watcher(lease=60)
    dead = scene.stranger(has_lock=True)
    inserted = time.monotonic()
    until(lambda: watcher.buried(dead), seconds=4)
    assert watcher.dead[0][0] - inserted > 0.9


def test_a_lease_that_is_over_counts_after_a_whole_lease_of_watching(scene: Scene) -> None:
    dead = scene.stranger(lease="-1 second")
    watcher = scene.watcher(lease=1.2)
    until(lambda: watcher.buried(dead), seconds=5)
    assert watcher.dead[0][0] - watcher.started_at > 1.2


def test_a_frozen_worker_is_dead_when_its_lease_is_over_and_learns_it_when_it_wakes(scene: Scene) -> None:
    watcher, other = scene.watcher(), scene.other()
    other.process.send_signal(signal.SIGSTOP)
    until(lambda: watcher.buried(other.worker_id), seconds=5)
    scene.sql("DELETE FROM holdfast.workers WHERE worker_id = %s", other.worker_id)
    other.process.send_signal(signal.SIGCONT)
    until(lambda: "lost" in other.said)
    assert scene.workers() == {watcher.worker_id, other.worker_id}


def test_a_worker_whose_row_was_deleted_is_told_and_registers_again(scene: Scene) -> None:
    watcher = scene.watcher()
    scene.sql("DELETE FROM holdfast.workers")
    with within(2):
        until(lambda: watcher.lost == 1)
    assert scene.workers() == {watcher.worker_id}
    scene.beats(watcher.worker_id)
    assert watcher.lost == 1


def test_a_worker_that_was_judged_while_it_was_cut_off_is_told(scene: Scene) -> None:
    watcher = scene.watcher()
    with psycopg.connect(scene.url) as conn:
        conn.execute("DELETE FROM holdfast.workers")
        # Its row is gone when this commits, and so is its connection; it cannot have noticed in between.
        scene.cut_heartbeats()
        conn.commit()
    until(lambda: watcher.lost == 1, seconds=3)
    assert scene.workers() == {watcher.worker_id}


def test_a_cut_connection_is_made_again_within_a_moment(scene: Scene) -> None:
    watcher = scene.watcher()
    scene.beats(watcher.worker_id)
    assert scene.cut_heartbeats() == 1
    with within(1.5):
        scene.beats(watcher.worker_id, times=1)
    assert watcher.lost == 0
    assert scene.session_locks() == 1


def test_a_storm_of_cut_connections_buries_nobody(scene: Scene) -> None:
    scene.sql(
        "SELECT 1 WHERE pg_sleep(greatest(0, 3.2 - extract(epoch FROM now() - pg_postmaster_start_time()))) IS NULL"
    )
    watcher, other = scene.watcher(lease=2), scene.other(lease=2)
    storm_ends, cuts = time.monotonic() + 3, 0
    while time.monotonic() < storm_ends:
        # Who has not got through for half a second is let through once: who is later than the lock's grace is dead.
        if scene.longest_silence() < 0.5:
            cuts += scene.cut_heartbeats()
    assert cuts > 10
    scene.beats(watcher.worker_id, other.worker_id)
    assert (watcher.dead, watcher.lost) == ([], 0)
    assert other.said == ["started"]
    assert scene.workers() == {watcher.worker_id, other.worker_id}


def test_without_sessions_no_lock_is_taken_and_the_lease_alone_counts(scene: Scene) -> None:
    watcher = scene.watcher(sessions=False)
    assert scene.session_locks() == 0
    dead = scene.stranger(lease="0 seconds")
    until(lambda: watcher.buried(dead), seconds=5)
