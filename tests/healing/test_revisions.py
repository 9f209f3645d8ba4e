"""A project changes under threads that wait: what the new code would break ends with a clear error, and stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.server import Server
from tests.support.talk import get_thread, join, new_thread, refused, start, until, wait

OLD = """
import asyncio
import operator
from typing import Annotated
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict

def fold(log, writes):
    return [*log, *(one for write in writes for one in write)]

class State(TypedDict, total=False):
    said: Annotated[list[str], operator.add]
    log: Annotated[list[str], DeltaChannel(fold)]
    note: str

async def first(state):
    if state["said"][-1] == "slow":
        await asyncio.sleep(600)
    return {"log": ["first"], "note": "n"}

async def review(state):
    return {"said": [str(interrupt("may I?"))], "log": ["review"]}

builder = StateGraph(State).add_node("first", first).add_node("REVIEW", review)
builder.add_edge(START, "first").add_edge("REVIEW", END)
"""
EDGE = 'builder.add_edge("first", "REVIEW")\n'
SEND = 'builder.add_conditional_edges("first", lambda state: [Send("REVIEW", state)], ["REVIEW"])\n'
GRAPH = "graph = builder\n"


class Project:
    """A project whose code changes between two starts of its server."""

    def __init__(self, place: Path, url: str) -> None:
        self._code, self._config = place / "changing.py", place / "langgraph.json"
        self._config.write_text(json.dumps({"dependencies": [], "graphs": {"changing": "./changing.py:graph"}}))
        self.url = url

    def serve(self, *edits: tuple[str, str], edge: str = EDGE) -> Server:
        """A server of the project's old code with these replacements made in it."""
        code = OLD + edge + GRAPH
        for old, new in edits:
            assert old in code
            code = code.replace(old, new)
        self._code.write_text(code.replace("REVIEW", "review"))
        return Server(database_url=self.url, config=self._config)


GONE = ("REVIEW", "approve")


@pytest.fixture
def project(tmp_path: Path, database_url: str) -> Project:
    return Project(tmp_path, database_url)


def waiting(server: Server) -> str:
    """A thread that waits for an answer."""
    with server.http(timeout=30) as http:
        thread = new_thread(http)
        assert "__interrupt__" in wait(http, thread, "changing", input={"said": ["go"]})
    return thread


def row(http: httpx.Client, thread: str) -> dict[str, Any]:
    """What of a thread a run that was not begun leaves alone."""
    return {key: value for key, value in get_thread(http, thread).items() if key not in ("updated_at", "metadata")}


def checkpoints(url: str, thread: str) -> list[Any]:
    with psycopg.connect(url) as conn:
        return [
            conn.execute(f"SELECT * FROM {table} WHERE thread_id = %s ORDER BY 1, 2, 3, 4", [thread]).fetchall()
            for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
        ]


def error_of(http: httpx.Client, thread: str, **body: Any) -> dict[str, str]:
    error: dict[str, str] = join(http, thread, start(http, thread, "changing", **body))["__error__"]
    return error


@pytest.mark.requirement("healing.graph_changed")
@pytest.mark.parametrize("edge", [EDGE, SEND], ids=["edge", "send"])
def test_an_answer_for_a_node_that_is_gone_can_be_given_when_it_is_back(project: Project, edge: str) -> None:
    with project.serve(edge=edge) as server:
        thread = waiting(server)
    with project.serve(GONE, edge=edge) as server, server.http(timeout=30) as http:
        before, kept = row(http, thread), checkpoints(project.url, thread)
        error = error_of(http, thread, command={"resume": "yes"})
        assert error["error"] == "GraphChanged"
        assert "node 'review' is gone" in error["message"]
        assert (row(http, thread), checkpoints(project.url, thread)) == (before, kept)
        assert before["status"] == "interrupted"
    with project.serve(edge=edge) as server, server.http(timeout=30) as http:
        assert wait(http, thread, "changing", command={"resume": "yes"})["said"] == ["go", "yes"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (("    note: str\n", ""), "channel 'note' (LastValue[str]) is gone"),
        (("    note: str\n", "    note: dict\n"), "channel 'note' was LastValue[str] and is LastValue[dict] now"),
    ],
)
def test_a_channel_that_is_gone_or_changed_stops_an_answer(project: Project, edit: tuple[str, str], words: str) -> None:
    with project.serve() as server:
        thread = waiting(server)
    with project.serve(edit, ('"note": "n"', "")) as server, server.http(timeout=30) as http:
        before = row(http, thread)
        assert words in error_of(http, thread, command={"resume": "yes"})["message"]
        assert words in error_of(http, thread, input=None)["message"]
        assert row(http, thread) == before


@pytest.mark.parametrize("edit", [("note: str", "note: str | None"), ("note: str\n", "note: str\n    more: int\n")])
def test_what_only_adds_stops_nothing(project: Project, edit: tuple[str, str]) -> None:
    with project.serve() as server:
        thread = waiting(server)
    with project.serve(edit) as server, server.http(timeout=30) as http:
        assert wait(http, thread, "changing", command={"resume": "yes"})["said"] == ["go", "yes"]


def test_new_input_leaves_the_question_behind_as_on_any_thread(project: Project) -> None:
    with project.serve() as server:
        thread = waiting(server)
    with project.serve(GONE) as server, server.http(timeout=30) as http:
        assert "__interrupt__" in wait(http, thread, "changing", input={"said": ["again"]})
        assert wait(http, thread, "changing", command={"resume": "yes"})["said"] == ["go", "again", "yes"]


@pytest.mark.requirement("healing.graph_changed_silently")
def test_a_delta_channel_that_became_a_plain_one_is_never_read_as_empty(project: Project) -> None:
    with project.serve() as server:
        thread = waiting(server)
    plain = ("DeltaChannel(fold)", "operator.add")
    with project.serve(plain) as server, server.http(timeout=30) as http:
        before, kept = row(http, thread), checkpoints(project.url, thread)
        words = "channel 'log' was a DeltaChannel"
        assert words in refused(http.get(f"/threads/{thread}/state"), 409)
        assert words in refused(http.get(f"/threads/{thread}/history"), 409)
        assert words in refused(http.post(f"/threads/{thread}/state", json={"values": {"log": ["x"]}}), 409)
        assert words in error_of(http, thread, input={"said": ["again"]})["message"]
        assert (row(http, thread), checkpoints(project.url, thread)) == (before, kept)


def test_a_recovered_run_whose_node_is_gone_ends_with_the_reason(project: Project) -> None:
    server = project.serve()
    with server, server.http(timeout=30) as http:
        thread = new_thread(http)
        run = start(http, thread, "changing", input={"said": ["slow"]})
        until(lambda: http.get(f"/threads/{thread}/state").json()["next"] == ["first"], "the first node is under way")
        server.kill()
    renamed = (('"first"', '"begin"'), ('"log": ["begin"]', '"log": ["first"]'))
    with project.serve(*renamed) as server, server.http(timeout=30) as http:
        error = join(http, thread, run)["__error__"]
        assert "node 'first' is gone" in error["message"]
        assert get_thread(http, thread)["status"] == "error"


@pytest.mark.requirement("healing.graph_revision")
def test_every_checkpoint_names_the_revision_that_wrote_it(project: Project) -> None:
    with project.serve() as server, server.http(timeout=30) as http:
        thread = waiting(server)
        http.post(f"/threads/{thread}/state", json={"values": {"note": "x"}, "as_node": "first"})
        states = http.get(f"/threads/{thread}/history", params={"limit": 20}).json()
        (revision,) = {state["metadata"]["graph_revision"] for state in states}
        assert len(revision) == 16
        with psycopg.connect(project.url) as conn:
            (kept,) = conn.execute("SELECT revision, nodes, channels FROM holdfast.graph_revisions").fetchall()
        assert kept == (
            revision,
            ["first", "review"],
            {"said": "BinaryOperatorAggregate[list]", "log": "DeltaChannel[list]", "note": "LastValue[str]"},
        )
    with project.serve() as server:
        again = waiting(server)
        with server.http(timeout=30) as http:
            assert http.get(f"/threads/{again}/state").json()["metadata"]["graph_revision"] == revision
