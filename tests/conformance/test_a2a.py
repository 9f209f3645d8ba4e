"""A2A: cards, messages and streams, raw and by the official client, in both generations of the protocol."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types.a2a_pb2 import AgentCard, Message, Part, Role, SendMessageRequest, StreamResponse, TaskState

from tests.support.rpc import call, error, stream
from tests.support.server import Server
from tests.support.talk import UNKNOWN_ID, refused, system_assistant

_messages = itertools.count(1)


def old(*parts: Any, **fields: Any) -> dict[str, Any]:
    """The params of v0.3's `message/send`: texts, and anything else as data."""
    shaped = [{"kind": "text", "text": p} if isinstance(p, str) else {"kind": "data", "data": p} for p in parts]
    head = {"kind": "message", "role": "user", "messageId": f"old-{next(_messages)}"}
    return {"message": {**head, "parts": shaped, **fields}}


def new(*parts: Any, **fields: Any) -> dict[str, Any]:
    """The same for v1.0's `SendMessage`."""
    shaped = [{"text": part} if isinstance(part, str) else {"data": part} for part in parts]
    head = {"role": "ROLE_USER", "messageId": f"new-{next(_messages)}"}
    return {"message": {**head, "parts": shaped, **fields}}


def at(graph: str) -> str:
    """The address of the graph's own agent."""
    return f"/a2a/{system_assistant(graph)}"


def send(http: httpx.Client, agent: str, *parts: Any, **fields: Any) -> Any:
    """The task that a message makes (v1.0)."""
    return call(http, at(agent), "SendMessage", new(*parts, **fields))["task"]


def answer(task: Any) -> Any:
    """What the only artifact says."""
    [artifact] = task["artifacts"]
    [part] = artifact["parts"]
    return part.get("text", part.get("data"))


# --- cards ---


@pytest.mark.requirement("a2a.card")
@pytest.mark.parametrize(
    "path",
    [
        "/a2a/{id}",
        "/a2a/{id}/.well-known/agent-card.json",
        "/a2a/{id}/.well-known/agent.json",
        "/.well-known/agent-card.json?assistant_id={id}",
        pytest.param("/.well-known/agent.json?assistant_id={id}", marks=pytest.mark.requirement("a2a.card_old_path")),
    ],
)
def test_a_card_is_found_wherever_clients_look_for_it(http: httpx.Client, path: str) -> None:
    echo = system_assistant("echo")
    card = http.get(path.format(id=echo)).json()
    assert card["name"] == "echo"
    assert card["description"] == "answers with what it was told, token by token"
    assert card["supportedInterfaces"][0]["protocolVersion"] == "1.0"
    assert card["supportedInterfaces"][0]["url"].endswith(f"/a2a/{echo}")
    assert card["capabilities"]["streaming"] is True


@pytest.mark.requirement("a2a.card_for_both")
def test_a_card_is_for_clients_of_both_generations(http: httpx.Client) -> None:
    url = str(http.base_url.join(at("echo")))
    card = http.get(at("echo")).json()
    assert [(face["url"], face["protocolVersion"]) for face in card["supportedInterfaces"]] == [
        (url, "1.0"),
        (url, "0.3"),
    ]
    assert (card["url"], card["preferredTransport"]) == (url, "JSONRPC")
    assert card["skills"][0]["id"] == "echo"
    assert "securitySchemes" not in card


@pytest.mark.requirement("a2a.by_name")
def test_an_agent_is_found_by_its_graphs_name_too(http: httpx.Client) -> None:
    card = http.get(at("echo")).json()
    assert http.get("/a2a/echo").json() == card
    assert http.get("/.well-known/agent-card.json", params={"assistant_id": "echo"}).json() == card
    assert answer(call(http, "/a2a/echo", "SendMessage", new("hello"))["task"]) == "you said: hello"


@pytest.mark.requirement("a2a.card_of_nobody")
def test_cards_of_nobody_are_not_found(http: httpx.Client) -> None:
    refused(http.get(f"/a2a/{UNKNOWN_ID}"), 404)
    refused(http.get("/a2a/nonsense"), 422)
    refused(http.get("/.well-known/agent-card.json"), 422)
    refused(http.get("/.well-known/agent-card.json", params={"assistant_id": UNKNOWN_ID}), 404)


# --- messages ---


@pytest.mark.requirement("a2a.send")
def test_a_text_is_answered_with_the_agents_text_in_the_older_protocol(http: httpx.Client) -> None:
    task = call(http, at("echo"), "message/send", old("hello"))
    assert (task["kind"], task["status"]["state"]) == ("task", "completed")
    assert answer(task) == "you said: hello"
    assert [message["role"] for message in task["history"]] == ["user", "agent"]


@pytest.mark.requirement("a2a.send")
def test_a_text_is_answered_with_the_agents_text_in_the_newer_protocol(http: httpx.Client) -> None:
    task = send(http, "echo", "hello")
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert answer(task) == "you said: hello"
    assert [message["role"] for message in task["history"]] == ["ROLE_USER", "ROLE_AGENT"]


@pytest.mark.requirement("a2a.ids")
def test_a_context_is_a_thread_and_a_task_a_run(http: httpx.Client) -> None:
    first = send(http, "echo", "one")
    thread, run = first["id"].split(":")
    assert first["contextId"] == thread
    assert http.get(f"/threads/{thread}/runs/{run}").json()["status"] == "success"
    second = send(http, "echo", "two", contextId=thread)
    assert second["contextId"] == thread
    assert second["id"] != first["id"]
    assert len(second["history"]) == 4


@pytest.mark.requirement("a2a.ids")
def test_a_client_may_choose_the_context(http: httpx.Client) -> None:
    context = "0f0f0f0f-0000-4000-8000-00000000a2a0"
    assert send(http, "echo", "hello", contextId=context)["contextId"] == context
    assert http.get(f"/threads/{context}").status_code == 200


@pytest.mark.requirement("a2a.data")
def test_data_is_the_input_of_a_graph_and_its_values_are_the_answer(http: httpx.Client) -> None:
    assert answer(send(http, "steps", {"count": 2}, {"log": []})) == {"count": 2, "log": [0, 1]}
    assert answer(call(http, at("steps"), "message/send", old({"count": 1}))) == {"count": 1, "log": [0]}
    assert isinstance(send(http, "mirror", {"text": "a"})["artifacts"], list)


@pytest.mark.requirement("a2a.data")
def test_data_that_is_no_input_is_told_to_the_agent_as_text(http: httpx.Client) -> None:
    assert answer(send(http, "echo", "look:", {"a": 1.5})) == 'you said: look:\n{"a":1.5}'
    assert answer(send(http, "echo", {"messages": [{"role": "user", "content": "hi"}]})) == "you said: hi"


@pytest.mark.requirement("a2a.data")
def test_text_for_a_graph_without_messages_is_refused(http: httpx.Client) -> None:
    code, words = error(http, at("steps"), "SendMessage", new("hello"))
    assert code == -32602
    assert "takes no text" in words
    assert "count" in words


@pytest.mark.requirement("a2a.files")
@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"raw": "aGk=", "mediaType": "text/plain"}, -32005),
        ({"url": "https://example.com/a.png"}, -32005),
        pytest.param({}, -32602, marks=pytest.mark.requirement("a2a.empty_parts")),
    ],
)
def test_files_and_empty_parts_are_refused(http: httpx.Client, part: Any, code: int) -> None:
    params = new("hello")
    params["message"]["parts"].append(part)
    assert error(http, at("echo"), "SendMessage", params)[0] == code


@pytest.mark.requirement("a2a.failures")
def test_a_run_that_fails_is_a_failed_task_that_says_why(http: httpx.Client) -> None:
    task = send(http, "failing", {"log": []})
    assert task["status"]["state"] == "TASK_STATE_FAILED"
    assert task["status"]["message"]["parts"] == [{"text": "ValueError: as told"}]
    assert call(http, at("failing"), "message/send", old({"log": []}))["status"]["state"] == "failed"


@pytest.mark.requirement("a2a.history-length")
@pytest.mark.parametrize(("asked", "shown"), [(0, 0), (1, 1), (3, 3), (50, 4)])
def test_a_client_says_how_much_of_the_history_it_wants(http: httpx.Client, asked: int, shown: int) -> None:
    context = send(http, "echo", "one")["contextId"]
    params = {**new("two", contextId=context), "configuration": {"historyLength": asked}}
    task = call(http, at("echo"), "SendMessage", params)["task"]
    assert len(task.get("history", [])) == shown
    again = call(http, at("echo"), "GetTask", {"id": task["id"], "historyLength": asked})
    assert len(again.get("history", [])) == shown


@pytest.mark.requirement("a2a.redelivery")
def test_a_message_that_comes_twice_is_one_task(http: httpx.Client) -> None:
    context = send(http, "echo", "one")["contextId"]
    message = new("two", contextId=context)
    first = call(http, at("echo"), "SendMessage", message)["task"]
    assert call(http, at("echo"), "SendMessage", message)["task"] == first
    assert len(http.get(f"/threads/{context}/runs").json()) == 2


# --- streams ---


@pytest.mark.requirement("a2a.stream")
def test_a_stream_says_the_answer_piece_by_piece(http: httpx.Client) -> None:
    first, *pieces, last = stream(http, at("echo"), "SendStreamingMessage", new("hello"))
    assert first["task"]["status"]["state"] in ("TASK_STATE_SUBMITTED", "TASK_STATE_WORKING")
    updates = [piece["artifactUpdate"] for piece in pieces]
    assert "".join(update["artifact"]["parts"][0]["text"] for update in updates) == "you said: hello"
    assert [update.get("append", False) for update in updates] == [False] + [True] * (len(updates) - 1)
    assert [update.get("lastChunk", False) for update in updates] == [False] * (len(updates) - 1) + [True]
    assert len(updates) > 3
    assert last["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert {update["taskId"] for update in updates} == {first["task"]["id"]}


@pytest.mark.requirement("a2a.stream")
def test_a_stream_of_the_older_protocol_ends_with_a_final_status(http: httpx.Client) -> None:
    events = stream(http, at("echo"), "message/stream", old("hello"))
    assert [events[0]["kind"], events[-1]["kind"]] == ["task", "status-update"]
    assert (events[-1]["final"], events[-1]["status"]["state"]) == (True, "completed")
    assert "".join(event["artifact"]["parts"][0]["text"] for event in events[1:-1]) == "you said: hello"


@pytest.mark.requirement("a2a.stream")
def test_a_stream_without_tokens_has_the_whole_answer_at_its_end(http: httpx.Client) -> None:
    _, update, last = stream(http, at("steps"), "SendStreamingMessage", new({"count": 1}))
    assert update["artifactUpdate"]["artifact"]["parts"][0]["data"] == {"count": 1, "log": [0]}
    assert update["artifactUpdate"]["lastChunk"] is True
    assert last["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


@pytest.mark.requirement("a2a.stream")
def test_a_stream_shows_failures_and_refusals(http: httpx.Client) -> None:
    *_, last = stream(http, at("failing"), "SendStreamingMessage", new({"log": []}))
    assert last["statusUpdate"]["status"]["state"] == "TASK_STATE_FAILED"
    assert error(http, at("steps"), "SendStreamingMessage", new("text"))[0] == -32602


# --- the official client ---


async def sent(client: Any, text: str) -> list[StreamResponse]:
    message = Message(role=Role.ROLE_USER, message_id=f"client-{next(_messages)}", parts=[Part(text=text)])
    return [event async for event in client.send_message(SendMessageRequest(message=message))]


@pytest.mark.anyio
@pytest.mark.requirement("a2a.client")
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("version", ["1.0", "0.3"])
async def test_the_official_client_talks_to_an_agent(server: Server, version: str, streaming: bool) -> None:
    async with httpx.AsyncClient(timeout=30) as web:
        card: AgentCard = await A2ACardResolver(web, f"{server.url}{at('echo')}").get_agent_card()
        spoken = [face for face in card.supported_interfaces if face.protocol_version == version]
        del card.supported_interfaces[:]
        card.supported_interfaces.extend(spoken)
        client = ClientFactory(ClientConfig(httpx_client=web, streaming=streaming)).create(card)
        events = await sent(client, "hello")
    if streaming:
        assert events[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED
        pieces = [event.artifact_update for event in events if event.HasField("artifact_update")]
        assert "".join(piece.artifact.parts[0].text for piece in pieces) == "you said: hello"
    else:
        [event] = events
        assert event.task.status.state == TaskState.TASK_STATE_COMPLETED
        assert event.task.artifacts[0].parts[0].text == "you said: hello"
