"""Importing a user's code, under the names that the user's own code uses.

A checkpoint stores the class of a value as module and name, and reads it back by importing that module. So
the name under which a graph's file is imported must be the same in every process and after every
deployment, and the class that `from state import State` finds must be the class that the graph's file
defines. Hence:

* The project's directories go to the front of `sys.path`, where Python puts the directory of a script: the
  project's own `server/` or `graph/` wins over an installed package of that name.
* A file is imported under its ordinary dotted name wherever that name finds this very file
  (`graph/agent.py` is `graph.agent`: relative imports work, and nothing is imported twice).
* Elsewhere (`my-agent/agent.py`, a file called `types.py`, a file outside the project) it gets a private
  name, made from its path relative to the project, so that moving the checkout does not change it.

`sys.path` and `sys.modules` belong to the process. One process serves one project; a process that loads
several after each other (the tests) calls `forget` in between. What user code imports later, while it runs,
is not forgotten.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from holdfast.project import GraphSpec, Project

_BUILD_FILES = ("pyproject.toml", "setup.py", "setup.cfg")


class Importer:
    """Makes one project's code importable."""

    def __init__(self, project: Project) -> None:
        self._root = project.root
        self.directories = tuple(_search_path(project))
        self._before: frozenset[str] = frozenset()
        self._added: list[str] = []

    def install(self) -> None:
        """Put the project's directories at the front of `sys.path`."""
        self._before = frozenset(sys.modules)
        self._added = [str(directory) for directory in self.directories]
        sys.path[:0] = self._added
        importlib.invalidate_caches()

    def forget(self) -> None:
        """Undo `install`, and drop the project's modules that were imported since."""
        for entry in self._added:
            if entry in sys.path:
                sys.path.remove(entry)
        self._added = []
        # All are looked at before one is dropped: a namespace package asks its parent where it lies.
        owned = [name for name in set(sys.modules) - self._before if self._owns(sys.modules[name])]
        for name in owned:
            del sys.modules[name]

    def module(self, spec: GraphSpec) -> ModuleType:
        """Import what a graph's target names. Whatever the user's code raises goes through."""
        if not spec.is_file:
            return importlib.import_module(spec.source)
        file = (self._root / spec.source).resolve()
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
        name = self._public_name(file)
        if name is not None:
            module = importlib.import_module(name)
            if module.__file__ and Path(module.__file__).resolve() == file:
                return module
        return _import_privately(self._private_name(file), file)

    def failing_line(self, error: BaseException) -> str | None:
        """`file:line` of the user's code nearest to where the error was raised, if any of it took part."""
        if isinstance(error, SyntaxError) and error.filename and self._is_ours(Path(error.filename)):
            return f"{error.filename}:{error.lineno}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if self._is_ours(Path(frame.filename)):
                return f"{frame.filename}:{frame.lineno}"
        return None

    def _is_ours(self, path: Path) -> bool:
        # A virtual environment often lives inside the project; its packages are not the user's code.
        return "site-packages" not in path.parts and any(map(path.is_relative_to, self.directories))

    def _owns(self, module: ModuleType) -> bool:
        if module.__name__.partition(".")[0] == "holdfast":
            return False
        places = [module.__file__] if getattr(module, "__file__", None) else getattr(module, "__path__", ())
        return any(self._is_ours(Path(place)) for place in places if place)

    def _public_name(self, file: Path) -> str | None:
        for directory in self._directories_above(file):
            parts = file.relative_to(directory).with_suffix("").parts
            if all(part.isidentifier() for part in parts) and _finds(parts[0], directory):
                return ".".join(parts)
        return None

    def _directories_above(self, file: Path) -> Iterator[Path]:
        """Nearest first those that import the file as part of its whole package, then those inside the
        package."""
        home = file.parent
        while (home / "__init__.py").is_file():
            home = home.parent
        nearest_first = sorted(self.directories, key=lambda directory: -len(directory.parts))
        yield from (directory for directory in nearest_first if home.is_relative_to(directory))
        yield from (
            directory
            for directory in reversed(nearest_first)
            if file.is_relative_to(directory) and not home.is_relative_to(directory)
        )

    def _private_name(self, file: Path) -> str:
        relative = Path(os.path.relpath(file, self._root)).as_posix()
        digest = hashlib.sha256(relative.encode()).hexdigest()[:8]
        stem = "".join(letter if letter.isalnum() else "_" for letter in file.stem)
        return f"_project_file_{digest}_{stem}"


def definition_line(file: Path, name: str) -> int | None:
    """The line on which a module's top level last binds `name`."""
    tree = ast.parse(file.read_bytes())
    return max((line for node in tree.body for bound, line in _bindings(node) if bound == name), default=None)


def _bindings(node: ast.stmt) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, node.lineno
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name, node.lineno) for alias in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from ((target.id, node.lineno) for target in targets if isinstance(target, ast.Name))


def _search_path(project: Project) -> Iterable[Path]:
    found = dict.fromkeys([project.root])
    for directory in project.local_dependencies():
        found[directory] = None
        if directory != project.root and (directory / "__init__.py").is_file():
            found[directory.parent] = None  # the dependency is itself a package, imported by its own name
        if _has_src_layout(directory):
            found[directory / "src"] = None
    return found


def _has_src_layout(directory: Path) -> bool:
    src = directory / "src"
    packaged = any((directory / name).is_file() for name in _BUILD_FILES)
    return packaged and src.is_dir() and not (src / "__init__.py").exists()


def _finds(name: str, directory: Path) -> bool:
    """Whether `import name` gives what lies in `directory`, and not another thing of that name."""
    if name in sys.stdlib_module_names:
        return False
    loaded = sys.modules.get(name)
    spec = loaded.__spec__ if loaded is not None else importlib.machinery.PathFinder.find_spec(name)
    if spec is None:
        return False
    packages = list(spec.submodule_search_locations or ())
    if packages:
        return directory / name in [Path(place).resolve() for place in packages]
    return spec.origin is not None and Path(spec.origin).resolve() == directory / f"{name}.py"


def _import_privately(name: str, file: Path) -> ModuleType:
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(file):
        return loaded
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
