"""A user's project: what its `langgraph.json` says, checked.

Reading a project runs none of its code and changes nothing in this process. `holdfast.worker.graphs`
imports it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError

from holdfast.errors import ProjectError, SettingsError
from holdfast.sections import Checkpointer, Sections

logger = logging.getLogger(__name__)

# They say how LangGraph's own tools build a container image. Serving a checkout needs none of them.
IMAGE_KEYS = frozenset(
    {
        "$schema",
        "_INTERNAL_docker_tag",
        "api_version",
        "base_image",
        "dockerfile_lines",
        "image_distro",
        "keep_pkg_tools",
        "node_version",
        "pip_config_file",
        "pip_installer",
        "python_version",
        "source",
    }
)

LOCKS = ("encryption",)
"""Sections whose absence would leave something open that their author wanted shut."""

# Known sections that change nothing here yet, and what their absence means for the one who wrote them.
SECTIONS_WITHOUT_EFFECT: Mapping[str, str] = {
    "priority": "no such code is loaded; requests give their runs a priority",
    "ui": "no UI components are served",
}

# Known keys of sections that change nothing here yet.
KEYS_WITHOUT_EFFECT: Mapping[str, str] = {
    "auth.allow_langsmith_api_keys": "callers are whom auth.path says they are, and nobody else",
    "auth.cache": "every request is authenticated anew",
    "checkpointer.serde": "a graph's own types are allowed by themselves, and nothing is unpickled",
}

_OTHER_LANGUAGES = frozenset({".ts", ".tsx", ".mts", ".cts", ".js", ".jsx", ".mjs", ".cjs"})


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One entry of `graphs`. `target` is as written: `path/to/file.py:object` or `package.module:object`."""

    graph_id: str
    target: str
    description: str | None

    @property
    def source(self) -> str:
        """The file (relative to the project's root) or the dotted module that holds the graph."""
        return self.target.rpartition(":")[0]

    @property
    def attribute(self) -> str:
        """The name of the graph, or of the function that makes it, in its module."""
        return self.target.rpartition(":")[2]

    @property
    def is_file(self) -> bool:
        """Whether `source` is a file rather than a module."""
        return _is_path(self.source)


@dataclass(frozen=True, slots=True)
class Project:
    """A checked `langgraph.json`. `root` is the directory that holds it; all its paths are relative to that.

    `env` is what the project wants in its environment (the process environment wins over it),
    `dependencies` is as written, `sections` are the settings of checkpointer, store, auth, http, webhooks
    and approvals, `warnings` are sentences for the operator.
    """

    root: Path
    config_path: Path
    graphs: Mapping[str, GraphSpec]
    dependencies: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)  # it may hold secrets
    warnings: tuple[str, ...]
    sections: Sections = field(default_factory=Sections)

    @property
    def vector_dims(self) -> int | None:
        """The size of the store's vectors, if items are to be found by meaning in Holdfast's own store."""
        store = self.sections.store
        return store.index.dims if store.index and not store.path else None

    def environment(self) -> dict[str, str]:
        """The process's environment, and below it what the project wants in it: what `${{ env.NAME }}` may name."""
        return {**self.env, **os.environ}

    def check_approvers(self, *, has_callers: bool) -> None:
        """Whether there can be somebody who answers.

        Raises:
            ProjectError: it matters who does, and callers are not told apart.
        """
        if self.sections.approvals.policies.choosy and not has_callers:
            raise ProjectError("'approvals.by': without authentication all callers are one, and nobody could answer")

    def check_sharing(self, *, alone: bool) -> None:
        """Whether the processes of a server can share the checkpoints; `alone` is one that serves and works by itself.

        Raises:
            SettingsError: each would have its own.
        """
        kind = self.sections.checkpointer.kind
        if kind == "memory" and not alone:
            raise SettingsError(
                "checkpointer.backend is 'memory', which is one process's own: run 'holdfast serve' with one process"
            )
        if kind == "sqlite" and not alone:
            logger.warning("checkpointer.backend is 'sqlite': all processes have to be on one machine, at one file")

    def local_dependencies(self) -> tuple[Path, ...]:
        """The directories among the dependencies; the others are packages to install."""
        return tuple((self.root / text).resolve() for text in self.dependencies if _is_local(text))


def load_project(config_path: Path) -> Project:
    """Read and check a `langgraph.json`.

    Raises:
        ProjectError: names the file and what is wrong with it (line and column where it is not JSON).
    """
    path = config_path.resolve()
    return _Reader(path).project(_read_json(path))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ProjectError(f"{path}: is not UTF-8 text: {error}") from error
    try:
        document = json.loads(text, object_pairs_hook=_object_without_repeated_keys)
    except json.JSONDecodeError as error:
        raise ProjectError(f"{path}:{error.lineno}:{error.colno}: is not JSON: {error.msg}") from error
    except _RepeatedKeyError as error:
        raise ProjectError(f"{path}: the key {error} is there twice in one object") from error
    if not isinstance(document, dict):
        raise ProjectError(f"{path}: must hold a JSON object, not {_kind(document)}")
    return document


class _RepeatedKeyError(ValueError):
    """JSON would let the second value win in silence; with two graphs of one name, one would just be gone."""


def _object_without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _RepeatedKeyError(repr(key))
        result[key] = value
    return result


class _Reader:
    """Checks one document. It is a class only so that every message can name the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._warnings: list[str] = []

    def project(self, document: dict[str, Any]) -> Project:
        self._refuse_missing_locks(document)
        self._note_sections_without_effect(document)
        sections = self._sections(document)
        self._note_unknown_keys(document)
        graphs = self._graphs(document)
        for section, named in (
            ("approvals", sections.approvals.graphs),
            ("checkpointer", sections.checkpointer.graphs),
        ):
            if unknown := sorted(named.keys() - graphs.keys()):
                raise self._error(f"'{section}.graphs' names {unknown[0]!r}, which is none of 'graphs'")
        return Project(
            root=self._path.parent,
            config_path=self._path,
            graphs=graphs,
            dependencies=self._dependencies(document),
            env=self._env(document),
            sections=sections,
            warnings=tuple(self._warnings),
        )

    def _error(self, text: str) -> ProjectError:
        return ProjectError(f"{self._path}: {text}")

    def _refuse_missing_locks(self, document: dict[str, Any]) -> None:
        # A server that ignores the configured authentication or encryption is an open door that looks shut.
        for key in LOCKS:
            if document.get(key):
                raise self._error(
                    f"{key!r} is set, but custom {key} is not supported yet, so this project is not served"
                )

    def _note_sections_without_effect(self, document: dict[str, Any]) -> None:
        for key, meaning in SECTIONS_WITHOUT_EFFECT.items():
            if document.get(key):
                self._warnings.append(f"{self._path}: {key!r} has no effect yet: {meaning}")
        for path, meaning in KEYS_WITHOUT_EFFECT.items():
            section, _, key = path.partition(".")
            if isinstance(document.get(section), dict) and document[section].get(key):
                self._warnings.append(f"{self._path}: {path!r} has no effect yet: {meaning}")

    def _sections(self, document: dict[str, Any]) -> Sections:
        given = {key: document.get(key) for key in Sections.model_fields}
        for key, section in given.items():
            if not isinstance(section, dict | None):
                raise self._error(f"{key!r} must be an object, not {_kind(section)}")
        try:
            sections = Sections.model_validate(given)
        except ValidationError as invalid:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
                for problem in invalid.errors(include_url=False)
            )
            raise self._error(problems) from None
        self._warnings.extend(f"{self._path}: unknown key {key!r}" for key in sections.unknown_keys())
        if sections.store.path is not None:
            self._check_target("store.path", sections.store.path)
            self._warnings.extend(
                f"{self._path}: 'store.{key}' has no effect: the store of 'store.path' has its own"
                for key in ("index", "ttl")
                if getattr(sections.store, key) is not None
            )
        self._check_checkpointer(sections.checkpointer)
        for key, target in (("auth.path", sections.auth.path), ("http.app", sections.http.app)):
            if target is not None:
                self._check_target(repr(key), target)
        if sections.auth.path is None and sections.auth.model_extra:
            # More likely a misspelt path than a section without one, and that would be an open door.
            raise self._error("'auth' has no 'path', so nobody would be asked who they are")
        return sections

    def _check_checkpointer(self, section: Checkpointer) -> None:
        if section.kind == "custom" and section.path is not None:
            self._check_target("checkpointer.path", section.path)
        if section.kind != "postgres":
            self._warnings.extend(
                f"{self._path}: 'checkpointer.{key}' has no effect: it is about checkpoints in Postgres"
                for key in ("storage", "graphs")
                if key in section.model_fields_set
            )

    def _note_unknown_keys(self, document: dict[str, Any]) -> None:
        known = {"graphs", "dependencies", "env", *LOCKS, *IMAGE_KEYS, *SECTIONS_WITHOUT_EFFECT, *Sections.model_fields}
        self._warnings.extend(f"{self._path}: unknown key {key!r}" for key in document if key not in known)

    def _graphs(self, document: dict[str, Any]) -> dict[str, GraphSpec]:
        graphs = document.get("graphs")
        if graphs is None:
            raise self._error("has no 'graphs': nothing to serve")
        if not isinstance(graphs, dict):
            raise self._error(f"'graphs' must be an object, not {_kind(graphs)}")
        if not graphs:
            raise self._error("'graphs' is empty: nothing to serve")
        return {graph_id: self._graph(graph_id, value) for graph_id, value in graphs.items()}

    def _graph(self, graph_id: str, value: object) -> GraphSpec:
        if not graph_id.strip():
            raise self._error("a graph has an empty name")
        description: object = None
        target = value
        if isinstance(value, dict):
            target, description = value.get("path"), value.get("description")
            self._warnings.extend(
                f"{self._path}: unknown key {key!r} in graph {graph_id!r}"
                for key in value
                if key not in {"path", "description"}
            )
        if not isinstance(target, str):
            raise self._error(f"graph {graph_id!r} must be a string or an object with a string 'path'")
        if description is not None and not isinstance(description, str):
            raise self._error(f"graph {graph_id!r}: 'description' must be a string, not {_kind(description)}")
        self._check_target(f"graph {graph_id!r}", target)
        return GraphSpec(graph_id=graph_id, target=target, description=description)

    def _check_target(self, what: str, target: str) -> None:
        source, _, attribute = target.rpartition(":")
        if Path(source).suffix in _OTHER_LANGUAGES:
            raise self._error(f"{what} is {target!r}: only Python can be served")
        named = Path(source).suffix == ".py" if _is_path(source) else _is_dotted_name(source)
        if not (named and attribute.isidentifier()):
            raise self._error(f"{what} is {target!r}: expected 'path/to/file.py:object' or 'package.module:object'")

    def _dependencies(self, document: dict[str, Any]) -> tuple[str, ...]:
        dependencies = document.get("dependencies")
        if dependencies is None:
            return ()
        if not isinstance(dependencies, list) or not all(isinstance(text, str) for text in dependencies):
            raise self._error("'dependencies' must be an array of strings")
        for text in dependencies:
            if _is_local(text) and not (self._path.parent / text).is_dir():
                raise self._error(f"the dependency {text!r} is not a directory")
        return tuple(dependencies)

    def _env(self, document: dict[str, Any]) -> dict[str, str]:
        env = document.get("env")
        if env is None:
            return {}
        if isinstance(env, str):
            return self._env_file(env)
        if isinstance(env, dict):
            return {name: self._env_value(name, value) for name, value in env.items()}
        raise self._error(f"'env' must be a file name or an object, not {_kind(env)}")

    def _env_value(self, name: str, value: object) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise self._error(f"'env': {name!r} must be a string, not {_kind(value)}")

    def _env_file(self, name: str) -> dict[str, str]:
        path = self._path.parent / name
        if not path.is_file():
            # A checkout has no .env until its owner writes one; any other name was chosen on purpose.
            if Path(name) == Path(".env"):
                return {}
            raise self._error(f"'env': there is no file {path}")
        try:
            values = dotenv_values(path, encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise self._error(f"'env': {path} cannot be read: {error}") from error
        return {key: value for key, value in values.items() if value is not None}


def _is_local(dependency: str) -> bool:
    return dependency.startswith(".")


def _is_path(source: str) -> bool:
    return source.endswith(".py") or source.startswith(".") or "/" in source or "\\" in source


def _is_dotted_name(source: str) -> bool:
    return all(part.isidentifier() for part in source.split("."))


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
