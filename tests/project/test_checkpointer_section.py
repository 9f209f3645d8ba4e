"""`checkpointer` of langgraph.json: the documented example of storage, where checkpoints are kept, what is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from redis import Redis

from holdfast.errors import ProjectError
from holdfast.project import load_project
from holdfast.sections import Sections
from tests.support.redis import redis_server
from tests.support.server import ROOT, free_port, refusal_to_start


def test_the_documented_section_does_what_the_page_says() -> None:
    page = (ROOT / "docs" / "storage.md").read_text("utf-8")
    [example] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    sections = Sections.model_validate(json.loads(example))
    assert sections.unknown_keys() == []
    assert sections.checkpointer.by_element("anything")
    assert not sections.checkpointer.by_element("shared")


def test_lists_are_stored_whole_unless_somebody_says_otherwise() -> None:
    assert not Sections.model_validate({}).checkpointer.by_element("agent")
    given = Sections.model_validate({"checkpointer": {"graphs": {"agent": {"storage": "elements"}}}})
    assert given.checkpointer.by_element("agent")
    assert not given.checkpointer.by_element("another")


def test_checkpoints_are_where_the_section_says() -> None:
    def kind(**section: object) -> str:
        return Sections.model_validate({"checkpointer": section}).checkpointer.kind

    assert kind() == kind(backend="default") == kind(backend="postgres") == "postgres"
    assert kind(path="./saver.py:make") == kind(backend="custom", path="./saver.py:make") == "custom"
    assert kind(backend="sqlite", path="data/checkpoints.sqlite") == "sqlite"


def test_what_is_about_postgres_is_said_to_have_no_effect_elsewhere(tmp_path: Path) -> None:
    section = {"backend": "memory", "storage": "elements"}
    [warning] = load_project(_written(tmp_path, section)).warnings
    assert "'checkpointer.storage' has no effect" in warning


@pytest.mark.parametrize("backend", ["redis", "mongo"])
def test_a_server_of_checkpoints_has_to_be_named_and_to_be_there(
    tmp_path: Path, database_url: str, backend: str
) -> None:
    config = _written(tmp_path, {"backend": backend})
    assert "set HOLDFAST_CHECKPOINTER_URL" in refusal_to_start(config, database_url)
    nowhere = f"{backend.replace('mongo', 'mongodb')}://me:secret@127.0.0.1:{free_port()}"
    said = refusal_to_start(config, database_url, HOLDFAST_CHECKPOINTER_URL=nowhere)
    assert f"checkpointer.backend is '{backend}', and cannot be opened" in said
    assert "secret" not in said


def test_a_redis_without_modules_is_refused_at_the_start(tmp_path: Path, database_url: str) -> None:
    with redis_server(tmp_path) as url, Redis.from_url(url) as client:
        if any(module["name"] == "search" for module in client.module_list()):
            pytest.skip("this one has them")
        said = refusal_to_start(_written(tmp_path, {"backend": "redis", "url": url}), database_url)
    assert "it takes Redis 8, or one with the modules for search and JSON" in said


def test_a_backend_that_is_not_installed_says_how_to_install_it(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['aiosqlite'] = None\n")
    config = _written(tmp_path, {"backend": "sqlite"})
    path = os.pathsep.join([str(ROOT / "server"), str(tmp_path)])
    said = refusal_to_start(config, database_url, PYTHONPATH=path)
    assert "pip install 'holdfast[sqlite]'" in said


def test_what_is_no_saver_is_refused_with_its_place(tmp_path: Path, database_url: str) -> None:
    said = refusal_to_start(_written(tmp_path, {"path": "./g.py:made"}), database_url)
    assert "checkpointer.path" in said
    assert "not a BaseCheckpointSaver" in said


def test_processes_that_would_each_have_their_own_memory_are_refused(tmp_path: Path, database_url: str) -> None:
    config = _written(tmp_path, {"backend": "memory"})
    assert "one process" in refusal_to_start(config, database_url, HOLDFAST_PROCESSES="2")


def _written(place: Path, section: dict[str, object]) -> Path:
    (place / "g.py").write_text(
        "from langgraph.graph import END, START, MessagesState, StateGraph\n"
        "graph = StateGraph(MessagesState).add_edge(START, END).compile()\n"
        "def made():\n    return 'no saver'\n"
    )
    config = place / "langgraph.json"
    config.write_text(json.dumps({"dependencies": ["."], "graphs": {"agent": "./g.py:graph"}, "checkpointer": section}))
    return config


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"storage": "deltas"}, "checkpointer.storage"),
        ({"graphs": {"agent": {}}}, "checkpointer.graphs.agent.storage"),
        ({"graphs": {"other": {"storage": "elements"}}}, "'checkpointer.graphs' names 'other'"),
        ({"backend": "cassandra"}, "checkpointer.backend"),
        ({"backend": "memory", "path": "x.sqlite"}, "the backend 'memory' takes no 'path'"),
        ({"backend": "postgres", "path": "./g.py:graph"}, "the backend 'postgres' takes no 'path'"),
        ({"backend": "sqlite", "url": "redis://here"}, "the backend 'sqlite' takes no 'url'"),
        ({"backend": "custom"}, "the backend 'custom' needs a 'path'"),
        ({"path": "./g.py"}, "checkpointer.path is './g.py'"),
        ({"backend": "memory", "ttl": {"strategy": "keep_latest"}}, "'keep_latest' needs the backend 'postgres'"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, section: dict[str, object], problem: str) -> None:
    with pytest.raises(ProjectError, match=re.escape(problem)):
        load_project(_written(tmp_path, section))
