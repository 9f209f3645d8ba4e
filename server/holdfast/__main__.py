"""The command line: `holdfast serve | api | worker | migrate | doctor | prune | backup | restore | keys`.

Imports are inside the commands on purpose: `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn
from uuid import UUID

import typer

if TYPE_CHECKING:
    from holdfast.settings import Settings

GARBAGE = (10_000, 5, 5)
"""Thresholds of the garbage collector. Python's own (700, 10, 10) suit small programs: many runs at once have hundreds
of thousands of objects that live for a moment, and looking through them again and again took half of all time."""

cli = typer.Typer(
    name="holdfast",
    help="An open agent server for LangGraph.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

keys = typer.Typer(help="API keys of the database, for servers with HOLDFAST_AUTH=keys.", no_args_is_help=True)
cli.add_typer(keys, name="keys")

Config = Annotated[Path | None, typer.Option("--config", help="The project's langgraph.json [HOLDFAST_CONFIG].")]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on [HOST].")]
Port = Annotated[int | None, typer.Option("--port", help="Port to listen on; 0 picks one [PORT].")]
HealthPort = Annotated[
    int | None, typer.Option("--health-port", help="Answer /ok, /ready and /metrics here [HOLDFAST_HEALTH_PORT].")
]
Processes = Annotated[
    int | None, typer.Option("--processes", help="Serve in so many processes on this machine [HOLDFAST_PROCESSES].")
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Embedded Postgres lives here [HOLDFAST_DATA_DIR].")]
DatabaseUrl = Annotated[str | None, typer.Option("--database-url", help="Use this Postgres instead [DATABASE_URL].")]
ThreadsToRead = Annotated[int, typer.Option("--threads", min=0, help="Read so many threads' states, newest first.")]
Every = Annotated[bool, typer.Option("--all", help="Read the state of every thread.")]
OnlyGraphs = Annotated[
    bool, typer.Option("--graphs", help="Read every thread that waits or runs: would this project's graphs break it?")
]
Fix = Annotated[bool, typer.Option("--fix", help="Mend what can be mended.")]
Check = Annotated[bool, typer.Option("--check", help="Only say whether anything is pending: exit status 1 if so.")]

OlderThan = Annotated[
    str | None,
    typer.Option("--older-than", help="Unused for 90m, 12h, 30d, 8w. Without it: those whose own time to live is up."),
]
Strategy = Annotated[Literal["delete", "keep_latest"], typer.Option("--strategy", help="With --older-than: what goes.")]
Interrupted = Annotated[bool, typer.Option("--include-interrupted", help="Threads that wait for somebody, too.")]
BackupFile = Annotated[Path, typer.Argument(help="The backup, in pg_dump's custom format.")]
Owner = Annotated[str, typer.Argument(help="Whose key it is: the name under which their rows are kept.")]
KeyId = Annotated[str, typer.Argument(help="The key's id, the middle of hf_<id>_<secret>.")]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", help="read, write, run, approve, approve:all, admin, permission:<name>; several times."),
]
Expires = Annotated[str | None, typer.Option("--expires", help="Lives for 12h, 90d, 8w. Without it: until revoked.")]
Grace = Annotated[str, typer.Option("--grace", help="How long the old secret works: 30m, 1h, 2d.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many threads and bytes that would be.")]


@cli.command()
def serve(
    config: Config = None,
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    processes: Processes = None,
) -> None:
    """Serve the API and execute runs, in one process or in several."""
    given = {"config": config, "host": host, "port": port, "data_dir": data_dir, "database_url": database_url}
    _run("serve", **given, processes=processes)


@cli.command()
def api(
    config: Config = None,
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Serve the API alone; runs wait for a worker."""
    _run("api", config=config, host=host, port=port, data_dir=data_dir, database_url=database_url)


@cli.command()
def worker(
    config: Config = None,
    host: Host = None,
    health_port: HealthPort = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Execute runs alone."""
    given = {"config": config, "host": host, "data_dir": data_dir, "database_url": database_url}
    _run("worker", **given, health_port=health_port)


@cli.command(hidden=True)
def sibling(tether: int, door: int, board: int, number: int) -> None:
    """One of several processes of a `serve`, which starts this: descriptors, and which one it is."""
    import gc
    from socket import socket

    gc.disable()
    settings = _settings()
    from holdfast.app import Sibling, run
    from holdfast.process import Tether
    from holdfast.worker.siblings import Board

    tied = Tether(tether)

    def ready(url: str, _database_url: str, _auth: str | None) -> None:
        _collect_rarely()
        tied.ready(url)

    _main(run(settings, "serve", ready, Sibling(tied, socket(fileno=door), Board(board, number))))


@cli.command(hidden=True)
def isolated(run_id: UUID) -> None:
    """Execute this run, which took workers down before, until it has got on; workers start this."""
    import gc

    gc.disable()
    settings = _settings()
    from holdfast.working import run_alone

    _main(run_alone(settings, run_id, gc.enable))


@cli.command()
def migrate(check: Check = False, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Bring the database up to date, or say what is missing (--check, for init containers)."""
    from holdfast.doctor import migrated

    settings = _settings(data_dir=data_dir, database_url=database_url)
    _main(migrated(settings, check_only=check))


@cli.command()
def doctor(
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    threads: ThreadsToRead = 100,
    every: Every = False,
    graphs: OnlyGraphs = False,
    fix: Fix = False,
) -> None:
    """Say what project, environment and threads look like to Holdfast. Exit status: what is wrong and not mended."""
    from holdfast.doctor import Depth, examined

    settings = _settings(config=config, data_dir=data_dir, database_url=database_url)
    _main(examined(settings, Depth(None if every else threads, graphs, fix)))


@cli.command()
def prune(
    older_than: OlderThan = None,
    strategy: Strategy = "delete",
    include_interrupted: Interrupted = False,
    dry_run: DryRun = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Delete threads that nobody uses, or all but their latest state. Never threads with a run pending or running."""
    from holdfast.retention import Wish, age, pruned

    settings = _settings(config=config, data_dir=data_dir, database_url=database_url)
    seconds = None if older_than is None else age(older_than)
    _main(pruned(settings, Wish(seconds, strategy, include_interrupted, dry_run)))


@cli.command()
def backup(file: BackupFile, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Write the whole database to a file; servers may go on meanwhile."""
    from holdfast.backup import backed_up

    _main(backed_up(_settings(data_dir=data_dir, database_url=database_url), file))


@cli.command()
def restore(file: BackupFile, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Fill an empty database from a backup. Runs that were under way then go on from there when a server starts."""
    from holdfast.backup import restored

    _main(restored(_settings(data_dir=data_dir, database_url=database_url), file))


@keys.command("create")
def create_key(
    owner: Owner,
    scope: Scopes = None,
    expires: Expires = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Make a key, shown once. Without --scope it may do all but what needs admin or approve:all."""
    from holdfast.keys import created

    _main(created(_settings(data_dir=data_dir, database_url=database_url), owner, scope or (), expires))


@keys.command("list")
def list_keys(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Show all keys and what they may do; not their secrets, which nobody knows."""
    from holdfast.keys import listed

    _main(listed(_settings(data_dir=data_dir, database_url=database_url)))


@keys.command("rotate")
def rotate_key(key_id: KeyId, grace: Grace = "0", data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Give a key a new secret, shown once."""
    from holdfast.keys import rotated

    _main(rotated(_settings(data_dir=data_dir, database_url=database_url), key_id, grace))


@keys.command("revoke")
def revoke_key(key_id: KeyId, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Make a key worthless."""
    from holdfast.keys import revoked

    _main(revoked(_settings(data_dir=data_dir, database_url=database_url), key_id))


def main() -> None:
    """The entry point; what Holdfast knows to be wrong is one line, not a traceback."""
    from holdfast.errors import HoldfastError

    try:
        cli()
    except HoldfastError as error:
        print(f"holdfast: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _run(part: Literal["serve", "api", "worker"], **given: Any) -> None:
    import gc

    # What is loaded at start stays: looking for garbage in it costs a tenth of the start, and a bit of every run after.
    gc.disable()
    settings = _settings(**given)
    from holdfast.welcome import welcome

    def ready(url: str, database_url: str, auth: str | None) -> None:
        _collect_rarely()
        # For people; stdout has the log.
        print(welcome(settings, part, url, database_url, auth), file=sys.stderr, flush=True)

    if part == "serve" and settings.processes > 1:
        from holdfast.supervisor import supervise

        _main(supervise(settings, ready))
    from holdfast.app import run

    _main(run(settings, part, ready))


def _collect_rarely() -> None:
    import gc

    gc.freeze()
    gc.set_threshold(*GARBAGE)
    gc.enable()


def _settings(**given: Any) -> Settings:
    from holdfast.settings import load_settings
    from holdfast.telemetry.logs import configure_logging

    settings = load_settings(**given)
    configure_logging(settings, os.environ)
    return settings


def _main(work: Any) -> NoReturn:
    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        raise SystemExit(runner.run(work) or 0)


if __name__ == "__main__":
    main()
