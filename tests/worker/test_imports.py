from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.project_files import COUNTER, answer, loaded, write

pytestmark = pytest.mark.anyio


async def test_a_file_in_a_package_is_imported_as_part_of_it(tmp_path: Path) -> None:
    files = {
        "shop/__init__.py": "",
        "shop/state.py": "class Marker: pass\n",
        "shop/agent.py": "from .state import Marker\nimport shop.state\nassert shop.state.Marker is Marker\n" + COUNTER,
    }

    async with loaded(tmp_path, files, graphs={"a": "./shop/agent.py:graph", "b": "shop.agent:graph"}) as graphs:
        assert sys.modules["shop.agent"].State is not None
        assert graphs.serde_allow_list("a") == graphs.serde_allow_list("b")
        assert await answer(graphs, "a") == {"n": 2}
    assert not {"shop", "shop.agent", "shop.state"} & set(sys.modules)


@pytest.mark.parametrize(
    ("file", "module", "config"),
    [
        ("agents/one/agent.py", "agents.one.agent", {}),
        ("src/agent.py", "agent", {"dependencies": ["./src"]}),
        ("libs/shop/agent.py", "shop.agent", {"dependencies": ["./libs/shop"]}),
        ("lib/src/shop/agent.py", "shop.agent", {"dependencies": ["./lib"]}),
    ],
)
async def test_a_file_gets_the_name_by_which_the_users_code_imports_it(
    tmp_path: Path, file: str, module: str, config: dict[str, Any]
) -> None:
    files = {file: COUNTER, "libs/shop/__init__.py": "", "lib/pyproject.toml": "[project]\nname='shop'\n"}

    async with loaded(tmp_path, files, graphs={"agent": f"./{file}:graph"}, **config):
        assert sys.modules[module].__file__ == str(tmp_path / file)


@pytest.mark.parametrize("file", ["my-agents/v1.2.py", "types.py", "numbers.py"])
async def test_a_file_without_a_usable_name_gets_a_private_one_that_does_not_move(tmp_path: Path, file: str) -> None:
    code = "from enum import Enum\nclass Choice(Enum):\n    A = 1\n" + COUNTER.replace(
        "n: int", "n: int\n    c: Choice"
    )
    names = []
    for checkout in ("here", "there"):
        (tmp_path / checkout).mkdir()
        async with loaded(tmp_path / checkout, {file: code}, graphs={"agent": f"./{file}:graph"}) as graphs:
            ((module, name),) = graphs.serde_allow_list("agent")
            names.append(module)
            assert getattr(sys.modules[module], name)(1)
    assert names[0] == names[1]
    assert names[0].startswith("_project_file_")


async def test_two_projects_after_each_other_do_not_mix(tmp_path: Path) -> None:
    for step in (1, 10):
        directory = tmp_path / str(step)
        directory.mkdir()
        files = {
            "steps.py": f"STEP = {step}\n",
            "agent.py": "from steps import STEP\n" + COUNTER.replace("+ 1", "+ STEP"),
        }
        async with loaded(directory, files) as graphs:
            assert await answer(graphs) == {"n": 1 + step}


async def test_a_project_with_its_own_server_and_graph_packages_is_served(tmp_path: Path) -> None:
    files = {
        "server/__init__.py": "",
        "server/limits.py": "STEP = 5\n",
        "graph/__init__.py": "",
        "graph/state.py": "from typing_extensions import TypedDict\nclass State(TypedDict):\n    n: int\n",
        "graph/agent.py": """
            from langgraph.graph import START, StateGraph
            from graph.state import State
            from server.limits import STEP

            graph = StateGraph(State).add_node("add", lambda state: {"n": state["n"] + STEP})
            graph.add_edge(START, "add")
            """,
    }
    config = write(tmp_path, files, graphs={"file": "./graph/agent.py:graph", "module": "graph.agent:graph"})
    script = f"""
import asyncio, pathlib
from holdfast.project import load_project
from holdfast.worker.graphs import Graphs

async def main():
    graphs = await Graphs.load(load_project(pathlib.Path({str(config)!r})))
    for graph_id in graphs.ids():
        async with graphs.open(graph_id, {{}}, checkpointer=None, store=None) as graph:
            print(graph_id, (await graph.ainvoke({{"n": 1}}))["n"])

asyncio.run(main())
"""
    # A process of its own, started in our checkout: its graph/ and server/ are the ones to keep out of the way.
    checkout = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(checkout / "server")}
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert process.stdout.split() == ["file", "6", "module", "6"], process.stderr
