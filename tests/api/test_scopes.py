"""What keys with few scopes may do, through every door: routes, MCP and A2A."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from holdfast.api.application import create_app
from holdfast.api.deps import Permission, Services
from holdfast.rules.scope import ALL, needed
from tests.api.test_ownership import leaves
from tests.conftest import PROJECT
from tests.support.keys import Keys
from tests.support.postgres import Cluster
from tests.support.rpc import ask, call
from tests.support.server import Server
from tests.support.talk import LONG, join, new_thread, refused, start, system_assistant, until_running

Client = Callable[..., httpx.Client]


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as url:
        yield url


@pytest.fixture(scope="module")
def server(database: str) -> Iterator[Server]:
    with Server(database_url=database, config=PROJECT, HOLDFAST_AUTH="keys") as running:
        yield running


@pytest.fixture(scope="module")
def ada(server: Server, database: str) -> Iterator[Client]:
    """Clients of ada, each with a key of these scopes; without any it has a key that is good for nothing."""
    made: dict[frozenset[str], httpx.Client] = {}

    def client(*scopes: str) -> httpx.Client:
        if (wanted := frozenset(scopes)) not in made:
            key = Keys(database).valid("ada", *(scopes or ("permission:nothing",)))
            made[wanted] = server.http(headers={"x-api-key": key}, timeout=30)
        return made[wanted]

    yield client
    for each in made.values():
        each.close()


@pytest.fixture
def whole(ada: Client) -> httpx.Client:
    """A client who may do everything to what is ada's."""
    return ada("read", "write", "run", "approve")


def permissions_of(dependant: Dependant) -> Iterator[Permission]:
    if isinstance(dependant.call, Permission):
        yield dependant.call
    for inner in dependant.dependencies:
        yield from permissions_of(inner)


def guarded() -> list[tuple[str, str, list[tuple[str, ...]]]]:
    """Every operation of the route table that asks for permission, and the scopes that it needs: one of each tuple."""
    found = []
    for route in leaves(create_app(cast("Services", None)).routes):
        if isinstance(route, APIRoute) and (asked := list(permissions_of(route.dependant))):
            any_of = [each.scopes or needed(each.resource, each.action) for each in asked]
            found += [(method, route.path, any_of) for method in sorted(route.methods)]
    return found


def test_every_operation_is_refused_without_the_scope_that_it_needs_and_names_it(ada: Client) -> None:
    operations = guarded()
    assert len(operations) > 60
    for method, path, every in operations:
        filled = re.sub(r"\{\w+\}", "nonsense", path)
        assert "'" in refused(ada().request(method, filled, content=b"{"), 403), path
        for any_of in every:
            others = sorted(ALL - set(any_of) - {"admin", "approve:all"})
            answer = ada(*others).request(method, filled, content=b"{")
            assert f"'{any_of[0]}'" in refused(answer, 403), (method, path)


def test_every_operation_is_let_through_with_the_scopes_that_it_needs(ada: Client) -> None:
    for method, path, every in guarded():
        for number in range(max(map(len, every))):
            scopes = {any_of[min(number, len(any_of) - 1)] for any_of in every}
            answer = ada(*sorted(scopes)).request(method, re.sub(r"\{\w+\}", "nonsense", path), content=b"{")
            assert answer.status_code in (400, 404, 422) or answer.status_code < 300, (method, path, answer.text)


def test_what_everybody_may_ask_needs_no_scope(ada: Client) -> None:
    for path in ("/ok", "/info", "/openapi.json"):
        assert ada().get(path).status_code == 200


# --- runs ---


@pytest.fixture
def asking(whole: httpx.Client) -> str:
    """A thread on which a question is open."""
    thread = new_thread(whole)
    join(whole, thread, start(whole, thread, "approve", input={"log": []}))
    return thread


ANSWER: dict[str, Any] = {"assistant_id": "approve", "command": {"resume": "yes"}}


@pytest.mark.parametrize("operation", ["", "/wait", "/stream"])
def test_who_may_only_start_runs_may_not_answer(ada: Client, asking: str, operation: str) -> None:
    path = f"/threads/{asking}/runs{operation}"
    assert "'approve'" in refused(ada("run").post(path, json=ANSWER), 403)
    assert "'run'" in refused(ada("read", "write").post(path, json=ANSWER), 403)
    assert ada("approve").post(path, json=ANSWER).status_code == 200


def test_answers_that_a_graph_hands_on_are_answers_too(ada: Client, whole: httpx.Client, asking: str) -> None:
    [[question]] = whole.get(f"/threads/{asking}").json()["interrupts"].values()
    handed = {"configurable": {"__pregel_resume_map": {question["id"]: "yes"}}}
    body = {"assistant_id": "approve", "input": None, "config": handed}
    refused(ada("run").post(f"/threads/{asking}/runs/wait", json=body), 403)
    assert ada("approve").post(f"/threads/{asking}/runs/wait", json=body).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"input": {"log": []}},
        {"input": None},
        {"command": {"update": {"log": ["x"]}}},
        {"command": {"goto": "ask"}},
        {"command": {"resume": "yes", "update": {"log": ["x"]}}},
        {"command": {"resume": "yes", "goto": "ask"}},
    ],
)
def test_who_may_only_answer_may_do_nothing_else_with_a_run(ada: Client, asking: str, body: dict[str, Any]) -> None:
    answer = ada("approve").post(f"/threads/{asking}/runs/wait", json={"assistant_id": "approve", **body})
    assert "'run'" in refused(answer, 403)


def test_who_may_not_answer_does_not_get_past_the_question(ada: Client, asking: str) -> None:
    path, maker = f"/threads/{asking}/runs/wait", ada("read", "write", "run")
    for command in ({"goto": "done"}, {"update": {"log": ["yes"]}}):
        assert "'approve'" in refused(maker.post(path, json={"assistant_id": "approve", "command": command}), 403)
    state = {"values": {"log": ["yes"]}, "as_node": "ask"}
    assert "'approve'" in refused(maker.post(f"/threads/{asking}/state", json=state), 403)
    assert maker.get(f"/threads/{asking}").json()["status"] == "interrupted"
    quiet = new_thread(maker)
    maker.post(f"/threads/{quiet}/runs/wait", json={"assistant_id": "steps", "input": {"count": 1}})
    assert maker.post(f"/threads/{quiet}/state", json={"values": {"log": ["yes"]}}).status_code == 200


def test_who_may_only_answer_starts_no_stateless_runs(ada: Client) -> None:
    body = {"assistant_id": "steps", "input": {"count": 1}}
    for path, sent in (("/runs", body), ("/runs/wait", body), ("/runs/stream", body), ("/runs/batch", [body])):
        assert "'run'" in refused(ada("approve").post(path, json=sent), 403)
        assert ada("run").post(path, json=sent).status_code == 200


def test_a_cron_needs_the_right_to_start_what_it_starts(ada: Client) -> None:
    cron = {"assistant_id": "steps", "schedule": "0 0 1 1 *"}
    assert "'run'" in refused(ada("write").post("/runs/crons", json=cron), 403)
    made = ada("write", "run").post("/runs/crons", json=cron)
    assert made.status_code == 200
    path = f"/runs/crons/{made.json()['cron_id']}"
    assert "'run'" in refused(ada("write").patch(path, json={"input": {"count": 2}}), 403)
    assert ada("write").delete(path).status_code == 204


def test_who_may_only_look_cancels_nothing_by_going_away(ada: Client, whole: httpx.Client) -> None:
    thread = new_thread(whole)
    run = start(whole, thread, "steps", **LONG)
    until_running(whole, thread, run)
    for where in (f"/threads/{thread}/runs/{run}", f"/runs/{run}"):
        for follow in ("/join", "/stream"):
            answer = ada("read", "write").get(where + follow, params={"cancel_on_disconnect": "true"})
            assert "'run'" in refused(answer, 403)
    refused(ada("read", "write").post(f"/threads/{thread}/runs/{run}/cancel"), 403)
    refused(ada("read", "write").post("/runs/cancel", json={"thread_id": thread, "run_ids": [run]}), 403)
    assert ada("run").post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 1}).status_code == 200


def test_who_may_only_answer_finds_what_is_asked(ada: Client, asking: str) -> None:
    for answer in (
        ada("approve").post("/approvals/search", json={"thread_id": asking}),
        ada("approve").get(f"/threads/{asking}/approvals"),
    ):
        [approval] = answer.json()
        assert approval["thread_id"] == asking
    refused(ada("approve").get(f"/threads/{asking}/state"), 403)


# --- what belongs to everybody ---


def test_only_an_admin_changes_the_assistants_that_belong_to_everybody(ada: Client, whole: httpx.Client) -> None:
    path = f"/assistants/{system_assistant('echo')}"
    refused(whole.patch(path, json={"metadata": {"mine": True}}), 403)
    assert ada("admin").patch(path, json={"metadata": {"reviewed": True}}).status_code == 200
    assert whole.get(path).json()["metadata"]["reviewed"] is True


def test_an_admin_sees_their_own_threads_like_anybody(ada: Client, server: Server, database: str) -> None:
    with server.http(headers={"x-api-key": Keys(database).valid("bob")}, timeout=30) as bob:
        his = new_thread(bob)
    refused(ada("admin").get(f"/threads/{his}"), 404)


# --- MCP and A2A ---


def said(client: httpx.Client, url: str, method: str, params: dict[str, Any]) -> str:
    return str(ask(client, url, method, params)["error"]["message"])


def test_mcp_asks_for_each_operations_scope(ada: Client) -> None:
    tool = {"name": "steps", "arguments": {"count": 1}}
    assert ask(ada(), "/mcp", "ping")["result"] == {}
    assert "'read'" in said(ada("write", "run", "approve"), "/mcp", "tools/list", {})
    assert "'run'" in said(ada("read", "write"), "/mcp", "tools/call", tool)
    assert call(ada("read"), "/mcp", "tools/list", {})["tools"]
    assert not call(ada("read", "run"), "/mcp", "tools/call", tool).get("isError")


def test_mcp_takes_answers_from_who_may_answer(ada: Client, asking: str) -> None:
    answer = {"name": "approve", "arguments": {"thread_id": asking, "resume": "yes"}}
    assert "'approve'" in said(ada("read", "run"), "/mcp", "tools/call", answer)
    assert not call(ada("read", "approve"), "/mcp", "tools/call", answer).get("isError")


def test_a2a_asks_for_each_operations_scope(ada: Client) -> None:
    url, message = "/a2a/echo", {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
    sent = {"message": message}
    assert "'read'" in refused(ada("write", "run").post(url, json={"jsonrpc": "2.0", "id": 1, "method": "x"}), 403)
    assert "'run'" in said(ada("read", "write"), url, "SendMessage", sent)
    task = call(ada("read", "run"), url, "SendMessage", sent)["task"]
    assert call(ada("read"), url, "GetTask", {"id": task["id"]})["id"] == task["id"]
    assert "'run'" in said(ada("read", "write"), url, "CancelTask", {"id": task["id"]})
