"""What an assistant, a thread and a request say about a run, as its graph and its clients see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.talk import LONG, join, new_thread, refused, start, until_running, wait

PRESET = {
    "config": {"tags": ["preset"], "recursion_limit": 11, "configurable": {"tone": "calm", "size": 1}},
    "metadata": {"who": "assistant", "a": 1},
}


@pytest.fixture
def assistant(http: httpx.Client) -> Iterator[str]:
    """An assistant with settings of its own."""
    created = http.post("/assistants", json={"graph_id": "settings", **PRESET})
    assert created.status_code == 200, created.text
    assistant_id = created.json()["assistant_id"]
    yield assistant_id
    http.delete(f"/assistants/{assistant_id}")


@pytest.mark.requirement("assistants.config_merge")
def test_a_run_starts_from_its_assistants_settings(http: httpx.Client, thread: str, assistant: str) -> None:
    seen = wait(http, thread, assistant, input={})["seen"]
    assert (seen["configurable"]["tone"], seen["configurable"]["size"]) == ("calm", 1)
    assert seen["context"] == {"tone": "calm", "size": 1}
    assert (seen["tags"], seen["recursion_limit"]) == (["preset"], 11)
    assert (seen["metadata"]["who"], seen["metadata"]["a"]) == ("assistant", 1)


@pytest.mark.requirement("assistants.config_merge")
@pytest.mark.parametrize("name", ["configurable", "context"])
def test_a_request_wins_over_the_assistant_under_both_names(
    http: httpx.Client, thread: str, assistant: str, name: str
) -> None:
    asked: dict[str, Any] = {"tone": "loud"}
    config = {"tags": ["asked"], "recursion_limit": 12}
    body = {"context": asked, "config": config} if name == "context" else {"config": {**config, "configurable": asked}}
    seen = wait(http, thread, assistant, input={}, **body)["seen"]
    assert (seen["configurable"]["tone"], seen["configurable"]["size"]) == ("loud", 1)
    assert seen["context"] == {"tone": "loud", "size": 1}
    assert (seen["tags"], seen["recursion_limit"]) == (["asked"], 12)


@pytest.mark.requirement("assistants.context_schema")
def test_context_that_the_graph_does_not_know_is_dropped_when_it_runs(
    http: httpx.Client, thread: str, assistant: str
) -> None:
    seen = wait(http, thread, assistant, input={}, context={"tone": "loud", "unknown": 1})["seen"]
    assert seen["context"] == {"tone": "loud", "size": 1}


@pytest.mark.requirement("assistants.metadata_merge")
def test_a_runs_metadata_is_laid_over_from_assistant_thread_config_and_request(
    http: httpx.Client, assistant: str
) -> None:
    said = {"who": "thread", "b": 2, "c": 2, "d": 2, "thread_id": "forged", "run_id": "forged", "cron_id": "forged"}
    thread = new_thread(http, metadata={**said, "graph_id": "steps", "assistant_id": "forged"})
    body = {"config": {"metadata": {"c": 3, "d": 3, "run_id": "forged"}}, "metadata": {"d": 4, "cron_id": "forged"}}
    run = http.post(f"/threads/{thread}/runs", json={"assistant_id": assistant, "input": {}, **body}).json()
    assert run["metadata"] == {"who": "thread", "a": 1, "b": 2, "c": 3, "d": 4, "assistant_id": assistant}
    seen = join(http, thread, run["run_id"])["seen"]["metadata"]
    assert (seen["graph_id"], seen["run_id"], seen["thread_id"]) == ("settings", run["run_id"], thread)
    assert "cron_id" not in seen


@pytest.mark.requirement("assistants.reserved_keys")
def test_reserved_keys_are_dropped_from_what_a_run_is_asked(http: httpx.Client, thread: str, assistant: str) -> None:
    forged = {"langgraph_auth_user": {"identity": "root"}, "langgraph_auth_permissions": ["all"]}
    for body in ({"context": {**forged, "tone": "loud"}}, {"config": {"configurable": {**forged, "tone": "loud"}}}):
        seen = wait(http, thread, assistant, input={}, **body)["seen"]
        assert seen["configurable"]["tone"] == "loud"
        assert not [key for key, value in forged.items() if seen["configurable"].get(key) == value]


@pytest.mark.requirement("runs.reserved_traces")
def test_a_run_cannot_pass_for_a_part_of_somebodys_trace(http: httpx.Client, thread: str, assistant: str) -> None:
    for body in ({"context": {"__otel_x__": 1}}, {"config": {"configurable": {"__otel_x__": 1}}}):
        seen = wait(http, thread, assistant, input={}, **body)["seen"]
        assert "__otel_x__" not in seen["configurable"]


@pytest.mark.requirement("assistants.both_given")
def test_a_run_with_configurable_and_context_is_refused(http: httpx.Client, thread: str, assistant: str) -> None:
    body = {"config": {"configurable": {"tone": "a"}}, "context": {"size": 1}}
    answer = http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": assistant, **body})
    assert "both configurable and context" in refused(answer, 400)


@pytest.mark.requirement("assistants.run_keeps_graph")
def test_a_run_ends_as_it_was_admitted_although_its_assistant_is_deleted(http: httpx.Client, thread: str) -> None:
    assistant = http.post("/assistants", json={"graph_id": "steps"}).json()["assistant_id"]
    running = start(http, thread, assistant, input={"pause": 0.2, "count": 4})
    waiting = start(http, thread, assistant, input={"count": 1, "pause": 0})
    assert http.delete(f"/assistants/{assistant}").status_code == 204
    assert join(http, thread, running)["log"] == [0, 1, 2, 3]
    assert http.get(f"/threads/{thread}/runs/{running}").json()["status"] == "success"
    join(http, thread, waiting)
    assert http.get(f"/threads/{thread}/runs/{waiting}").json()["status"] == "success"
    refused(http.post(f"/threads/{thread}/runs", json={"assistant_id": assistant}), 404)


@pytest.mark.requirement("assistants.delete_threads")
def test_deleting_an_assistant_with_its_threads_cancels_their_runs(http: httpx.Client) -> None:
    assistant = http.post("/assistants", json={"graph_id": "steps"}).json()["assistant_id"]
    idle, busy, foreign = new_thread(http), new_thread(http), new_thread(http)
    wait(http, idle, assistant, input={"count": 1})
    wait(http, foreign, "steps", input={"count": 1})
    until_running(http, busy, start(http, busy, assistant, **LONG))
    assert http.delete(f"/assistants/{assistant}", params={"delete_threads": "true"}).status_code == 204
    for thread in (idle, busy):
        refused(http.get(f"/threads/{thread}"), 404)
    assert http.get(f"/threads/{foreign}").status_code == 200
    refused(http.get(f"/assistants/{assistant}"), 404)


@pytest.mark.requirement("assistants.delete_threads")
def test_deleting_an_assistant_alone_leaves_its_threads(http: httpx.Client, thread: str) -> None:
    assistant = http.post("/assistants", json={"graph_id": "steps"}).json()["assistant_id"]
    wait(http, thread, assistant, input={"count": 1})
    assert http.delete(f"/assistants/{assistant}", params={"delete_threads": "false"}).status_code == 204
    assert http.get(f"/threads/{thread}/state").json()["values"]["log"] == [0]
