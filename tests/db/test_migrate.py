"""Migrations: the same schema by both roads, from any number of processes, and never half."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import tuple_row

from holdfast.db.migrate import migrate, migrations, pending, schema
from holdfast.errors import DatabaseError
from tests.support.postgres import Cluster

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 60.0

CATALOG = {
    "tables": "SELECT relname, relkind FROM pg_class WHERE relnamespace = 'holdfast'::regnamespace",
    "columns": """
        SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
               pg_get_expr(d.adbin, d.adrelid), a.attstorage, a.attcompression
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'holdfast'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped""",
    "indexes": """
        SELECT pg_get_indexdef(indexrelid), indisunique, indisvalid
        FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relnamespace = 'holdfast'::regnamespace""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'holdfast'::regnamespace""",
    "functions": "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'holdfast'::regnamespace",
    "sequences": """
        SELECT sequencename, data_type::text, start_value, increment_by, max_value, cycle
        FROM pg_sequences WHERE schemaname = 'holdfast'""",
    "triggers": """
        SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
        WHERE NOT tgisinternal AND relnamespace = 'holdfast'::regnamespace""",
    "options": "SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'holdfast'::regnamespace",
    "comments": """
        SELECT pg_describe_object(classoid, objoid, objsubid), description FROM pg_description
        WHERE pg_describe_object(classoid, objoid, objsubid) LIKE '%holdfast.%'""",
}


def catalog(url: str) -> dict[str, set[tuple[object, ...]]]:
    """Everything in our schema, but for the table that only `migrate` makes."""
    with psycopg.connect(url, row_factory=tuple_row) as conn:
        return {
            kind: {
                tuple(map(str, row))
                for row in conn.execute(query).fetchall()
                if "migrations" not in " ".join(map(str, row))
            }
            for kind, query in CATALOG.items()
        }


def holdfast(url: str, *words: str, package: Path = ROOT / "server") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(package), "DATABASE_URL": url}
    return subprocess.Popen(
        [sys.executable, "-m", "holdfast", *words],
        env=environment,
        cwd=package,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=RUN_SECONDS)
    return process.returncode, said


def versions(url: str) -> list[int]:
    with psycopg.connect(url, row_factory=tuple_row) as conn:
        return [row[0] for row in conn.execute("SELECT version FROM holdfast.migrations ORDER BY version")]


def test_the_schema_file_equals_the_migrations(database_url: str, cluster: Cluster) -> None:
    with cluster.database(migrated=False) as by_schema:
        with psycopg.connect(by_schema, autocommit=True) as conn:
            conn.execute(schema())  # type: ignore[arg-type]
        migrated, declared = catalog(database_url), catalog(by_schema)
    assert migrated == declared
    # A comparison of two empty catalogs would hold as well; triggers are something that we have none of.
    assert {kind for kind, found in declared.items() if not found} <= {"triggers"}


def test_versions_are_numbered_from_one_without_holes() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))


def test_eight_processes_may_migrate_an_empty_database_at_once(empty_database_url: str) -> None:
    ended = [finished(process) for process in [holdfast(empty_database_url, "migrate") for _ in range(8)]]
    assert [status for status, _ in ended] == [0] * 8, ended
    assert sum("applied:" in said for _, said in ended) == 1
    assert versions(empty_database_url) == [migration.version for migration in migrations()]


def test_a_check_says_what_is_pending_by_its_exit_status(empty_database_url: str, database_url: str) -> None:
    status, said = finished(holdfast(empty_database_url, "migrate", "--check"))
    assert (status, migrations()[0].name in said) == (1, True)
    assert finished(holdfast(database_url, "migrate", "--check")) == (0, "the database is up to date\n")


@pytest.mark.anyio
async def test_migrating_again_applies_nothing(empty_database_url: str) -> None:
    assert await migrate(empty_database_url) == [migration.name for migration in migrations()]
    before = catalog(empty_database_url)
    assert await migrate(empty_database_url) == []
    assert await pending(empty_database_url) == []
    assert catalog(empty_database_url) == before


@pytest.mark.anyio
async def test_a_missing_table_of_langgraph_is_pending(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("DELETE FROM checkpoint_migrations WHERE v = (SELECT max(v) FROM checkpoint_migrations)")
    assert await pending(database_url) == ["langgraph checkpoint and store tables"]
    assert await migrate(database_url) == []
    assert await pending(database_url) == []


@pytest.mark.anyio
async def test_a_database_of_a_newer_version_is_left_alone(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("INSERT INTO holdfast.migrations (version, name) VALUES (9998, 'more'), (9999, 'post_less')")
    before = catalog(database_url)
    with pytest.raises(DatabaseError, match="newer version"):
        await migrate(database_url)
    assert catalog(database_url) == before


@pytest.mark.anyio
async def test_a_database_to_which_a_newer_version_only_added_something_is_served(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("INSERT INTO holdfast.migrations (version, name) VALUES (9999, 'more')")
    assert await migrate(database_url) == []


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Holdfast as the wheel lays it out, with a second migration that fails in its second statement and a third."""
    shutil.copytree(ROOT / "server" / "holdfast", tmp_path / "holdfast", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "migrations", tmp_path / "holdfast" / "migrations")
    (tmp_path / "holdfast" / "migrations" / "9001_broken.sql").write_text(
        "CREATE TABLE holdfast.half (id integer); SELECT 1 / 0;"
    )
    (tmp_path / "holdfast" / "migrations" / "9002_later.sql").write_text("CREATE TABLE holdfast.later (id integer);")
    return tmp_path


def test_a_migration_that_fails_leaves_the_earlier_ones_applied_and_nothing_of_itself_until_it_is_repaired(
    empty_database_url: str, package: Path
) -> None:
    status, said = finished(holdfast(empty_database_url, "migrate", package=package))
    assert status == 1
    assert said == "holdfast: division by zero\n"
    assert versions(empty_database_url) == [migration.version for migration in migrations()]
    with psycopg.connect(empty_database_url, row_factory=tuple_row) as conn:
        found = conn.execute("SELECT to_regclass('holdfast.half'), to_regclass('holdfast.later')").fetchone()
    assert found == (None, None)
    (package / "holdfast" / "migrations" / "9001_broken.sql").write_text("SELECT 1;")
    assert finished(holdfast(empty_database_url, "migrate", package=package)) == (0, "applied: broken, later\n")


@pytest.mark.anyio
async def test_assistants_and_runs_of_the_first_version_are_carried_over(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True, row_factory=tuple_row) as conn:
        conn.execute(migrations()[0].sql)  # type: ignore[arg-type]
        conn.execute("CREATE TABLE holdfast.migrations (version integer PRIMARY KEY, name text NOT NULL)")
        conn.execute("INSERT INTO holdfast.migrations VALUES (1, 'spine')")
        conn.execute(
            """
            INSERT INTO holdfast.assistants (assistant_id, graph_id, name, created_at, updated_at)
            VALUES (md5('known')::uuid, 'talk', 'Talker', now(), now());
            INSERT INTO holdfast.threads (thread_id, owner, created_at, updated_at, state_updated_at)
            VALUES (md5('thread')::uuid, 'ann', now(), now(), now());
            INSERT INTO holdfast.runs (run_id, thread_id, owner, assistant_id, status, kwargs, multitask_strategy,
                resumable, logged, ephemeral, available_at, created_at, updated_at)
            SELECT gen_random_uuid(), md5('thread')::uuid, 'ann', md5(assistant)::uuid, 'success', '', 'enqueue',
                   false, true, false, now(), now(), now()
            FROM unnest(ARRAY['known', 'gone']) AS assistant"""
        )
        await migrate(empty_database_url)
        version = conn.execute("SELECT version, graph_id, name FROM holdfast.assistant_versions").fetchall()
        assert version == [(1, "talk", "Talker")]
        declared = conn.execute("SELECT declared, newest_version FROM holdfast.assistants").fetchall()
        assert declared == [({"name": "Talker", "description": None}, 1)]
        assert conn.execute("SELECT graph_id FROM holdfast.runs ORDER BY 1").fetchall() == [("",), ("talk",)]


@pytest.mark.anyio
async def test_a_database_whose_checkpoints_are_partitioned_is_refused_and_left_alone(empty_database_url: str) -> None:
    """Holdfast removes rows by their ctid, which is some other row's, too, in another partition."""
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute("CREATE TABLE checkpoints (thread_id text) PARTITION BY HASH (thread_id)")
    with pytest.raises(DatabaseError, match=r"partitioned.*: checkpoints"):
        await migrate(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        assert conn.execute("SELECT to_regclass('holdfast.threads')").fetchone() == (None,)
