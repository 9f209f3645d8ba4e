"""MCP: the protocol over raw HTTP, and the tools, by the official client."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from tests.conftest import PROJECT
from tests.support.rpc import BOTH, ask, call, error, message
from tests.support.server import Server
from tests.support.talk import system_assistant, until

GRAPHS = set(json.loads(PROJECT.read_text())["graphs"])
both_generations = pytest.mark.parametrize("mode", ["legacy", "auto"])


def run(http: httpx.Client, name: str, **arguments: Any) -> Any:
    """The result of a tool."""
    return call(http, "/mcp", "tools/call", {"name": name, "arguments": arguments})


def text(result: Any) -> str:
    [content] = result["content"]
    assert content["type"] == "text"
    return str(content["text"])


# --- the protocol ---


@pytest.mark.requirement("mcp.initialize")
@pytest.mark.parametrize("asked", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_initialize_answers_with_the_version_that_the_client_speaks(http: httpx.Client, asked: str) -> None:
    hello = {"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    answer = call(http, "/mcp", "initialize", hello)
    assert answer["protocolVersion"] == asked
    assert answer["serverInfo"]["name"] == "Holdfast"
    assert "tools" in answer["capabilities"]


@pytest.mark.requirement("mcp.initialize")
def test_initialize_offers_the_newest_handshake_to_a_client_of_unknown_version(http: httpx.Client) -> None:
    hello = {"protocolVersion": "1999-01-01", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    assert call(http, "/mcp", "initialize", hello)["protocolVersion"] == "2025-11-25"


@pytest.mark.requirement("mcp.url")
@pytest.mark.parametrize("url", ["/mcp", "/mcp/"])
def test_both_spellings_of_the_url_answer_a_ping(http: httpx.Client, url: str) -> None:
    assert ask(http, url, "ping")["result"] == {}


@pytest.mark.requirement("mcp.notifications")
def test_a_notification_is_accepted_without_an_answer(http: httpx.Client) -> None:
    answer = http.post("/mcp", json=message("notifications/initialized"), headers=BOTH)
    assert (answer.status_code, answer.content) == (202, b"")


@pytest.mark.requirement("mcp.stateless")
@pytest.mark.parametrize("url", ["/mcp", "/mcp/"])
def test_there_is_no_stream_to_get_and_no_session_to_end(http: httpx.Client, url: str) -> None:
    assert http.get(url, headers={"accept": "text/event-stream"}, follow_redirects=True).status_code == 405
    assert http.delete(url, follow_redirects=True).status_code == 404
    assert "mcp-session-id" not in http.post(url, json=message("ping", number=1), headers=BOTH).headers


@pytest.mark.requirement("mcp.errors")
def test_unknown_methods_and_tools_are_protocol_errors(http: httpx.Client) -> None:
    assert error(http, "/mcp", "tools/nonsense")[0] == -32601
    assert error(http, "/mcp", "resources/list")[0] == -32601
    assert error(http, "/mcp", "tools/call", {"name": "nonsense"}) == (-32602, "Unknown tool: nonsense")
    assert error(http, "/mcp", "tools/call", {})[0] == -32602
    assert error(http, "/mcp", "tools/call", {"name": 5})[0] == -32602


@pytest.mark.requirement("mcp.bad_arguments")
def test_arguments_that_are_no_object_are_refused(http: httpx.Client) -> None:
    assert error(http, "/mcp", "tools/call", {"name": "echo", "arguments": "text"})[0] == -32602


@pytest.mark.requirement("mcp.allow")
def test_a_405_names_the_method_that_there_is(http: httpx.Client) -> None:
    assert http.get("/mcp").headers["allow"] == "POST"


@pytest.mark.requirement("mcp.bad-messages")
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nope", b"\xff", rb'"\ud800"', b"[" * 10_000 + b"]" * 10_000, b'{"a": 18446744073709551616000}'],
)
def test_what_is_no_json_is_a_parse_error_with_status_400(http: httpx.Client, content: bytes) -> None:
    answer = http.post("/mcp", content=content, headers=BOTH)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32700
    assert answer.json()["id"] is None


@pytest.mark.requirement("mcp.bad-messages")
@pytest.mark.parametrize(
    "content",
    [
        b"null",
        b"5",
        b'"text"',
        b"[]",
        b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]',
        b"{}",
        b'{"id": 1, "method": "ping"}',
        b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}',
        b'{"jsonrpc": "2.0", "id": 1}',
        b'{"jsonrpc": "2.0", "id": {}, "method": "ping"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": 5}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": 5}',
    ],
)
def test_what_is_no_message_is_refused_with_status_400(http: httpx.Client, content: bytes) -> None:
    for version in ({}, {"mcp-protocol-version": "2026-07-28"}):
        answer = http.post("/mcp", content=content, headers={**BOTH, **version})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] in (-32600, -32602)


@pytest.mark.requirement("mcp.url")
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_json_is_read_whatever_the_content_type_says(http: httpx.Client, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = http.post("/mcp", content=json.dumps(message("ping", number="a")), headers={"accept": "*/*", **headers})
    assert answer.json() == {"jsonrpc": "2.0", "id": "a", "result": {}}


@pytest.mark.requirement("mcp.versions")
def test_an_unknown_version_is_refused_with_those_that_are_known(http: httpx.Client) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2099-01-01",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    headers = {"mcp-protocol-version": "2099-01-01", "mcp-method": "tools/list"}
    answer = http.post("/mcp", json=message("tools/list", {"_meta": meta}, 1), headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["data"]["supported"] == ["2026-07-28"]


# --- the tools ---


@pytest.mark.anyio
@both_generations
@pytest.mark.requirement("mcp.tools-list")
async def test_every_assistant_is_a_tool(server: Server, mode: str) -> None:
    async with Client(f"{server.url}/mcp", mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) >= GRAPHS
    assert tools["echo"].description == "answers with what it was told, token by token"
    for tool in tools.values():
        assert tool.input_schema["type"] == "object"
        assert {"thread_id", "resume"} <= tool.input_schema["properties"].keys()
        assert "required" not in tool.input_schema
    assert {"count", "pause"} < tools["steps"].input_schema["properties"].keys()


@pytest.mark.requirement("mcp.message-schema")
def test_messages_are_described_briefly(http: httpx.Client) -> None:
    tools = {tool["name"]: tool for tool in call(http, "/mcp", "tools/list")["tools"]}
    messages = tools["echo"]["inputSchema"]["properties"]["messages"]
    assert messages["items"]["properties"].keys() == {"role", "content"}
    assert len(json.dumps(tools["echo"])) < 1500


@pytest.mark.requirement("mcp.tools-list")
def test_a_cursor_that_was_not_given_out_is_refused(http: httpx.Client) -> None:
    assert error(http, "/mcp", "tools/list", {"cursor": "nonsense"})[0] == -32602
    assert error(http, "/mcp", "tools/list", {"cursor": 5})[0] == -32602
    names = [tool["name"] for tool in call(http, "/mcp", "tools/list")["tools"]]
    left = [tool["name"] for tool in call(http, "/mcp", "tools/list", {"cursor": "steps"})["tools"]]
    assert left == names[names.index("steps") + 1 :]


@pytest.mark.anyio
@both_generations
@pytest.mark.requirement("mcp.tools-call")
async def test_a_call_runs_the_graph_and_answers_with_json(server: Server, mode: str) -> None:
    async with Client(f"{server.url}/mcp", mode=mode) as client:
        result = await client.call_tool("steps", {"count": 2, "log": []})
        assert result.is_error is False
        assert result.structured_content == {"log": [0, 1], "count": 2}
        assert json.loads(result.content[0].text) == result.structured_content
        said = await client.call_tool("echo", {"messages": [{"role": "user", "content": "hi"}]})
        assert said.structured_content["messages"][-1]["content"] == "you said: hi"
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("nonsense", {})


@pytest.mark.requirement("mcp.tools-call")
def test_a_tool_is_found_by_its_assistants_id_too(http: httpx.Client) -> None:
    assert run(http, system_assistant("steps"), count=1)["structuredContent"]["log"] == [0]


@pytest.mark.requirement("mcp.stateless")
def test_a_call_leaves_no_thread_behind(http: httpx.Client) -> None:
    before = http.post("/threads/count", json={}).json()
    assert not run(http, "steps", count=1).get("isError")
    assert run(http, "failing")["isError"] is True
    assert http.post("/threads/count", json={}).json() == before


@pytest.mark.requirement("mcp.failures")
def test_a_run_that_fails_is_a_result_that_says_why(http: httpx.Client) -> None:
    result = run(http, "failing")
    assert result["isError"] is True
    assert text(result) == "ValueError: as told"
    assert "structuredContent" not in result


@pytest.mark.requirement("mcp.failures")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"thread_id": "nonsense"}, "Invalid thread ID"),
        ({"thread_id": 5}, "Invalid thread ID"),
        ({"thread_id": "00000000-0000-4000-8000-000000000000"}, "Thread or assistant not found"),
        ({"resume": "yes"}, "You must provide a thread_id when resuming"),
        ({"thread_id": "00000000-0000-4000-8000-000000000000", "resume": "yes"}, "Thread or assistant not found"),
    ],
)
def test_a_call_that_makes_no_sense_says_what_is_wrong(http: httpx.Client, arguments: Any, said: str) -> None:
    before = http.post("/threads/count", json={}).json()
    result = run(http, "steps", **arguments)
    assert result["isError"] is True
    assert said in text(result)
    assert http.post("/threads/count", json={}).json() == before


@pytest.mark.requirement("mcp.threads")
def test_a_call_with_a_thread_goes_on_with_its_conversation(http: httpx.Client) -> None:
    thread = http.post("/threads", json={}).json()["thread_id"]
    for expected in (2, 4):
        result = run(http, "echo", thread_id=thread, messages=[{"role": "user", "content": "hi"}])
        assert len(result["structuredContent"]["messages"]) == expected
    assert http.get(f"/threads/{thread}").json()["status"] == "idle"


@pytest.mark.requirement("mcp.empty_texts", "mcp.tools-call")
def test_nothing_is_meant_by_empty_texts_of_a_model_that_fills_in_everything(http: httpx.Client) -> None:
    assert run(http, "steps", thread_id="", resume="", count=1)["structuredContent"]["log"] == [0]
    assert run(http, "steps", thread_id=None, resume=None, count=1)["structuredContent"]["log"] == [0]


@pytest.mark.requirement("mcp.odd_text", "mcp.tools-call")
def test_odd_text_reaches_the_graph_as_it_was_sent(http: httpx.Client) -> None:
    assert run(http, "mirror", text="a\x00\U0001f600")["structuredContent"]["codes"] == [97, 0, 0x1F600]


@pytest.mark.requirement("mcp.tools-call")
def test_a_graph_that_takes_no_object_has_one_argument(http: httpx.Client) -> None:
    result = run(http, "shout", input="hello")
    assert (text(result), result["isError"]) == ('"HELLO"', False)
    assert "structuredContent" not in result
    tools = {tool["name"]: tool for tool in call(http, "/mcp", "tools/list")["tools"]}
    assert tools["shout"]["inputSchema"]["properties"]["input"]["type"] == "string"


@pytest.mark.requirement("mcp.cancelled", "mcp.threads")
def test_a_call_that_is_cancelled_says_so(http: httpx.Client, server: Server) -> None:
    thread = http.post("/threads", json={}).json()["thread_id"]
    with ThreadPoolExecutor(1) as pool, server.http(timeout=30) as other:
        calling = pool.submit(run, other, "steps", thread_id=thread, pause=0.03, count=1000)
        runs = until(lambda: http.get(f"/threads/{thread}/runs", params={"status": "running"}).json(), "a run runs")
        assert http.post(f"/threads/{thread}/runs/{runs[0]['run_id']}/cancel").status_code == 202
        result = calling.result()
    assert result["isError"] is True
    assert "cancelled" in text(result)
