"""What operations with a body take, and what their fields do not."""

from __future__ import annotations

from typing import Any

from tests.api.store_values import WRONG_IN_THE_STORE

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/assistants"): {"graph_id": "steps"},
    ("POST", "/assistants/search"): {},
    ("POST", "/assistants/count"): {},
    ("PATCH", "/assistants/{assistant_id}"): {},
    ("POST", "/assistants/{assistant_id}/versions"): {},
    ("POST", "/assistants/{assistant_id}/latest"): {"version": 1},
    ("POST", "/threads"): {},
    ("POST", "/threads/search"): {},
    ("POST", "/threads/count"): {},
    ("POST", "/threads/prune"): {"thread_ids": []},
    ("PATCH", "/threads/{thread}"): {},
    ("POST", "/threads/{thread}/repair"): {},
    ("POST", "/threads/{thread}/state"): {"values": {"log": [1]}},
    ("POST", "/threads/{thread}/state/checkpoint"): {"checkpoint": {}},
    ("POST", "/threads/{thread}/history"): {},
    ("POST", "/threads/{thread}/runs"): {"assistant_id": "steps"},
    ("POST", "/threads/{thread}/runs/stream"): {"assistant_id": "steps"},
    ("POST", "/threads/{thread}/runs/wait"): {"assistant_id": "steps"},
    ("POST", "/runs"): {"assistant_id": "steps"},
    ("POST", "/runs/stream"): {"assistant_id": "steps"},
    ("POST", "/runs/wait"): {"assistant_id": "steps"},
    ("POST", "/runs/cancel"): {"status": "pending"},
    ("POST", "/runs/crons"): {"assistant_id": "steps", "schedule": "0 0 1 1 *"},
    ("POST", "/threads/{thread}/runs/crons"): {"assistant_id": "steps", "schedule": "0 0 1 1 *"},
    ("POST", "/runs/crons/search"): {},
    ("POST", "/runs/crons/count"): {},
    ("PATCH", "/runs/crons/{cron}"): {"enabled": False},
    ("PUT", "/store/items"): {"namespace": ["bad input"], "key": "k", "value": {}},
    ("DELETE", "/store/items"): {"namespace": ["bad input"], "key": "k"},
    ("POST", "/store/items/search"): {},
    ("POST", "/store/namespaces"): {},
}
"""Every operation with a body, and a body that it takes."""

LISTS = {("POST", "/runs/batch")}
"""Operations that take a list; tests/conformance/test_stateless.py tries them."""

JSON_RPC = {("POST", "/mcp/"), ("POST", "/a2a/{assistant_id}")}
"""These refuse in their own way: see `tests/conformance/test_mcp.py` and `test_a2a_tasks.py`."""

WRONG: dict[str, list[Any]] = {
    "metadata": [5, "text", [1]],
    "values": [5, "text"],
    "limit": ["many", 0, -1, 1.5, 10**30, [1]],
    "offset": ["some", -1, 1.5, 10**30],
    "status": ["bogus", 5, {}],
    "sort_by": ["bogus", 5, "values; DROP TABLE"],
    "sort_order": ["up", 5],
    "ids": ["text", [5], ["nonsense"], {}],
    "run_ids": ["text", [5], ["nonsense"], {}, []],
    "thread_id": [5, "nonsense", {}],
    "if_exists": ["maybe", 5],
    "ttl": ["soon", True, 0, -1, 10**30, [], {}, {"ttl": "soon"}, {"ttl": 1, "strategy": "burn"}],
    "supersteps": ["text", 5, {}, [{}], [5], [{"updates": []}], [{"updates": [{"values": {}}]}]],
    "select": [5, "cron_id", ["bogus"], [5], {}],
    "extract": ["text", 5, [], {"a": 5}, {"a": "nope"}, {"a": "values["}, {"a": "values.x\x00"}],
    "thread_ids": [None, "text", 5, {}, [5], ["nonsense"], [None]],
    "strategy": ["maybe", 5, {}],
    "checkpoint": [5, "text", []],
    "checkpoint_id": [5, {}],
    "as_node": [5, {}],
    "before": [5, [], {}],
    "assistant_id": [5, {}, "", "nope", "../steps", "steps\x00"],
    "command": [5, "text", [], {"goto": 5}, {"goto": [{}]}, {"update": 5}],
    "config": [5, "text", {"configurable": 5}, {"recursion_limit": 0}, {"recursion_limit": "x"}, {"tags": "x"}],
    "context": [5, "text", []],
    "stream_mode": ["nope", 5, ["nope"], [5], {}],
    "stream_subgraphs": ["maybe", 5, {}],
    "stream_resumable": ["maybe", 5],
    "feedback_keys": ["text", 5, [5], {}],
    "multitask_strategy": ["maybe", 5],
    "if_thread_status": ["maybe", 5, [], {}],
    "priority": ["high", 11, -11, 1.5, 10**30, [], {}],
    "dry_run": ["maybe", 5, {}],
    "include_interrupted": ["maybe", 5, {}],
    "if_not_exists": ["maybe", 5],
    "on_disconnect": ["maybe", 5],
    "on_completion": ["maybe", 5],
    "after_seconds": ["soon", -1, 1e300, {}],
    "durability": ["maybe", 5],
    "interrupt_before": [5, [5], {}],
    "interrupt_after": [5, [5], {}],
    "graph_id": [5, {}],
    "name": [5, {}],
    "description": [5, {}],
    "version": [None, "one", 1.5, [1], {}],
    "webhook": [5, {}, [], "", "nope", "ftp://example.com", "http://127.0.0.1/", "/path", "http://a/\x00"],
    "schedule": [5, {}, "", "nope", "* * * *", "* * * * * *", "99 * * * *", "* * * * *\x00", "1" * 5000],
    "timezone": [5, {}, "", "Mars", "../passwd", "UTC\x00", "x" * 5000],
    "end_time": [5, {}, "", "soon", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", True],
    "enabled": ["maybe", 5, {}],
    "on_run_completed": ["maybe", 5],
    **WRONG_IN_THE_STORE,
}
"""Values that the field of this name takes nowhere."""
