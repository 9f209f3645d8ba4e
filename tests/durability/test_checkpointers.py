"""Checkpoints outside of Postgres: one server per backend, and what it does, keeps and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server, with_sections
from tests.support.talk import get_thread, join, new_thread, refused, run_status, start, until, wait

OWN_SAVER = """
from contextlib import asynccontextmanager
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

@asynccontextmanager
async def opened():
    async with AsyncSqliteSaver.from_conn_string({file!r}) as saver:
        await saver.setup()
        yield saver
"""

FUSSY = """
from typing import Any, TypedDict
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

class State(TypedDict, total=False):
    said: str

def ask(state: State) -> State:
    answer = interrupt("what?")
    if answer == "nonsense":
        raise ValueError("that is no answer")
    return {"said": answer}

graph = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END)
"""


def configured(place: Path, **checkpointer: Any) -> Path:
    """A langgraph.json with this section: the graphs of the shared project, and one that refuses some answers."""
    (place / "fussy.py").write_text(FUSSY)
    (place / "saver.py").write_text(OWN_SAVER.format(file=str(place / "own.sqlite")))
    config = with_sections(PROJECT, place, checkpointer=checkpointer)
    config.write_text(config.read_text().replace('"graphs": {', '"graphs": {"fussy": "./fussy.py:graph", ', 1))
    return config


@contextmanager
def serving(cluster: Cluster, place: Path, **checkpointer: Any) -> Iterator[tuple[Server, str]]:
    config = configured(place, **checkpointer)
    with cluster.database() as url, Server(database_url=url, config=config, data_dir=place) as running:
        yield running, url


@pytest.fixture(
    scope="module",
    params=[{"backend": "sqlite"}, {"backend": "memory"}, {"path": "./saver.py:opened"}],
    ids=["sqlite", "memory", "custom"],
)
def served(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    with serving(cluster, tmp_path_factory.mktemp("saver"), **request.param) as running:
        yield running


@pytest.fixture(scope="module")
def http(served: tuple[Server, str]) -> Iterator[httpx.Client]:
    with served[0].http(timeout=30) as client:
        yield client


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def texts(values: dict[str, Any]) -> list[str]:
    return [message["content"] for message in values["messages"]]


def state(http: httpx.Client, thread: str) -> dict[str, Any]:
    answer = http.get(f"/threads/{thread}/state")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def history(http: httpx.Client, thread: str) -> list[dict[str, Any]]:
    answer = http.get(f"/threads/{thread}/history", params={"limit": 100})
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def in_postgres(url: str) -> int:
    with psycopg.connect(url) as conn:
        [count] = conn.execute("SELECT count(*) FROM checkpoints").fetchone() or [None]
    assert isinstance(count, int)
    return count


def test_a_conversation_goes_on_and_postgres_has_no_checkpoint_of_it(
    http: httpx.Client, served: tuple[Server, str]
) -> None:
    thread = new_thread(http)
    wait(http, thread, "echo", input=said("one"))
    values = wait(http, thread, "echo", input=said("two"))
    assert texts(values) == ["one", "you said: one", "two", "you said: two"]
    assert get_thread(http, thread)["values"] == state(http, thread)["values"] == values
    assert in_postgres(served[1]) == 0


def test_a_question_is_answered_once(http: httpx.Client) -> None:
    thread = new_thread(http)
    wait(http, thread, "twice", input={"log": []})
    assert get_thread(http, thread)["status"] == "interrupted"
    wait(http, thread, "twice", command={"resume": "yes"})
    values = wait(http, thread, "twice", command={"resume": "no"})
    assert values["log"] == [{"first": "yes"}, {"second": "no"}]
    late = http.post(f"/threads/{thread}/runs", json={"assistant_id": "twice", "command": {"resume": "again"}})
    refused(late, 409)


def test_questions_side_by_side_and_in_subgraphs_meet_their_answers(http: httpx.Client) -> None:
    thread = new_thread(http)
    wait(http, thread, "parallel", input={"log": []})
    asked = [question for task in get_thread(http, thread)["interrupts"].values() for question in task]
    answers = {question["id"]: f"to {question['value']['question']}" for question in asked}
    values = wait(http, thread, "parallel", command={"resume": answers})
    assert sorted(map(str, values["log"])) == ["done", "{'q1': 'to 1'}", "{'q2': 'to 2'}"]
    nested = new_thread(http)
    wait(http, nested, "nested_ask", input={"log": []})
    assert wait(http, nested, "nested_ask", command={"resume": "yes"})["log"] == ["yes"]


def test_an_answer_that_made_its_run_fail_can_be_given_anew(http: httpx.Client) -> None:
    thread = new_thread(http)
    wait(http, thread, "fussy", input={})
    failed = start(http, thread, "fussy", command={"resume": "nonsense"})
    join(http, thread, failed)
    assert run_status(http, thread, failed) == "error"
    assert wait(http, thread, "fussy", command={"resume": "sense"}) == {"said": "sense"}


def test_history_shows_the_newest_first_and_a_run_may_begin_in_it(http: httpx.Client) -> None:
    thread = new_thread(http)
    wait(http, thread, "echo", input=said("one"))
    before = state(http, thread)["checkpoint"]
    wait(http, thread, "echo", input=said("two"))
    past = history(http, thread)
    assert [len(one["values"].get("messages", [])) for one in past] == [4, 3, 2, 2, 1, 0]
    assert [one["parent_checkpoint"]["checkpoint_id"] for one in past[:-1]] == [
        one["checkpoint"]["checkpoint_id"] for one in past[1:]
    ]
    values = wait(http, thread, "echo", input=said("other"), checkpoint=before)
    assert texts(values) == ["one", "you said: one", "other", "you said: other"]
    assert texts(state(http, thread)["values"]) == texts(values)
    older = http.get(f"/threads/{thread}/state/{past[0]['checkpoint']['checkpoint_id']}").json()
    assert texts(older["values"])[2:] == ["two", "you said: two"]


def test_channels_that_are_kept_as_deltas_are_read_back(http: httpx.Client) -> None:
    thread = new_thread(http)
    values = wait(http, thread, "growing", input={"log": [], "count": 3})
    assert state(http, thread)["values"] == values
    assert history(http, thread)[0]["values"] == values
    [copy] = [http.post(f"/threads/{thread}/copy").json()["thread_id"]]
    assert state(http, copy)["values"] == values


def test_an_update_is_a_state_and_the_next_run_goes_on_from_it(http: httpx.Client) -> None:
    thread = new_thread(http)
    wait(http, thread, "echo", input=said("one"))
    written = http.post(f"/threads/{thread}/state", json={"values": said("between")})
    assert written.status_code == 200, written.text
    assert texts(get_thread(http, thread)["values"]) == ["one", "you said: one", "between"]
    assert texts(wait(http, thread, "echo", input=said("two")))[2:] == ["between", "two", "you said: two"]
    made = new_thread(
        http,
        metadata={"graph_id": "echo"},
        supersteps=[{"updates": [{"values": said("from before"), "as_node": "__start__"}]}],
    )
    assert texts(state(http, made)["values"]) == ["from before"]


def test_a_copy_has_the_history_and_goes_its_own_way(http: httpx.Client) -> None:
    thread = new_thread(http)
    wait(http, thread, "approve", input={"log": ["x"]})
    copy = str(http.post(f"/threads/{thread}/copy").json()["thread_id"])
    assert len(history(http, copy)) == len(history(http, thread)) > 1
    assert wait(http, copy, "approve", command={"resume": "yes"})["log"] == ["x", "yes", "done"]
    assert state(http, thread)["values"] == {"log": ["x"]}
    assert wait(http, thread, "approve", command={"resume": "no"})["log"] == ["x", "no", "done"]


def test_what_is_deleted_or_pruned_is_gone_from_the_saver_too(http: httpx.Client) -> None:
    for remove in ("delete", "prune"):
        thread = new_thread(http)
        wait(http, thread, "echo", input=said("secret"))
        if remove == "delete":
            assert http.delete(f"/threads/{thread}").status_code == 204
        else:
            body = {"thread_ids": [thread], "strategy": "delete"}
            assert http.post("/threads/prune", json=body).json() == {"pruned_count": 1}
        # A thread of the same id begins anew.
        assert http.post("/threads", json={"thread_id": thread, "metadata": {"graph_id": "echo"}}).status_code == 200
        assert history(http, thread) == []
        assert texts(wait(http, thread, "echo", input=said("new"))) == ["new", "you said: new"]


def test_stateless_runs_leave_nothing(http: httpx.Client) -> None:
    values = http.post("/runs/wait", json={"assistant_id": "echo", "input": said("hello")}).json()
    assert texts(values) == ["hello", "you said: hello"]


def test_a_run_is_cancelled_where_it_stands_and_another_may_take_its_place(http: httpx.Client) -> None:
    thread = new_thread(http)
    first = start(
        http, thread, "steps", input={"log": [], "pause": 0.02, "count": 900}, config={"recursion_limit": 999}
    )
    until(lambda: history(http, thread)[:1] and history(http, thread)[0]["values"].get("log"), "the run gets on")
    values = wait(http, thread, "steps", input={"log": [], "pause": 0, "count": 0}, multitask_strategy="interrupt")
    assert run_status(http, thread, first) == "interrupted"
    assert values["log"][0] == 0


def test_what_the_saver_cannot_do_is_refused_with_501(http: httpx.Client) -> None:
    thread = new_thread(http)
    wait(http, thread, "approve", input={"log": []})
    runs = f"/threads/{thread}/runs"
    body = {"assistant_id": "approve", "input": {"log": []}, "multitask_strategy": "rollback"}
    assert "rolled back" in refused(http.post(runs, json=body), 501)
    assert "rolled back" in refused(
        http.post("/runs/cancel", json={"status": "all"}, params={"action": "rollback"}), 501
    )
    assert "history" in refused(
        http.post("/threads/prune", json={"thread_ids": [thread], "strategy": "keep_latest"}), 501
    )
    refused(http.post("/threads/prune", json={"thread_ids": [thread], "strategy": "delete", "dry_run": True}), 501)
    refused(http.get(f"/threads/{thread}/storage"), 501)
    lives = {"strategy": "keep_latest", "ttl": 10}
    refused(http.post("/threads", json={"ttl": lives}), 501)
    refused(http.patch(f"/threads/{thread}", json={"ttl": lives}), 501)
    assert get_thread(http, thread)["status"] == "interrupted"


def test_the_log_says_at_the_start_what_is_lost(served: tuple[Server, str]) -> None:
    [warning] = [line for line in served[0].log.splitlines() if "docs/checkpointers.md" in line]
    assert "not in Postgres" in warning
    assert "cannot be rolled back" in warning


def test_a_killed_server_goes_on_from_its_file(cluster: Cluster, tmp_path: Path) -> None:
    with serving(cluster, tmp_path, backend="sqlite", path="state/c.sqlite") as (server, _), server.http() as http:
        thread = new_thread(http)
        run = start(
            http, thread, "steps", input={"log": [], "pause": 0.05, "count": 40}, config={"recursion_limit": 99}
        )
        until(lambda: history(http, thread)[:1] and len(history(http, thread)[0]["values"].get("log", [])) > 3, "steps")
        server.kill()
        assert (tmp_path / "state" / "c.sqlite").is_file()
        server.start()
        with server.http(timeout=60) as again:
            assert join(again, thread, run)["log"] == list(range(40))
            steps = [one["metadata"]["run_attempt"] for one in history(again, thread)]
            assert set(steps) == {1, 2}


def test_a_command_whose_update_was_saved_is_not_applied_again_after_a_kill(cluster: Cluster, tmp_path: Path) -> None:
    with serving(cluster, tmp_path, backend="sqlite") as (server, _), server.http() as http:
        thread = new_thread(http)
        wait(http, thread, "steps", input={"log": [], "pause": 0, "count": 1})
        before = len(history(http, thread))
        command = {"update": {"log": ["once"], "pause": 0.2, "count": 8}, "goto": "step"}
        run = start(http, thread, "steps", command=command)
        until(lambda: len(history(http, thread)) > before, "the command's first step")
        server.kill()
        server.start()
        with server.http(timeout=60) as again:
            log = join(again, thread, run)["log"]
        assert log.count("once") == 1
        assert [entry for entry in log if entry != "once"] == list(range(8))


def test_a_thread_whose_checkpoints_are_gone_is_not_taken_for_an_empty_one(cluster: Cluster, tmp_path: Path) -> None:
    with serving(cluster, tmp_path, backend="memory") as (server, _), server.http() as http:
        thread = new_thread(http)
        values = wait(http, thread, "echo", input=said("one"))
        server.stop()
        server.start()
        with server.http(timeout=30) as again:
            run = start(again, thread, "echo", input=said("two"))
            assert "checkpoints are not where" in str(join(again, thread, run))
            assert run_status(again, thread, run) == "error"
            refused(again.get(f"/threads/{thread}/state"), 409)
            refused(again.post(f"/threads/{thread}/state", json={"values": said("x")}), 409)
            assert get_thread(again, thread)["values"] == values


def test_a_run_that_takes_memory_down_twice_is_given_up(cluster: Cluster, tmp_path: Path) -> None:
    """A process of its own, as other backends give to suspects, would know nothing of the thread."""
    with serving(cluster, tmp_path, backend="memory") as (server, _), server.http() as http:
        thread = new_thread(http)
        run = start(
            http, thread, "steps", input={"log": [], "pause": 0.1, "count": 900}, config={"recursion_limit": 999}
        )
        for _ in range(2):
            with server.http() as client:
                until(lambda http=client: history(http, thread), "the run gets on")  # type: ignore[misc]
            server.kill()
            server.start()
        with server.http(timeout=60) as again:
            assert "crash budget" in str(join(again, thread, run))
