"""A server that is killed in the middle of a wait for the model's service: the wait goes on, and no tool runs again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest
from llmock.testing import LLMockServer

from tests.support.server import ROOT, Server
from tests.support.talk import get_thread, new_thread, start, until


@pytest.fixture
def llmock_server() -> Iterator[LLMockServer]:
    with LLMockServer() as server:
        yield server


def test_A3_a_wait_outlives_its_process_and_repeats_no_tool(database_url, llmock_server, llmock, tmp_path):
    llmock.call_tool("calculator", {"expression": "6*7"}).rate_limit(retry_after=4).reply("It is 42.")
    given = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": llmock_server.base_url(), "OUTBOX_PATH": str(tmp_path / "box")}
    with Server(database_url=database_url, config=ROOT / "langgraph.json", **given) as server, server.http() as http:
        thread = new_thread(http)
        start(http, thread, "agent", input={"messages": [{"role": "user", "content": "what is 6*7"}]})

        def failure():
            return (http.get(f"/threads/{thread}/state").json()["values"] or {}).get("error")

        until(failure, "the failure is in the state")
        due = failure()["next_attempt_at"]
        server.kill()
        server.start()
        until(lambda: get_thread(http, thread)["status"] == "idle", "the run has ended", 30.0)
        values = get_thread(http, thread)["values"]
        assert [message["type"] for message in values["messages"]] == ["human", "ai", "tool", "ai"]
        assert values["messages"][-1]["content"] == "It is 42."
        (run,) = http.get(f"/threads/{thread}/runs").json()
        assert run["status"] == "success"
        assert datetime.fromisoformat(run["updated_at"]) >= datetime.fromisoformat(due)
        states = http.get(f"/threads/{thread}/history", params={"limit": 20}).json()
        failures = [state["values"]["error"] for state in states if state["values"].get("error")]
        assert {failure["next_attempt_at"] for failure in failures} == {due}
    assert len(llmock.requests) == 3
