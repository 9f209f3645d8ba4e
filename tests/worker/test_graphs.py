from __future__ import annotations

import os
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from holdfast.db.checkpoints import FencedSaver
from holdfast.db.pool import Database
from holdfast.errors import ProjectError, UnknownGraph
from tests.worker.project_files import COUNTER, answer, failure, loaded

pytestmark = pytest.mark.anyio


# --- the forms of a target ---


@pytest.mark.parametrize("target", ["./agent.py:graph", "agent.py:builder", "agent:graph", "agent:builder"])
async def test_compiled_and_uncompiled_graphs_load_by_file_and_by_module(tmp_path: Path, target: str) -> None:
    async with loaded(tmp_path, {"agent.py": COUNTER}, graphs={"agent": target}) as graphs:
        assert await answer(graphs) == {"n": 2}


FACTORIES = {
    "plain": """
        def make():
            return graph
        """,
    "uncompiled": """
        def make():
            return builder
        """,
    "async": """
        async def make():
            return graph
        """,
    "config": """
        from langchain_core.runnables import RunnableConfig
        def make(whatever: RunnableConfig):
            assert whatever["configurable"]["user"] == "ada"
            return graph
        """,
    "bare_config": """
        async def make(c):
            assert c["configurable"]["user"] == "ada"
            return graph
        """,
    "optional_config": """
        def make(*, config=None, verbose=False):
            assert config["configurable"]["user"] == "ada"
            assert not verbose
            return graph
        """,
    "runtime": """
        from langchain_core.runnables import RunnableConfig
        from langgraph_sdk.runtime import ServerRuntime
        async def make(config: RunnableConfig, server: "ServerRuntime[dict]"):
            assert config["configurable"]["user"] == "ada"
            assert server.access_context == "threads.create_run"
            assert server.execution_runtime is not None
            assert server.store is not None
            return graph
        """,
    "partial": """
        import functools
        def build(kind, config):
            assert kind == "x" and config["configurable"]["user"] == "ada"
            return graph
        make = functools.partial(build, "x")
        """,
    "async_context_manager": """
        import contextlib
        @contextlib.asynccontextmanager
        async def make(config):
            assert config["configurable"]["user"] == "ada"
            yield graph
        """,
    "context_manager": """
        import contextlib
        @contextlib.contextmanager
        def make():
            yield builder
        """,
    "own_loop": """
        import asyncio
        async def later():
            return graph
        def make():
            return asyncio.run(later())
        """,
}


@pytest.mark.parametrize("form", FACTORIES)
async def test_a_factory_of_any_form_is_called_for_each_use(tmp_path: Path, form: str) -> None:
    files = {"agent.py": COUNTER + dedent(FACTORIES[form])}

    async with loaded(tmp_path, files, graphs={"agent": "./agent.py:make"}) as graphs:
        assert await answer(graphs, user="ada") == {"n": 2}
        assert await answer(graphs, user="ada") == {"n": 2}


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_context_manager_is_left_when_the_run_ends_or_fails(tmp_path: Path, kind: str) -> None:
    decorator, prefix = ("asynccontextmanager", "async ") if kind == "async" else ("contextmanager", "")
    factory = f"""
        import contextlib
        seen = []
        @contextlib.{decorator}
        {prefix}def make(config):
            seen.append("in")
            try:
                yield graph
            except ZeroDivisionError:
                seen.append("failed")
                raise
            finally:
                seen.append("out")
        """

    async with loaded(tmp_path, {"agent.py": COUNTER + dedent(factory)}, graphs={"agent": "./agent.py:make"}) as graphs:
        seen = sys.modules["agent"].seen
        await answer(graphs)
        assert seen == ["in", "out"]
        with pytest.raises(ZeroDivisionError):
            async with graphs.open("agent", {}, checkpointer=None, store=None):
                raise ZeroDivisionError
        assert seen == ["in", "out", "in", "failed", "out"]


async def test_the_error_of_a_factory_reaches_the_run_as_it_is(tmp_path: Path) -> None:
    factory = "def make(config):\n    raise LookupError('no such tenant')\n"

    async with loaded(tmp_path, {"agent.py": factory}, graphs={"agent": "./agent.py:make"}) as graphs:
        with pytest.raises(LookupError, match="no such tenant"):
            await answer(graphs)


async def test_a_functional_graph_loads(tmp_path: Path) -> None:
    code = """
        from langgraph.func import entrypoint

        @entrypoint()
        def graph(n: int) -> int:
            return n + 1
        """

    async with loaded(tmp_path, {"agent.py": code}) as graphs:
        assert await answer(graphs, value=1) == 2
        assert graphs.name("agent") == "agent"


async def test_several_graphs_share_a_file_and_keep_order_names_and_descriptions(tmp_path: Path) -> None:
    files = {"agent.py": COUNTER + "named = builder.compile(name='Counter')\n"}
    targets = {
        "b": {"path": "./agent.py:graph", "description": "Adds one"},
        "a": "agent:named",
        "f": "./agent.py:builder",
    }

    async with loaded(tmp_path, files, graphs=targets) as graphs:
        assert graphs.ids() == ("b", "a", "f")
        assert [graphs.description(graph_id) for graph_id in graphs.ids()] == ["Adds one", None, None]
        assert [graphs.name(graph_id) for graph_id in graphs.ids()] == ["b", "Counter", "f"]
        async with (
            graphs.open("a", {}, checkpointer=None, store=None) as a,
            graphs.open("b", {}, checkpointer=None, store=None) as b,
        ):
            assert a.builder is b.builder


async def test_an_unknown_graph_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    async with loaded(tmp_path, {"agent.py": COUNTER}) as graphs:
        with pytest.raises(UnknownGraph, match=r"'nobody'.*'agent'"):
            graphs.open("nobody", {}, checkpointer=None, store=None)


# --- what does not load ---


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    text = await failure(tmp_path, {})

    assert "graph 'agent' (./agent.py:graph)" in text
    assert f"there is no file {tmp_path / 'agent.py'}" in text


async def test_a_missing_module_is_named(tmp_path: Path) -> None:
    text = await failure(tmp_path, {}, graphs={"agent": "nowhere_at_all:graph"})

    assert "No module named 'nowhere_at_all'" in text
    assert "langgraph.json" in text


async def test_a_syntax_error_is_reported_with_its_line(tmp_path: Path) -> None:
    text = await failure(tmp_path, {"agent.py": "import os\n\ngraph = (\n"})

    assert f"{tmp_path / 'agent.py'}:3: SyntaxError: '(' was never closed" in text


async def test_a_syntax_error_in_an_imported_file_is_reported_there(tmp_path: Path) -> None:
    text = await failure(tmp_path, {"agent.py": "import nodes\n", "nodes.py": "x = 1\ndef broken(:\n"})

    assert f"{tmp_path / 'nodes.py'}:2: SyntaxError" in text


async def test_an_error_at_import_is_reported_at_the_users_line(tmp_path: Path) -> None:
    nodes = "import json\n\ndef parse():\n    return json.loads('{')\n"

    text = await failure(tmp_path, {"agent.py": "import nodes\ngraph = nodes.parse()\n", "nodes.py": nodes})

    assert f"{tmp_path / 'nodes.py'}:4: JSONDecodeError: " in text


async def test_a_package_that_is_not_installed_is_reported_at_the_import(tmp_path: Path) -> None:
    text = await failure(tmp_path, {"agent.py": "\nimport surely_not_installed\n"})

    assert f"{tmp_path / 'agent.py'}:2: No module named 'surely_not_installed'" in text
    assert "installed in the environment" in text


async def test_code_that_exits_at_import_does_not_end_the_server(tmp_path: Path) -> None:
    text = await failure(tmp_path, {"agent.py": "import sys\nsys.exit(3)\n"})

    assert f"{tmp_path / 'agent.py'}:2: " in text
    assert "exit status 3" in text


async def test_a_missing_object_is_reported_with_what_it_may_be_called(tmp_path: Path) -> None:
    text = await failure(tmp_path, {"agent.py": COUNTER}, graphs={"agent": "./agent.py:grpah"})

    assert f"{tmp_path / 'agent.py'}: there is no 'grpah' in it; did you mean 'graph'?" in text


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("graph = {'nodes': []}", "of type dict"),
        ("class graph: pass", "the class graph"),
        ("from langchain_core.runnables import RunnableLambda\ngraph = RunnableLambda(str)", "of type RunnableLambda"),
    ],
)
async def test_an_object_that_is_no_graph_is_reported_at_its_definition(tmp_path: Path, code: str, kind: str) -> None:
    text = await failure(tmp_path, {"agent.py": f"x = 1\n{code}\n"})

    line = 1 + len(code.splitlines())
    wanted = "not a compiled graph, a StateGraph or a function that makes one"
    assert f"{tmp_path / 'agent.py'}:{line}: 'graph' is {kind}, {wanted}" in text


async def test_a_graph_that_does_not_compile_is_reported_at_its_definition(tmp_path: Path) -> None:
    code = COUNTER + "broken = StateGraph(State)\nbroken.add_edge(START, 'nowhere')\n"
    line = code.splitlines().index("broken = StateGraph(State)") + 1

    text = await failure(tmp_path, {"agent.py": code}, graphs={"agent": "./agent.py:broken"})

    assert f"{tmp_path / 'agent.py'}:{line}: ValueError: " in text
    assert "nowhere" in text


async def test_a_factory_that_asks_for_too_much_is_refused_at_load(tmp_path: Path) -> None:
    text = await failure(
        tmp_path, {"agent.py": "\ndef graph(config, database): ...\n"}, graphs={"agent": "agent:graph"}
    )

    assert f"{tmp_path / 'agent.py'}:2: TypeError: the factory asks for database" in text


async def test_a_factory_that_makes_no_graph_is_reported_when_it_is_used(tmp_path: Path) -> None:
    async with loaded(tmp_path, {"agent.py": "def graph():\n    return 3\n"}) as graphs:
        with pytest.raises(ProjectError, match=r"agent\.py:1: what the factory made is of type int, not a"):
            await answer(graphs)


async def test_a_failed_load_leaves_nothing_behind(tmp_path: Path) -> None:
    path = list(sys.path)

    await failure(tmp_path, {"agent.py": "import leftover\n1/0\n", "leftover.py": ""}, env={"LEFT": "over"})

    assert sys.path == path
    assert not {"agent", "leftover"} & set(sys.modules)
    assert "LEFT" not in os.environ


# --- what open() hands out ---


async def test_each_use_gets_its_own_saver_and_store_and_the_shared_graph_stays_as_it_was(tmp_path: Path) -> None:
    savers, stores = [InMemorySaver(), InMemorySaver()], [InMemoryStore(), InMemoryStore()]

    async with loaded(tmp_path, {"agent.py": COUNTER}) as graphs:
        shared = sys.modules["agent"].graph
        async with (
            graphs.open("agent", {}, checkpointer=savers[0], store=stores[0]) as first,
            graphs.open("agent", {}, checkpointer=savers[1], store=stores[1]) as second,
        ):
            assert (first.store, second.store) == (stores[0], stores[1])
            for graph, n in ((first, 1), (second, 10)):
                await graph.ainvoke({"n": n}, {"configurable": {"thread_id": "t"}})
            states = [await graph.aget_state({"configurable": {"thread_id": "t"}}) for graph in (first, second)]
        assert [state.values["n"] for state in states] == [2, 11]
        assert shared.checkpointer is None
        assert shared.store is None
        assert type(first) is type(shared)


async def test_a_saver_of_the_graphs_own_is_replaced_and_a_store_only_by_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = COUNTER + dedent("""
        from langgraph.checkpoint.memory import InMemorySaver
        from langgraph.store.memory import InMemoryStore
        own = InMemoryStore()
        graph = builder.compile(checkpointer=InMemorySaver(), store=own)
        """)
    store = InMemoryStore()

    async with loaded(tmp_path, {"agent.py": code}) as graphs:
        assert "brings a checkpointer of its own" in caplog.text
        async with graphs.open("agent", {}, checkpointer=None, store=None) as graph:
            assert graph.checkpointer is None
            assert graph.store is sys.modules["agent"].own
        async with graphs.open("agent", {}, checkpointer=None, store=store) as graph:
            assert graph.store is store


async def test_typed_streaming_survives_the_copy(tmp_path: Path) -> None:
    code = """
        from dataclasses import dataclass
        from langgraph.graph import START, StateGraph

        @dataclass
        class State:
            n: int = 0

        graph = StateGraph(State).add_node("add", lambda state: {"n": state.n + 1}).add_edge(START, "add").compile()
        """

    async with (
        loaded(tmp_path, {"agent.py": code}) as graphs,
        graphs.open("agent", {}, checkpointer=None, store=None) as graph,
    ):
        parts = [part async for part in graph.astream({"n": 1}, stream_mode="values", version="v2")]
        assert type(parts[-1]["data"]).__name__ == "State"


async def test_the_environment_is_there_at_import_and_the_process_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_TEST_A", "process")
    monkeypatch.delenv("HOLDFAST_TEST_B", raising=False)
    code = "import os\nseen = os.environ['HOLDFAST_TEST_A'], os.environ['HOLDFAST_TEST_B']\n" + COUNTER
    wanted = {"HOLDFAST_TEST_A": "project", "HOLDFAST_TEST_B": "project"}
    dotenv = "".join(f"{name}={value}\n" for name, value in wanted.items())

    async with loaded(tmp_path, {"agent.py": code}, env=wanted):
        assert sys.modules["agent"].seen == ("process", "project")
    async with loaded(tmp_path, {"agent.py": code, "my.env": dotenv}, env="my.env"):
        assert sys.modules["agent"].seen == ("process", "project")

    assert os.environ["HOLDFAST_TEST_A"] == "process"
    assert "HOLDFAST_TEST_B" not in os.environ


async def test_the_saver_learns_how_its_graphs_lists_are_stored(tmp_path: Path) -> None:
    targets = dict.fromkeys(("agent", "plain"), "agent.py:graph")
    section = {"storage": "elements", "graphs": {"plain": {"storage": "whole"}}}
    stored = {}
    async with loaded(tmp_path, {"agent.py": COUNTER}, graphs=targets, checkpointer=section) as graphs:
        for graph_id in targets:
            saver = FencedSaver(Database("postgresql://nowhere", size=1))
            async with graphs.open(graph_id, {}, checkpointer=saver, store=None) as graph:
                assert isinstance(graph.checkpointer, FencedSaver)
                stored[graph_id] = graph.checkpointer.by_element
    assert stored == {"agent": True, "plain": False}
