"""What the agent counts is in the server's `/metrics`."""

from __future__ import annotations

from tests.support.server import ROOT, Server


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
