"""What can be asked of each route about somebody's things: the rows of the authorization matrix.

A row names every place in which a route takes an id, a name or a filter: its path, its query, its body, the parameters
of MCP and A2A. `{thread_id}` and the like stand for ids, which `matrix.py` fills in: the owner's own, or nobody's.
A route of the server that has no row here fails `test_matrix.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CANARY = "canary-4be1"
"""Stands in everything that its owner keeps."""

Body = Mapping[str, Any] | Sequence[Any] | None


@dataclass(frozen=True, slots=True)
class Ask:
    """One way to ask a route for somebody's things."""

    body: Body = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    owner: tuple[int, ...] = (200, 202, 204)
    """What the owner is answered: the ask is a real one."""
    tells_that_it_exists: bool = False
    """An id that clients choose cannot be given twice, so that somebody learns that it is taken; and nothing else."""


RUN = {"assistant_id": "steps", "input": {"count": 1}}
ANSWER = {"assistant_id": "approve", "command": {"resume": "yes"}}
HER_ASSISTANT = {"assistant_id": "{assistant_id}", "input": {"count": 1}}
FORGED = {"langgraph_auth_user_id": "ada", "langgraph_auth_user": {"identity": "ada"}, "user_id": "ada"}
CRON = {"assistant_id": "steps", "schedule": "0 0 1 1 *", "input": {"count": 1}}
RUNS = (
    Ask(RUN),
    Ask(ANSWER),
    Ask({**RUN, "if_not_exists": "create"}, tells_that_it_exists=True),
    Ask({**RUN, "checkpoint_id": "{checkpoint_id}"}),
    Ask({**RUN, "multitask_strategy": "interrupt"}),
    Ask({**RUN, "multitask_strategy": "rollback"}),
)
THEIR_ASSISTANT = Ask(HER_ASSISTANT)
PLAIN = (Ask(),)
FILTERS = (
    Ask({"metadata": {"secret": CANARY}}),
    Ask({"values": {"log": [CANARY]}}),
    Ask({"ids": ["{thread_id}"]}),
    Ask({"status": "interrupted"}),
)
CRON_FILTERS = (
    Ask({}),
    Ask({"thread_id": "{thread_id}"}),
    Ask({"assistant_id": "{assistant_id}"}),
    Ask({"metadata": {"secret": CANARY}}),
)
ASSISTANT_FILTERS = (Ask({"metadata": {"secret": CANARY}}), Ask({"name": CANARY}), Ask({"graph_id": "steps"}))
ITEM = {"namespace": "notes", "key": "{key}"}


def rpc(method: str, **params: Any) -> Ask:
    """A call of MCP or A2A."""
    both = {"accept": "application/json, text/event-stream"}
    return Ask({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, headers=both)


def said(**where: str) -> dict[str, Any]:
    return {"message": {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "hello"}], **where}}


MCP = (
    rpc("tools/list"),
    rpc("tools/call", name="approve", arguments={"thread_id": "{thread_id}", "resume": "yes"}),
    rpc("tools/call", name="{assistant_id}", arguments={"count": 1}),
)
A2A = (
    rpc("SendMessage", **said(contextId="{thread_id}")),
    rpc("SendMessage", **said(taskId="{task_id}")),
    rpc("SendStreamingMessage", **said(contextId="{thread_id}")),
    rpc("GetTask", id="{task_id}"),
    rpc("CancelTask", id="{task_id}"),
    rpc("SubscribeToTask", id="{task_id}"),
    rpc("ListTasks", contextId="{thread_id}"),
    rpc("CreateTaskPushNotificationConfig", taskId="{task_id}", url="https://example.com/hook"),
    rpc("ListTaskPushNotificationConfigs", taskId="{task_id}"),
)

ROWS: Mapping[tuple[str, str], Sequence[Ask]] = {
    ("POST", "/threads"): (
        Ask({"thread_id": "{thread_id}"}, owner=(409,), tells_that_it_exists=True),
        Ask({"thread_id": "{thread_id}", "if_exists": "do_nothing"}, tells_that_it_exists=True),
    ),
    ("POST", "/threads/search"): FILTERS,
    ("POST", "/threads/count"): FILTERS,
    ("POST", "/threads/prune"): (
        Ask({"thread_ids": ["{thread_id}"], "strategy": "delete"}),
        Ask({"thread_ids": ["{thread_id}"], "strategy": "keep_latest"}),
    ),
    ("GET", "/threads/{thread_id}"): PLAIN,
    ("PATCH", "/threads/{thread_id}"): (Ask({"metadata": {"taken": True}}),),
    ("DELETE", "/threads/{thread_id}"): PLAIN,
    ("POST", "/threads/{thread_id}/copy"): PLAIN,
    ("POST", "/threads/{thread_id}/repair"): (Ask({}),),
    ("GET", "/threads/{thread_id}/storage"): PLAIN,
    ("GET", "/threads/{thread_id}/state"): (Ask(), Ask(query={"subgraphs": "true"})),
    ("POST", "/threads/{thread_id}/state"): (
        Ask({"values": {"log": ["taken"]}}),
        Ask({"values": {"log": ["taken"]}, "checkpoint_id": "{checkpoint_id}"}),
    ),
    ("POST", "/threads/{thread_id}/state/checkpoint"): (Ask({"checkpoint": {"checkpoint_id": "{checkpoint_id}"}}),),
    ("GET", "/threads/{thread_id}/state/{checkpoint_id}"): PLAIN,
    ("GET", "/threads/{thread_id}/history"): PLAIN,
    ("POST", "/threads/{thread_id}/history"): (Ask({}), Ask({"before": {"checkpoint_id": "{checkpoint_id}"}})),
    ("GET", "/threads/{thread_id}/stream"): PLAIN,
    ("GET", "/threads/{thread_id}/approvals"): PLAIN,
    ("POST", "/approvals/search"): (Ask({}), Ask({"thread_id": "{thread_id}"}), Ask({"graph_id": "approve"})),
    ("POST", "/approvals/{approval_id}/answer"): (Ask({"answer": "yes"}),),
    ("POST", "/threads/{thread_id}/runs"): (*RUNS, THEIR_ASSISTANT),
    ("POST", "/threads/{thread_id}/runs/stream"): (*RUNS, THEIR_ASSISTANT),
    ("POST", "/threads/{thread_id}/runs/wait"): (*RUNS, THEIR_ASSISTANT),
    ("GET", "/threads/{thread_id}/runs"): PLAIN,
    ("GET", "/threads/{thread_id}/runs/{run_id}"): PLAIN,
    ("DELETE", "/threads/{thread_id}/runs/{run_id}"): PLAIN,
    ("GET", "/threads/{thread_id}/runs/{run_id}/join"): PLAIN,
    ("GET", "/threads/{thread_id}/runs/{run_id}/stream"): (Ask(), Ask(query={"cancel_on_disconnect": "true"})),
    ("POST", "/threads/{thread_id}/runs/{run_id}/cancel"): (
        Ask(owner=(200, 202, 204, 404)),
        Ask(query={"action": "rollback"}, owner=(200, 202, 204, 404)),
    ),
    ("GET", "/runs/{run_id}"): PLAIN,
    ("GET", "/runs/{run_id}/join"): PLAIN,
    ("GET", "/runs/{run_id}/stream"): PLAIN,
    ("POST", "/runs"): (THEIR_ASSISTANT, Ask({**RUN, "config": {"configurable": FORGED}})),
    ("POST", "/runs/batch"): (Ask([HER_ASSISTANT]), Ask([RUN, HER_ASSISTANT])),
    ("POST", "/runs/stream"): (THEIR_ASSISTANT,),
    ("POST", "/runs/wait"): (THEIR_ASSISTANT,),
    ("POST", "/runs/cancel"): (
        Ask({"thread_id": "{thread_id}", "run_ids": ["{run_id}"]}, owner=(200, 202, 204, 404)),
        Ask({"status": "all"}, owner=(200, 202, 204, 404)),
    ),
    ("POST", "/runs/crons"): (Ask({**CRON, "assistant_id": "{assistant_id}"}),),
    ("POST", "/threads/{thread_id}/runs/crons"): (Ask(CRON), Ask({**CRON, "assistant_id": "{assistant_id}"})),
    ("POST", "/runs/crons/search"): CRON_FILTERS,
    ("POST", "/runs/crons/count"): CRON_FILTERS,
    ("GET", "/runs/crons/{cron_id}"): PLAIN,
    ("PATCH", "/runs/crons/{cron_id}"): (Ask({"enabled": False}), Ask({"metadata": {"taken": True}})),
    ("DELETE", "/runs/crons/{cron_id}"): PLAIN,
    ("POST", "/assistants"): (
        Ask({"graph_id": "steps", "assistant_id": "{assistant_id}"}, owner=(409,), tells_that_it_exists=True),
        Ask(
            {"graph_id": "steps", "assistant_id": "{assistant_id}", "if_exists": "do_nothing"},
            tells_that_it_exists=True,
        ),
    ),
    ("POST", "/assistants/search"): ASSISTANT_FILTERS,
    ("POST", "/assistants/count"): ASSISTANT_FILTERS,
    ("GET", "/assistants/{assistant_id}"): PLAIN,
    ("PATCH", "/assistants/{assistant_id}"): (Ask({"name": "taken"}), Ask({"metadata": {"taken": True}})),
    ("DELETE", "/assistants/{assistant_id}"): (Ask(), Ask(query={"delete_threads": "true"})),
    ("POST", "/assistants/{assistant_id}/versions"): (Ask({}), Ask({"metadata": {"secret": CANARY}})),
    ("POST", "/assistants/{assistant_id}/latest"): (Ask({"version": 1}),),
    ("GET", "/assistants/{assistant_id}/graph"): PLAIN,
    ("GET", "/assistants/{assistant_id}/schemas"): PLAIN,
    ("GET", "/assistants/{assistant_id}/subgraphs"): PLAIN,
    ("GET", "/assistants/{assistant_id}/subgraphs/{namespace}"): (Ask(owner=(200, 404)),),
    ("GET", "/store/items"): (Ask(query=ITEM),),
    ("DELETE", "/store/items"): (Ask({"namespace": ["notes"], "key": "{key}"}),),
    ("POST", "/store/items/search"): (
        Ask({"namespace_prefix": []}),
        Ask({"namespace_prefix": ["notes"]}),
        Ask({"namespace_prefix": ["notes"], "filter": {"secret": CANARY}}),
    ),
    ("POST", "/store/namespaces"): (Ask({}), Ask({"prefix": ["notes"]})),
    # After those that look for it: from here on the other one has an item of that name, too.
    ("PUT", "/store/items"): (Ask({"namespace": ["notes"], "key": "{key}", "value": {"taken": True}}),),
    ("POST", "/mcp"): MCP,
    ("POST", "/mcp/"): MCP,
    ("GET", "/mcp"): (Ask(owner=(405,)),),
    ("GET", "/mcp/"): (Ask(owner=(405,)),),
    ("DELETE", "/mcp"): (Ask(owner=(200, 202, 204, 404, 405)),),
    ("DELETE", "/mcp/"): (Ask(owner=(200, 202, 204, 404, 405)),),
    ("POST", "/a2a/{assistant_id}"): A2A,
    ("GET", "/a2a/{assistant_id}"): PLAIN,
    ("GET", "/a2a/{assistant_id}/.well-known/agent-card.json"): PLAIN,
    ("GET", "/a2a/{assistant_id}/.well-known/agent.json"): PLAIN,
    ("GET", "/.well-known/agent-card.json"): (Ask(query={"assistant_id": "{assistant_id}"}),),
    ("GET", "/.well-known/agent.json"): (Ask(query={"assistant_id": "{assistant_id}"}),),
}

OPEN = frozenset(
    {"/", "/ok", "/health", "/ready", "/info", "/metrics", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
)
"""What anybody may ask: health, figures and the API's own documents; nobody's things are in them."""
