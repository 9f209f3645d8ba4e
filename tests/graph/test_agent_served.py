"""The agent behind the server: what it counts is in `/metrics`, what a run may not set is refused."""

from __future__ import annotations

import pytest

from tests.support.server import ROOT, Server
from tests.support.talk import get_thread, new_thread


def test_A10_caches_and_A5_breakers_are_seen_in_the_servers_metrics(database_url, tmp_path):
    given = {"OUTBOX_PATH": str(tmp_path / "box"), "MODEL_CACHE": "exact", "CACHE_TOOL_CALLS": "on"}
    body = {
        "assistant_id": "agent",
        "input": {"messages": [{"role": "user", "content": "hello"}]},
        "context": {"temperature": 0},
    }
    with (
        Server(database_url=database_url, config=ROOT / "langgraph.json", **given) as server,
        server.http(timeout=30) as http,
    ):
        for _ in range(2):
            http.post("/runs/wait", json=body).raise_for_status()
        lines = http.get("/metrics").text.splitlines()
    counted = dict(line.rsplit(" ", 1) for line in lines if line.startswith("agent_"))
    assert counted['agent_model_calls_total{endpoint="offline",outcome="ok"}'] == "1.0"
    assert counted['agent_cache_lookups_total{cache="exact",outcome="hit"}'] == "1.0"
    assert counted['agent_cache_lookups_total{cache="exact",outcome="miss"}'] == "1.0"
    assert counted['agent_breaker_state{endpoint="offline"}'] == "0.0"


@pytest.mark.parametrize(
    ("context", "named"),
    [
        ({"budget_usd": -1}, "budget_usd"),
        ({"temperature": "warm"}, "temperature"),
        ({"approvals": "never"}, "approvals"),
    ],
)
def test_A18_a_context_that_does_not_fit_ends_the_run_and_names_the_field(database_url, tmp_path, context, named):
    body = {"assistant_id": "agent", "input": {"messages": [{"role": "user", "content": "hello"}]}}
    with (
        Server(database_url=database_url, config=ROOT / "langgraph.json", OUTBOX_PATH=str(tmp_path / "box")) as server,
        server.http(timeout=30) as http,
    ):
        thread = new_thread(http)
        failed = http.post(f"/threads/{thread}/runs/wait", json=body | {"context": context}).json()["__error__"]
        assert failed["error"] == "ValidationError"
        assert named in failed["message"]
        answered = http.post(f"/threads/{thread}/runs/wait", json=body).json()
        assert answered["messages"][-1]["type"] == "ai"
        assert get_thread(http, thread)["status"] == "idle"
