"""docker-compose.yml is a valid one, and what it says agrees with the files, the image and the server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import sql

from holdfast.app import LAST_ANSWERS_SECONDS
from holdfast.foundation import SPARE_CONNECTIONS
from holdfast.settings import Settings
from holdfast.working import LAST_SECONDS
from tests.support.postgres import Cluster
from tests.support.server import ROOT

compose_spec = pytest.importorskip("compose_spec", reason="make test installs what looks at deploy/")

FILES = [ROOT / "docker-compose.yml", ROOT / "deploy" / "langfuse.compose.yml"]
REPLICAS = ("app-1", "app-2")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """Of both files, with anchors and merges applied."""
    return {name: service for file in FILES for name, service in yaml.safe_load(file.read_text())["services"].items()}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_compose_file_is_one_by_the_specification(file: Path) -> None:
    filled = re.sub(r"\$\{\w+:\?[^}]*\}", "given", re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", file.read_text()))
    compose_spec.PyOptions(apply_merge=True).from_yaml(filled).validate()


def test_what_is_mounted_from_the_repository_is_there(services: dict[str, Any]) -> None:
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    ours = [path for path in mounted if path.startswith("./")]
    assert len(ours) >= 5
    assert [path for path in ours if not (ROOT / path).exists()] == []


def test_every_variable_is_explained_in_the_example(services: dict[str, Any]) -> None:
    used = {name for file in FILES for name in re.findall(r"\$\{(\w+):\?", file.read_text())}
    optional = set(re.findall(r"\$\{(\w+):-\}", FILES[1].read_text()))
    example = (ROOT / "deploy" / "env.example").read_text()
    assert used | optional <= set(re.findall(r"^#?(\w+)=", example, re.MULTILINE))
    assert "HOLDFAST_API_KEYS" in example, "without it nothing listens beyond loopback"


def test_every_service_that_goes_on_is_looked_at_and_started_again(services: dict[str, Any]) -> None:
    jobs = {name for name, service in services.items() if service["restart"] == "no"}
    assert jobs == {"migrate"}
    assert [
        name for name, service in services.items() if name not in jobs and "test" not in service["healthcheck"]
    ] == []


def test_replicas_begin_after_the_migration_and_stop_after_their_drain(services: dict[str, Any]) -> None:
    for name in REPLICAS:
        replica = services[name]
        assert replica["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        drain = float(replica["environment"]["HOLDFAST_DRAIN_SECONDS"])
        assert float(replica["stop_grace_period"].removesuffix("s")) > drain + LAST_ANSWERS_SECONDS + 2 * LAST_SECONDS
        assert (replica["read_only"], replica["cap_drop"]) == (True, ["ALL"])
        assert replica["healthcheck"]["test"][-1] == "/ready"
    assert services["migrate"]["command"] == ["migrate"]


def test_nginx_and_prometheus_know_every_replica(services: dict[str, Any]) -> None:
    targets = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    for name in REPLICAS:
        assert f"server {name}:2024" in services["nginx"]["environment"]["HOLDFAST_SERVERS"]
        assert f"{name}:2024" in targets


def test_postgres_takes_its_settings_and_holds_the_replicas_connections(
    services: dict[str, Any], cluster: Cluster
) -> None:
    program, *options = services["postgres"]["command"]
    settings = dict(option.removeprefix("-c").split("=") for option in options)
    with psycopg.connect(cluster.url, autocommit=True) as conn:
        for name, value in settings.items():
            # Checked as at a start, and in force nowhere: nobody reloads.
            conn.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
            conn.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
    a_replica = int(Settings.model_fields["pool_size"].default) + SPARE_CONNECTIONS
    assert program == "postgres"
    assert int(settings["max_connections"]) >= len(REPLICAS) * a_replica
    assert settings["synchronous_commit"] == "on"
