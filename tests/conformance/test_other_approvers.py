"""`approvals.by` of langgraph.json: who may answer what a graph asks, by every door, and what approvers see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import PROJECT
from tests.support.keys import Keys
from tests.support.postgres import Cluster
from tests.support.rpc import ask
from tests.support.server import Server, refusal_to_start, with_sections
from tests.support.talk import UNKNOWN_ID, get_thread, join, new_thread, refused, start, wait

SECTION: dict[str, Any] = {
    "by": "another",
    "graphs": {
        "parallel": {"by": "permission:finance"},
        "typed_ask": {"by": ["another", "permission:finance"]},
        "steps": {"by": []},
    },
}
HOLDERS: dict[str, tuple[str, ...]] = {
    "ada": (),
    "ada in finance": ("read", "write", "run", "approve", "permission:finance"),
    "bob": (),
    "boss": ("approve:all",),
    "bursar": ("approve:all", "permission:finance"),
    "admin": ("admin",),
}
Client = Callable[[str], httpx.Client]


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as url:
        yield url


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = with_sections(PROJECT, tmp_path_factory.mktemp("by"), approvals=SECTION)
    with Server(database_url=database, config=config, HOLDFAST_AUTH="keys") as running:
        yield running


@pytest.fixture(scope="module")
def of(server: Server, database: str) -> Iterator[Client]:
    """The client of each holder of a key; an owner is the first word of the name."""
    keys = Keys(database)
    made = {
        name: server.http(headers={"x-api-key": keys.valid(name.split()[0], *scopes)}, timeout=30)
        for name, scopes in HOLDERS.items()
    }
    yield made.__getitem__
    for client in made.values():
        client.close()


@pytest.fixture
def ada(of: Client) -> httpx.Client:
    return of("ada")


def asking(http: httpx.Client, graph: str = "approve") -> str:
    """A thread on which this graph asks something."""
    thread = new_thread(http)
    join(http, thread, start(http, thread, graph, input={"log": []}))
    assert get_thread(http, thread)["status"] == "interrupted"
    return thread


def approvals(http: httpx.Client, thread: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.post("/approvals/search", json={"thread_id": thread, "state": "pending"}).json()
    return found


def answer(http: httpx.Client, approval: dict[str, Any], said: Any = "yes") -> httpx.Response:
    return http.post(f"/approvals/{approval['approval_id']}/answer", json={"answer": said})


@pytest.mark.requirement("approvals.by")
def test_who_asked_for_it_may_not_answer_by_any_door(ada: httpx.Client) -> None:
    thread = asking(ada)
    [question] = approvals(ada, thread)
    body = {"assistant_id": "approve", "command": {"resume": "yes"}}
    handed = {"__pregel_resume_map": {question["interrupt_id"]: "yes"}}
    for operation in ("", "/wait", "/stream"):
        path = f"/threads/{thread}/runs{operation}"
        assert "somebody else" in refused(ada.post(path, json=body), 403)
        refused(ada.post(path, json={"assistant_id": "approve", "config": {"configurable": handed}}), 403)
    refused(answer(ada, question), 403)
    call = {"name": "approve", "arguments": {"thread_id": thread, "resume": "yes"}}
    assert "somebody else" in str(ask(ada, "/mcp", "tools/call", call)["error"])
    message = {"messageId": "m", "role": "ROLE_USER", "contextId": thread, "parts": [{"text": "yes"}]}
    assert "somebody else" in str(ask(ada, "/a2a/approve", "SendMessage", {"message": message})["error"])
    assert get_thread(ada, thread)["status"] == "interrupted"
    assert [each["state"] for each in approvals(ada, thread)] == ["pending"]


@pytest.mark.requirement("approvals.by")
@pytest.mark.parametrize("command", [{"goto": "done"}, {"update": {"log": ["x"]}}, {"resume": "yes", "goto": "done"}])
def test_who_asked_for_it_does_not_get_past_the_question(
    of: Client, ada: httpx.Client, command: dict[str, Any]
) -> None:
    thread = asking(ada)
    body = {"assistant_id": "approve", "command": command}
    assert "'admin'" in refused(ada.post(f"/threads/{thread}/runs/wait", json=body), 403)
    body["assistant_id"] = "steps"
    assert "'admin'" in refused(ada.post(f"/threads/{thread}/runs/wait", json=body), 403)
    state = {"values": {"log": ["x"]}, "as_node": "ask"}
    assert "'admin'" in refused(ada.post(f"/threads/{thread}/state", json=state), 403)
    made = {"metadata": {"graph_id": "approve"}, "supersteps": [{"updates": [state]}]}
    assert "'admin'" in refused(ada.post("/threads", json=made), 403)
    assert of("admin").post("/threads", json=made).status_code == 200
    assert [each["state"] for each in approvals(ada, thread)] == ["pending"]


@pytest.mark.requirement("approvals.by")
def test_a_graph_without_such_a_policy_is_as_it_was(ada: httpx.Client) -> None:
    thread = new_thread(ada)
    wait(ada, thread, "steps", input={"count": 1})
    assert ada.post(f"/threads/{thread}/state", json={"values": {"log": ["x"]}}).status_code == 200


@pytest.mark.requirement("approvals.by", "approvals.answer")
def test_an_approver_answers_in_the_owners_name_and_the_record_says_who(of: Client, ada: httpx.Client) -> None:
    thread = asking(ada)
    [question] = approvals(of("boss"), thread)
    assert (question["requested_by"], question["decided_by"]) == ("ada", None)
    given = answer(of("boss"), question, {"ok": True})
    assert (given.status_code, given.json()["decided_by"]) == (200, "boss")
    run = given.json()["decided_run_id"]
    join(ada, thread, run)
    assert ada.get(f"/threads/{thread}/runs/{run}").json()["status"] == "success"
    [settled] = ada.get(f"/threads/{thread}/approvals").json()
    assert (settled["state"], settled["decided_by"], settled["answer"]) == ("answered", "boss", {"ok": True})
    assert {"ok": True} in get_thread(ada, thread)["values"]["log"]
    refused(answer(of("boss"), question), 409)


@pytest.mark.requirement("approvals.by")
def test_what_an_answer_leads_to_was_still_asked_for_by_the_same(of: Client, ada: httpx.Client) -> None:
    thread = asking(ada, "twice")
    [first] = approvals(of("boss"), thread)
    join(ada, thread, answer(of("boss"), first).json()["decided_run_id"])
    [second] = approvals(of("boss"), thread)
    assert second["approval_id"] != first["approval_id"]
    assert second["requested_by"] == "ada"
    refused(answer(ada, second), 403)
    assert answer(of("boss"), second).status_code == 200


@pytest.mark.requirement("approvals.by")
def test_a_copy_of_the_thread_is_no_way_around(ada: httpx.Client) -> None:
    copy = ada.post(f"/threads/{asking(ada)}/copy").json()["thread_id"]
    [question] = approvals(ada, copy)
    refused(answer(ada, question), 403)
    body = {"assistant_id": "approve", "command": {"resume": "yes"}}
    refused(ada.post(f"/threads/{copy}/runs/wait", json=body), 403)


@pytest.mark.requirement("approvals.by")
def test_a_permission_may_be_asked_for_with_or_without_another_person(of: Client, ada: httpx.Client) -> None:
    question = approvals(ada, asking(ada, "parallel"))[0]
    for holder in ("ada", "boss"):
        assert "'finance'" in refused(answer(of(holder), question), 403)
    assert answer(of("ada in finance"), question).status_code == 200
    [question] = approvals(ada, asking(ada, "typed_ask"))
    assert "somebody else" in refused(answer(of("ada in finance"), question), 403)
    assert "'finance'" in refused(answer(of("boss"), question), 403)
    assert answer(of("bursar"), question, {"city": "Bonn"}).status_code == 200


@pytest.mark.requirement("approvals.answer")
def test_an_approver_sees_what_is_asked_and_nothing_else_of_anybody(of: Client, ada: httpx.Client) -> None:
    thread = asking(ada)
    [question] = approvals(of("boss"), thread)
    assert of("boss").get(f"/threads/{thread}/approvals").json() == [question]
    boss = of("boss")
    for path in ("", "/state", "/history", "/runs", f"/runs/{question['run_id']}", "/stream"):
        refused(boss.get(f"/threads/{thread}{path}"), 403)
    refused(boss.post("/threads/search", json={}), 403)
    refused(boss.post("/runs/wait", json={"assistant_id": "steps", "input": {}}), 403)
    # What approves on one's own threads sees nothing of others'.
    body = {"assistant_id": "approve", "command": {"resume": "yes"}}
    refused(boss.post(f"/threads/{thread}/runs/wait", json=body), 404)


@pytest.mark.requirement("approvals.answer")
def test_without_the_right_to_see_it_a_question_is_not_there(of: Client, ada: httpx.Client) -> None:
    thread = asking(ada)
    [question] = approvals(ada, thread)
    assert approvals(of("bob"), thread) == []
    refused(answer(of("bob"), question), 404)
    refused(answer(of("boss"), {"approval_id": UNKNOWN_ID}), 404)
    refused(answer(of("boss"), {"approval_id": "nonsense"}), 422)
    refused(answer(of("boss"), question, None), 422)
    refused(of("boss").post(f"/approvals/{question['approval_id']}/answer", json={}), 422)


@pytest.mark.requirement("approvals.answer")
def test_two_approvers_at_once_give_one_answer(of: Client, ada: httpx.Client) -> None:
    thread = asking(ada)
    [question] = approvals(ada, thread)
    statuses = sorted(answer(of(holder), question).status_code for holder in ("boss", "bursar"))
    assert statuses == [200, 409]


AUTH = """
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def authenticate(headers):
    name = headers[b"x-api-key"].decode()
    return {"identity": name, "permissions": ["finance"] if name == "fin" else []}

@auth.on
async def everybody_sees_everything(ctx, value):
    return None
"""


@pytest.mark.requirement("approvals.by")
def test_with_a_projects_own_authorization_others_answer_as_they_always_did(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "auth.py").write_text(AUTH)
    auth = {"path": f"{tmp_path / 'auth.py'}:auth"}
    config = with_sections(PROJECT, tmp_path, approvals=SECTION, auth=auth)
    with cluster.database() as url, Server(database_url=url, config=config) as running:
        ada, bob, fin = (running.http(headers={"x-api-key": name}, timeout=30) for name in ("ada", "bob", "fin"))
        with ada, bob, fin:
            thread = asking(ada)
            body = {"assistant_id": "approve", "command": {"resume": "yes"}}
            refused(ada.post(f"/threads/{thread}/runs/wait", json=body), 403)
            assert bob.post(f"/threads/{thread}/runs/wait", json=body).status_code == 200
            # Whoever starts a run asks for it, on whosever thread.
            join(bob, thread, start(bob, thread, "approve", input={"log": []}))
            [question] = approvals(ada, thread)
            assert question["requested_by"] == "bob"
            refused(answer(bob, question), 403)
            assert answer(ada, question).status_code == 200
            [question] = approvals(ada, asking(ada, "typed_ask"))
            refused(answer(bob, question), 403)
            assert answer(fin, question).status_code == 200


@pytest.mark.requirement("approvals.by")
@pytest.mark.parametrize(
    ("section", "around", "why"),
    [
        ({"by": "anybody"}, {"HOLDFAST_AUTH": "keys"}, "by"),
        ({"by": "permission:"}, {"HOLDFAST_AUTH": "keys"}, "by"),
        ({"graphs": {"approve": {"by": ["another", 5]}}}, {"HOLDFAST_AUTH": "keys"}, "by"),
        ({"by": "another"}, {}, "without authentication"),
    ],
)
def test_a_policy_that_nobody_could_meet_keeps_the_server_from_starting(
    database_url: str, tmp_path: Path, section: dict[str, Any], around: dict[str, str], why: str
) -> None:
    config = with_sections(PROJECT, tmp_path, approvals=section)
    assert why in refusal_to_start(config, database_url, **around)
