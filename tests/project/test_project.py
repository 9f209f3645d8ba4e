from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import ProjectError
from holdfast.project import Project, load_project


def write(directory: Path, document: Any) -> Path:
    path = directory / "langgraph.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def load(directory: Path, **document: Any) -> Project:
    return load_project(write(directory, {"graphs": {"agent": "./agent.py:graph"}, **document}))


def test_a_project_says_where_it_is_and_which_graphs_it_has(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        graphs={
            "a": "./agents/a.py:graph",
            "b": "shop.agents:make",
            "c": {"path": "c.py:graph", "description": "Counts"},
        },
    )

    assert project.root == tmp_path.resolve()
    assert project.config_path == tmp_path.resolve() / "langgraph.json"
    assert list(project.graphs) == ["a", "b", "c"]
    a, b, c = project.graphs.values()
    assert (a.source, a.attribute, a.is_file, a.description) == ("./agents/a.py", "graph", True, None)
    assert (b.source, b.attribute, b.is_file) == ("shop.agents", "make", False)
    assert (c.target, c.is_file, c.description) == ("c.py:graph", True, "Counts")
    assert project.warnings == ()


def test_a_relative_config_path_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path)
    monkeypatch.chdir(tmp_path)

    assert load_project(Path("langgraph.json")).root == tmp_path.resolve()


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, '\N{ZERO WIDTH NO-BREAK SPACE}{"graphs": {"agent": "a.py:g"}}')

    assert list(load_project(path).graphs) == ["agent"]


def test_bad_json_is_reported_with_line_and_column(tmp_path: Path) -> None:
    path = write(tmp_path, '{\n  "graphs": {"agent": "a.py:g"},\n}')

    with pytest.raises(ProjectError, match=rf"{path}:\d:\d+: is not JSON"):
        load_project(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"nowhere/langgraph\.json: cannot be read: No such file"):
        load_project(tmp_path / "nowhere" / "langgraph.json")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "langgraph.json"
    path.write_bytes(b"\xff\x00\xfe")

    with pytest.raises(ProjectError, match=r"langgraph\.json: is not UTF-8 text"):
        load_project(path)


def test_a_graph_id_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, '{"graphs": {"agent": "a.py:g", "agent": "b.py:g"}}')

    with pytest.raises(ProjectError, match="'agent' is there twice"):
        load_project(path)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "must hold a JSON object, not an array"),
        ({}, "has no 'graphs'"),
        ({"graphs": {}}, "'graphs' is empty"),
        ({"graphs": ["a.py:g"]}, "'graphs' must be an object, not an array"),
        ({"graphs": {"": "a.py:g"}}, "empty name"),
        ({"graphs": {"a": 3}}, "graph 'a' must be a string or an object with a string 'path'"),
        (
            {"graphs": {"a": {"description": "x"}}},
            "graph 'a' must be a string or an object with a string 'path'",
        ),
        (
            {"graphs": {"a": {"path": "a.py:g", "description": 1}}},
            "'description' must be a string, not a number",
        ),
        ({"dependencies": "."}, "'dependencies' must be an array of strings"),
        ({"dependencies": [1]}, "'dependencies' must be an array of strings"),
        ({"dependencies": ["./nowhere"]}, r"the dependency './nowhere' is not a directory"),
        ({"env": ["A=1"]}, "'env' must be a file name or an object, not an array"),
        ({"env": {"A": True}}, "'env': 'A' must be a string, not a boolean"),
        ({"env": "settings.env"}, r"'env': there is no file .*settings\.env"),
        ({"store": "postgres"}, "'store' must be an object, not a string"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, document: Any, message: str) -> None:
    if isinstance(document, dict) and "graphs" not in document and document:
        document = {"graphs": {"agent": "a.py:g"}, **document}

    with pytest.raises(ProjectError, match=message) as caught:
        load_project(write(tmp_path, document))

    assert str(tmp_path.resolve() / "langgraph.json") in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "agent.py",
        "agent.py:",
        ":graph",
        "agent.py:make()",
        "my-module:graph",
        "shop..agents:graph",
        "./agent:graph",
        "",
    ],
)
def test_a_target_that_names_no_object_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(ProjectError, match=r"expected 'path/to/file\.py:object' or 'package\.module:object'"):
        load(tmp_path, graphs={"agent": target})


def test_a_javascript_graph_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="only Python can be served"):
        load(tmp_path, graphs={"agent": "./src/agent.ts:graph"})


def test_an_unknown_key_is_named_in_a_warning(tmp_path: Path) -> None:
    project = load(tmp_path, grahps={}, graphs={"a": {"path": "a.py:g", "descripton": "x"}})

    assert len(project.warnings) == 2
    assert any("unknown key 'grahps'" in warning for warning in project.warnings)
    assert any("unknown key 'descripton' in graph 'a'" in warning for warning in project.warnings)


@pytest.mark.parametrize("key", ["ui", "priority"])
def test_a_section_without_effect_is_said(tmp_path: Path, key: str) -> None:
    (warning,) = load(tmp_path, **{key: {"path": "./somewhere.py:thing"}}).warnings
    assert f"'{key}' has no effect yet" in warning


def test_a_key_without_effect_is_said(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, checkpointer={"serde": {"pickle_fallback": True}}).warnings
    assert "'checkpointer.serde' has no effect yet" in warning


def test_sections_are_read_with_their_defaults(tmp_path: Path) -> None:
    sections = load(tmp_path, store={"index": {"dims": 3, "embed": "e.py:f"}}, http=None).sections
    assert sections.store.index is not None
    assert (sections.store.index.dims, sections.store.index.embed) == (3, "e.py:f")
    assert sections.http.middleware_order == "middleware_first"
    assert sections.webhooks.env_prefix == "LG_WEBHOOK_"


def test_an_unknown_key_in_a_section_is_named(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, http={"cors": {"allow_origin": ["*"]}}).warnings
    assert "unknown key 'http.cors.allow_origin'" in warning


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"http": []}, "'http' must be an object"),
        ({"store": {"index": {"dims": 0, "embed": "x"}}}, "store.index.dims: "),
        ({"checkpointer": {"ttl": {"strategy": "burn"}}}, "checkpointer.ttl.strategy: "),
    ],
)
def test_a_section_of_the_wrong_shape_is_refused(tmp_path: Path, section: dict[str, Any], problem: str) -> None:
    with pytest.raises(ProjectError, match=problem):
        load(tmp_path, **section)


def test_keys_for_building_images_are_nothing_to_warn_about(tmp_path: Path) -> None:
    project = load(tmp_path, python_version="3.12", dockerfile_lines=[], pip_config_file=None, store=None, http={})

    assert project.warnings == ()


def test_a_lock_that_we_do_not_have_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="custom encryption is not supported yet"):
        load(tmp_path, encryption={"path": "./lock.py:lock"})


def test_authentication_without_a_path_is_refused_where_something_else_is_written_instead(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="'auth' has no 'path'"):
        load(tmp_path, auth={"pth": "./auth.py:auth"})
    # There is no such bypass to switch off.
    assert load(tmp_path, auth={"disable_studio_auth": True}).warnings == ()


@pytest.mark.parametrize("section", [{"auth": {"path": "auth"}}, {"http": {"app": "./app.py"}}])
def test_custom_code_is_named_by_file_and_object(tmp_path: Path, section: dict[str, Any]) -> None:
    with pytest.raises(ProjectError, match=r"'(auth\.path|http\.app)' is .*: expected"):
        load(tmp_path, **section)


def test_keys_of_auth_that_change_nothing_are_named(tmp_path: Path) -> None:
    auth = {"path": "./auth.py:auth", "cache": {"ttl_seconds": 60}, "allow_langsmith_api_keys": True}
    warnings = " ".join(load(tmp_path, auth=auth).warnings)

    assert "'auth.cache' has no effect yet" in warnings
    assert "'auth.allow_langsmith_api_keys' has no effect yet" in warnings


def test_the_environment_may_be_a_map(tmp_path: Path) -> None:
    assert load(tmp_path, env={"A": "x", "B": 2}).env == {"A": "x", "B": "2"}


def test_the_environment_may_be_a_dotenv_file(tmp_path: Path) -> None:
    (tmp_path / "local.env").write_text("# mine\nexport A=1\nB='two words'\nUNSET\n")

    assert load(tmp_path, env="./local.env").env == {"A": "1", "B": "two words"}


def test_a_dotenv_file_that_is_not_there_yet_is_an_empty_one(tmp_path: Path) -> None:
    assert load(tmp_path, env="./.env").env == {}


def test_secrets_of_the_environment_stay_out_of_the_repr(tmp_path: Path) -> None:
    assert "hunter2" not in repr(load(tmp_path, env={"PASSWORD": "hunter2"}))


def test_local_dependencies_are_told_from_packages(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()

    project = load(tmp_path, dependencies=[".", "./src", "langchain-openai>=1"])

    assert project.dependencies == (".", "./src", "langchain-openai>=1")
    assert project.local_dependencies() == (tmp_path.resolve(), tmp_path.resolve() / "src")
