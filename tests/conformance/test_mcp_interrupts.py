"""MCP: a tool that asks something, and how clients of either generation answer it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from mcp.client import Client
from mcp.client.context import ClientRequestContext
from mcp_types import ElicitRequestParams, ElicitResult

from tests.conformance.test_mcp import both_generations, run, text
from tests.support.server import Server
from tests.support.talk import get_thread


def asked(http: httpx.Client, name: str) -> Any:
    """What a call of this tool asks."""
    question = run(http, name)["structuredContent"]
    assert question["status"] == "input_required"
    return question


@pytest.mark.anyio
@both_generations
@pytest.mark.requirement("mcp.interrupts")
async def test_a_question_is_a_result_that_the_next_call_answers(server: Server, mode: str) -> None:
    async with Client(f"{server.url}/mcp", mode=mode) as client:
        question = await client.call_tool("approve", {})
        asks = question.structured_content
        assert question.is_error is False
        assert asks["status"] == "input_required"
        assert [interrupt["value"] for interrupt in asks["interrupts"]] == [{"question": "may I?"}]
        assert json.loads(question.content[0].text) == asks
        done = await client.call_tool("approve", {"thread_id": asks["thread_id"], "resume": "yes"})
        assert done.structured_content == {"log": ["yes", "done"]}


@pytest.mark.requirement("mcp.interrupts")
def test_a_run_that_asks_keeps_its_thread(http: httpx.Client) -> None:
    asks = asked(http, "approve")
    thread = get_thread(http, asks["thread_id"])
    assert thread["status"] == "interrupted"
    assert thread["metadata"]["graph_id"] == "approve"


@pytest.mark.requirement("mcp.stale-answers")
def test_an_answer_that_comes_twice_is_refused(http: httpx.Client) -> None:
    asks = asked(http, "approve")
    answer = {"thread_id": asks["thread_id"], "resume": "yes"}
    assert run(http, "approve", **answer)["isError"] is False
    again = run(http, "approve", **answer)
    assert again["isError"] is True
    assert "nothing to resume" in text(again)


@pytest.mark.requirement("mcp.stale-answers")
def test_an_answer_by_id_never_reaches_the_next_question(http: httpx.Client) -> None:
    asks = asked(http, "twice")
    answer = {"thread_id": asks["thread_id"], "resume": {asks["interrupts"][0]["id"]: "first"}}
    second = run(http, "twice", **answer)["structuredContent"]
    assert second["interrupts"][0]["value"] == {"question": "and this?"}
    late = run(http, "twice", **answer)
    assert late["isError"] is True
    assert "not pending" in text(late)
    assert get_thread(http, asks["thread_id"])["status"] == "interrupted"


@pytest.mark.requirement("mcp.interrupts")
def test_several_questions_are_answered_by_their_ids(http: httpx.Client) -> None:
    asks = asked(http, "parallel")
    bare = run(http, "parallel", thread_id=asks["thread_id"], resume="yes")
    assert bare["isError"] is True
    assert "specify the interrupt id" in text(bare)
    # Models often send JSON as text.
    answers = json.dumps({interrupt["id"]: "yes" for interrupt in asks["interrupts"]})
    done = run(http, "parallel", thread_id=asks["thread_id"], resume=answers)
    assert done["structuredContent"]["log"] == [{"q1": "yes"}, {"q2": "yes"}, "done"]


@pytest.mark.anyio
@pytest.mark.requirement("mcp.elicitation")
@pytest.mark.parametrize(
    ("graph", "log"),
    [
        ("approve", ["fine", "done"]),
        ("twice", [{"first": "fine"}, {"second": "fine"}]),
        ("parallel", [{"q1": "fine"}, {"q2": "fine"}, "done"]),
        ("nested_ask", ["fine"]),
    ],
)
async def test_a_client_with_forms_asks_its_user_by_itself(server: Server, graph: str, log: list[Any]) -> None:
    shown: list[str] = []

    async def fill_in(_: ClientRequestContext, form: ElicitRequestParams) -> ElicitResult:
        shown.append(form.message)
        return ElicitResult(action="accept", content={"answer": "fine"})

    async with Client(f"{server.url}/mcp", elicitation_callback=fill_in) as client:
        done = await client.call_tool(graph, {})
    assert done.structured_content == {"log": log}
    assert json.loads(shown[0])["question"]


@pytest.mark.anyio
@pytest.mark.requirement("mcp.elicitation")
async def test_a_form_may_hold_json(server: Server) -> None:
    async def fill_in(_: ClientRequestContext, form: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="accept", content={"answer": '{"decisions": [{"type": "approve"}]}'})

    async with Client(f"{server.url}/mcp", elicitation_callback=fill_in) as client:
        done = await client.call_tool("approve", {})
    assert done.structured_content["log"] == [{"decisions": [{"type": "approve"}]}, "done"]


@pytest.mark.anyio
@pytest.mark.requirement("mcp.elicitation")
async def test_a_graph_that_says_what_it_expects_gets_a_form_for_it(server: Server) -> None:
    forms: list[Any] = []

    async def fill_in(_: ClientRequestContext, form: ElicitRequestParams) -> ElicitResult:
        forms.append(form.requested_schema)
        return ElicitResult(action="accept", content={"approved": True, "note": "go"})

    async with Client(f"{server.url}/mcp", elicitation_callback=fill_in) as client:
        done = await client.call_tool("typed_ask", {})
    assert forms[0]["properties"].keys() == {"approved", "note"}
    assert done.structured_content["log"] == [{"approved": True, "note": "go"}]


@pytest.mark.anyio
@pytest.mark.requirement("mcp.elicitation")
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_user_who_does_not_answer_leaves_the_question_open(
    server: Server, http: httpx.Client, action: Any
) -> None:
    async def fill_in(_: ClientRequestContext, form: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action=action)

    async with Client(f"{server.url}/mcp", elicitation_callback=fill_in) as client:
        left = await client.call_tool("approve", {})
    assert left.is_error is True
    assert "stays open on thread" in left.content[0].text
    thread = left.content[0].text.rstrip(".").rsplit(" ", 1)[1]
    assert get_thread(http, thread)["status"] == "interrupted"


def modern(http: httpx.Client, params: dict[str, Any]) -> httpx.Response:
    """A call in the newest revision of the protocol, by hand."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
    }
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": params["name"]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**params, "_meta": meta}}
    return http.post("/mcp", json=body, headers=headers)


@pytest.mark.requirement("mcp.elicitation")
def test_a_forms_state_is_taken_for_nothing_more_than_what_a_client_says(http: httpx.Client) -> None:
    first = modern(http, {"name": "approve", "arguments": {}}).json()["result"]
    [key] = first["inputRequests"]
    accepted = {"action": "accept", "content": {"answer": "yes"}}
    state = first["requestState"]
    for wrong in (
        {"requestState": "nonsense", "inputResponses": {key: accepted}},
        {"requestState": "[]", "inputResponses": {key: accepted}},
        {"requestState": "{}", "inputResponses": {key: accepted}},
        {"requestState": '{"thread_id": "nonsense"}', "inputResponses": {key: accepted}},
        {"requestState": '{"thread_id": "00000000-0000-4000-8000-000000000000"}', "inputResponses": {key: accepted}},
        {"requestState": state},
        {"requestState": state, "inputResponses": {}},
        {"requestState": state, "inputResponses": {"nonsense": accepted}},
        {"requestState": state, "inputResponses": {"0" * 32: accepted}},
    ):
        refused = modern(http, {"name": "approve", **wrong}).json()["result"]
        assert refused["isError"] is True, wrong
    done = modern(http, {"name": "approve", "requestState": state, "inputResponses": {key: accepted}})
    assert done.json()["result"]["structuredContent"] == {"log": ["yes", "done"]}
    late = modern(http, {"name": "approve", "requestState": state, "inputResponses": {key: accepted}})
    assert late.json()["result"]["isError"] is True
