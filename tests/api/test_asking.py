"""What authorization handlers are shown of a request, and what the route reads after they changed it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from langgraph_sdk import Auth
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from holdfast.api import problems
from holdfast.api.asking import Asking
from holdfast.api.auth import Action, Resource
from holdfast.api.customauth import CustomGate
from holdfast.api.reading import json_of
from holdfast.api.responses import Json
from holdfast.db.assistants import system_assistant_id
from holdfast.errors import Refusal
from holdfast.rules.caller import Caller, User

pytestmark = pytest.mark.anyio

THREAD = "00000000-0000-4000-8000-000000000001"
SYSTEM = system_assistant_id("agent")
ADA = Caller("ada", user=User(identity="ada"))


async def seen_by(
    handler: Callable[[dict[str, Any]], Any],
    resource: Resource,
    action: Action,
    method: str,
    url: str,
    body: Any = None,
    path: str = "/{rest:path}",
) -> tuple[dict[str, Any], httpx.Response]:
    """What a handler was shown of a request, and what the route answers: the body and the query it reads."""
    auth, shown = Auth(), {}

    @auth.authenticate
    async def authenticate() -> str:
        return "ada"

    @auth.on
    async def ask(ctx: Any, value: dict[str, Any]) -> Any:
        shown.update(copy.deepcopy(value))
        return handler(value)

    async def route(request: Request) -> Any:
        try:
            gate = CustomGate(auth, "auth.py:1", max_body_bytes=10_000)
            await Asking(gate, ADA, resource, action, ("agent",)).request(request, 10_000)
            read = None if method == "GET" else await json_of(request, 10_000)
        except Refusal as refusal:
            return problems.refusal(refusal)
        return Json({"body": read, "query": dict(request.query_params)})

    app = Starlette(routes=[Route(path, route, methods=[method])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        content = None if body is None else json.dumps(body)
        return shown, await client.request(method, url, content=content)


def nothing(value: dict[str, Any]) -> None:
    """Changes nothing."""


def stamp(value: dict[str, Any]) -> dict[str, str]:
    """What the tutorials of LangGraph do for every resource."""
    value.setdefault("metadata", {})["owner"] = "ada"
    return {"owner": "ada"}


RUN = {
    "assistant_id": "agent",
    "input": {"a": [1]},
    "config": {"configurable": {"x": 1}},
    "if_not_exists": "create",
    "metadata": {"m": 1},
}


async def test_a_new_run_is_shown_with_its_kwargs_and_read_as_it_was_sent() -> None:
    path = "/threads/{thread_id}/runs"
    shown, answer = await seen_by(
        nothing, "threads", "create_run", "POST", f"/threads/{THREAD}/runs", {**RUN, "thread_id": "mine"}, path
    )
    assert shown == {
        "thread_id": UUID(THREAD),
        "assistant_id": SYSTEM,
        "metadata": {"m": 1},
        "if_not_exists": "create",
        "kwargs": {"input": {"a": [1]}, "config": {"configurable": {"x": 1}}, "thread_id": "mine"},
    }
    assert answer.json()["body"] == {**RUN, "assistant_id": str(SYSTEM), "thread_id": "mine"}


async def test_what_a_handler_changes_of_a_run_is_what_runs() -> None:
    def change(value: dict[str, Any]) -> None:
        value["metadata"] |= {"owner": "ada", "by": UUID(THREAD)}
        value["kwargs"]["config"]["configurable"]["tier"] = "free"
        value["multitask_strategy"] = "reject"

    _, answer = await seen_by(change, "threads", "create_run", "POST", "/runs", RUN)
    body = answer.json()["body"]
    assert body["metadata"] == {"m": 1, "owner": "ada", "by": THREAD}
    assert body["config"] == {"configurable": {"x": 1, "tier": "free"}}
    assert body["multitask_strategy"] == "reject"


async def test_every_run_of_a_batch_is_asked_about() -> None:
    _, answer = await seen_by(stamp, "threads", "create_run", "POST", "/runs/batch", [RUN, {"assistant_id": "agent"}])
    assert [run["metadata"] for run in answer.json()["body"]] == [{"m": 1, "owner": "ada"}, {"owner": "ada"}]


async def test_a_batch_whose_parts_see_different_things_is_refused() -> None:
    def by_kind(value: dict[str, Any]) -> Any:
        return {"owner": "ada"} if value["metadata"] else None

    _, answer = await seen_by(by_kind, "threads", "create_run", "POST", "/runs/batch", [RUN, {"assistant_id": "agent"}])
    assert answer.status_code == 403


async def test_handlers_know_the_id_of_what_is_created() -> None:
    shown, answer = await seen_by(stamp, "threads", "create", "POST", "/threads", {"if_exists": "raise"})
    assert isinstance(shown["thread_id"], UUID)
    assert answer.json()["body"] == {
        "thread_id": str(shown["thread_id"]), "if_exists": "raise", "metadata": {"owner": "ada"}
    }  # fmt: skip
    shown, _ = await seen_by(nothing, "threads", "create", "POST", "/threads", {"thread_id": THREAD})
    assert shown["thread_id"] == UUID(THREAD)
    shown, _ = await seen_by(nothing, "assistants", "create", "POST", "/assistants", {"graph_id": "agent"})
    assert isinstance(shown["assistant_id"], UUID)


async def test_a_stamp_on_a_read_changes_no_filter_of_the_request() -> None:
    body = {"limit": 5, "metadata": {"source": "loop"}}
    path = "/threads/{thread_id}/history"
    shown, answer = await seen_by(stamp, "threads", "read", "POST", f"/threads/{THREAD}/history", body, path)
    assert shown == {"thread_id": UUID(THREAD), "metadata": {}}
    assert answer.json()["body"] == body


async def test_a_search_is_narrowed_by_what_the_handler_adds() -> None:
    shown, answer = await seen_by(stamp, "threads", "search", "POST", "/threads/search", {"ids": [THREAD, "x"]})
    assert shown["ids"] == [UUID(THREAD), "x"]
    assert answer.json()["body"] == {"ids": [THREAD, "x"], "metadata": {"owner": "ada"}}


async def test_a_patch_that_changes_nothing_stays_empty() -> None:
    path = "/runs/crons/{cron_id}"
    shown, answer = await seen_by(nothing, "crons", "update", "PATCH", f"/runs/crons/{THREAD}", {}, path)
    assert shown == {"cron_id": UUID(THREAD), "payload": {}, "metadata": {}}
    assert answer.json()["body"] == {}


async def test_a_cron_is_shown_with_its_payload_and_for_whom_it_is() -> None:
    body = {"assistant_id": "agent", "schedule": "0 0 * * *", "input": {"a": 1}}
    shown, answer = await seen_by(nothing, "crons", "create", "POST", "/runs/crons", body)
    assert shown == {
        "schedule": "0 0 * * *",
        "payload": {"assistant_id": "agent", "input": {"a": 1}},
        "metadata": {},
        "user_id": "ada",
    }
    assert answer.json()["body"] == body


async def test_a_cancel_is_shown_with_its_action() -> None:
    url = f"/threads/{THREAD}/runs/{THREAD}/cancel?action=rollback&wait=1"
    path = "/threads/{thread_id}/runs/{run_id}/cancel"
    shown, answer = await seen_by(lambda value: bool(value["run_id"]), "threads", "update", "POST", url, None, path)
    assert (shown["action"], shown["run_id"]) == ("rollback", UUID(THREAD))
    # It has no body, and still has none for the route.
    assert answer.json() == {"detail": "Invalid JSON in request body"}


async def test_a_graphs_name_in_a_path_is_its_assistant() -> None:
    shown, _ = await seen_by(
        nothing, "assistants", "read", "GET", "/assistants/agent", path="/assistants/{assistant_id}"
    )
    assert shown["assistant_id"] == SYSTEM


@pytest.mark.parametrize("body", ['"text"', "5", "[]", "[5]"])
async def test_a_body_of_another_shape_is_left_to_the_route(body: str) -> None:
    _, answer = await seen_by(nothing, "threads", "create_run", "POST", "/runs", json.loads(body))
    assert answer.json()["body"] == json.loads(body)


@pytest.mark.parametrize("metadata", [5, "x", [1]])
async def test_metadata_that_is_no_object_is_invalid(metadata: Any) -> None:
    _, answer = await seen_by(stamp, "threads", "create", "POST", "/threads", {"metadata": metadata})
    assert answer.status_code == 422
