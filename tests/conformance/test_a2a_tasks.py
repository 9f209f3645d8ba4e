"""A2A: the life of a task: reading, listing, answering, cancelling, following; and bad requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conformance.test_a2a import answer, at, new, old, send
from tests.support.rpc import call, error, message, stream
from tests.support.server import Server
from tests.support.talk import UNKNOWN_ID, get_thread, until, wait

LONG = {"pause": 0.5, "count": 1000}
"""Input of a `steps` run that goes on until it is cancelled (or until LangGraph stops it, after 25 steps)."""


def begun(http: httpx.Client, agent: str, *parts: Any) -> Any:
    """A task that was not waited for."""
    return call(http, at(agent), "SendMessage", {**new(*parts), "configuration": {"returnImmediately": True}})["task"]


def state(http: httpx.Client, agent: str, task: str) -> str:
    return str(call(http, at(agent), "GetTask", {"id": task})["status"]["state"])


# --- questions ---


@pytest.mark.requirement("a2a.interrupts")
def test_a_question_is_a_task_that_waits_for_input(http: httpx.Client) -> None:
    task = send(http, "approve", {"log": []})
    assert task["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    words, data = task["status"]["message"]["parts"]
    assert words["text"] == '{"question":"may I?"}'
    [interrupt] = data["data"]["interrupts"]
    assert interrupt["value"] == {"question": "may I?"}
    assert task["artifacts"][0]["name"] == "Interrupt"
    assert call(http, at("approve"), "tasks/get", {"id": task["id"]})["status"]["state"] == "input-required"


@pytest.mark.requirement("a2a.answers")
@pytest.mark.parametrize(
    ("parts", "given"),
    [
        (["yes"], "yes"),
        (["a", "b"], "a\nb"),
        ([{"ok": True, "n": 5}], {"ok": True, "n": 5}),
        ([[1, 2.5]], [1, 2.5]),
        ([7], 7),
    ],
)
def test_the_next_message_of_the_task_is_the_answer(http: httpx.Client, parts: list[Any], given: Any) -> None:
    task = send(http, "approve", {"log": []})
    done = send(http, "approve", *parts, taskId=task["id"], contextId=task["contextId"])
    assert (done["id"], done["status"]["state"]) == (task["id"], "TASK_STATE_COMPLETED")
    assert answer(done) == {"log": [given, "done"]}
    assert call(http, at("approve"), "GetTask", {"id": task["id"]}) == done


@pytest.mark.requirement("a2a.answers")
def test_the_next_message_of_the_context_is_the_answer_too(http: httpx.Client) -> None:
    task = call(http, at("approve"), "message/send", old({"log": []}))
    done = call(http, at("approve"), "message/send", old("yes", contextId=task["contextId"]))
    assert (done["id"], done["status"]["state"]) == (task["id"], "completed")


@pytest.mark.requirement("a2a.answers")
def test_a_task_may_ask_several_times(http: httpx.Client) -> None:
    task = send(http, "twice", {"log": []})
    second = send(http, "twice", "one", taskId=task["id"])
    assert (second["id"], second["status"]["state"]) == (task["id"], "TASK_STATE_INPUT_REQUIRED")
    assert second["status"]["message"]["messageId"] != task["status"]["message"]["messageId"]
    events = stream(http, at("twice"), "SendStreamingMessage", new("two", taskId=task["id"]))
    assert {event[kind]["taskId"] for event in events[1:] for kind in event} == {task["id"]}
    assert events[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert state(http, "twice", task["id"]) == "TASK_STATE_COMPLETED"


@pytest.mark.requirement("a2a.answers")
def test_several_questions_are_answered_by_their_ids(http: httpx.Client) -> None:
    task = send(http, "parallel", {"log": []})
    ids = [asked["id"] for asked in task["status"]["message"]["parts"][1]["data"]["interrupts"]]
    assert len(ids) == 2
    code, words = error(http, at("parallel"), "SendMessage", new("yes", taskId=task["id"]))
    assert code == -32602
    assert "specify the interrupt id" in words
    done = send(http, "parallel", dict.fromkeys(ids, "yes"), taskId=task["id"])
    assert answer(done)["log"] == [{"q1": "yes"}, {"q2": "yes"}, "done"]


@pytest.mark.requirement("a2a.stale-answers")
def test_a_stale_answer_is_refused_and_a_repeated_one_finds_its_task(http: httpx.Client) -> None:
    task = send(http, "twice", {"log": []})
    reply = new("one", taskId=task["id"])
    second = call(http, at("twice"), "SendMessage", reply)["task"]
    # The same message once more: it must not answer the question that came next.
    assert call(http, at("twice"), "SendMessage", reply)["task"] == second
    first_id = task["status"]["message"]["parts"][1]["data"]["interrupts"][0]["id"]
    code, words = error(http, at("twice"), "SendMessage", new({first_id: "late"}, taskId=task["id"]))
    assert code == -32004
    assert "not pending" in words
    assert send(http, "twice", "two", taskId=task["id"])["status"]["state"] == "TASK_STATE_COMPLETED"
    code, words = error(http, at("twice"), "SendMessage", new("three", taskId=task["id"]))
    assert code == -32004
    assert "completed and asks nothing" in words


@pytest.mark.requirement("a2a.stale-answers")
def test_of_two_answers_at_once_one_counts(http: httpx.Client, server: Server) -> None:
    task = send(http, "approve", {"log": []})

    def reply(text: str) -> httpx.Response:
        with server.http(timeout=30) as own:
            return own.post(at("approve"), json=message("SendMessage", new(text, taskId=task["id"]), 1))

    with ThreadPoolExecutor(4) as pool:
        answers = [reply.json() for reply in pool.map(reply, ["a", "b", "c", "d"])]
    assert len([one for one in answers if "result" in one]) == 1
    assert {one["error"]["code"] for one in answers if "error" in one} == {-32004}
    assert len(answer(call(http, at("approve"), "GetTask", {"id": task["id"]}))["log"]) == 2


@pytest.mark.requirement("a2a.answers")
def test_an_answer_is_one_value(http: httpx.Client) -> None:
    task = send(http, "approve", {"log": []})
    for parts in ([{"a": 1}, {"b": 2}], ["text", {"a": 1}], [None]):
        assert error(http, at("approve"), "SendMessage", new(*parts, taskId=task["id"]))[0] == -32602
    assert state(http, "approve", task["id"]) == "TASK_STATE_INPUT_REQUIRED"


# --- reading ---


@pytest.mark.requirement("a2a.get")
def test_a_task_keeps_its_own_answer_when_the_conversation_goes_on(http: httpx.Client) -> None:
    first = send(http, "echo", "one")
    send(http, "echo", "two", contextId=first["contextId"])
    again = call(http, at("echo"), "GetTask", {"id": first["id"]})
    assert answer(again) == "you said: one"
    assert len(again["history"]) == 2


@pytest.mark.requirement("a2a.get")
def test_a_run_of_the_rest_of_the_api_is_a_task_too(http: httpx.Client) -> None:
    thread = http.post("/threads", json={}).json()["thread_id"]
    wait(http, thread, "echo", input={"messages": [{"role": "user", "content": "hi"}]})
    [run] = http.get(f"/threads/{thread}/runs").json()
    assert answer(call(http, at("echo"), "GetTask", {"id": f"{thread}:{run['run_id']}"})) == "you said: hi"


@pytest.mark.requirement("a2a.unknown")
@pytest.mark.parametrize("task", ["nonsense", UNKNOWN_ID, f"{UNKNOWN_ID}:{UNKNOWN_ID}", ":", "a" * 10_000, "\x00"])
def test_an_unknown_task_is_not_found_by_any_method(http: httpx.Client, task: str) -> None:
    for method in ("GetTask", "CancelTask", "tasks/get", "tasks/cancel"):
        assert error(http, at("echo"), method, {"id": task})[0] == -32001
    assert error(http, at("echo"), "SendMessage", new("hi", taskId=task))[0] == -32001


@pytest.mark.requirement("a2a.unknown")
def test_a_task_belongs_to_its_agent(http: httpx.Client) -> None:
    task = send(http, "echo", "hi")["id"]
    assert error(http, at("steps"), "GetTask", {"id": task})[0] == -32001
    assert error(http, "/a2a/nonsense", "GetTask", {"id": task})[0] == -32602


@pytest.mark.requirement("a2a.unknown_agent")
def test_an_unknown_agent_has_no_tasks(http: httpx.Client) -> None:
    task = send(http, "echo", "hi")["id"]
    assert error(http, f"/a2a/{UNKNOWN_ID}", "GetTask", {"id": task})[0] == -32602


@pytest.mark.requirement("a2a.list")
def test_tasks_are_listed_in_pages_with_the_last_changed_first(http: httpx.Client) -> None:
    context = send(http, "steps", {"count": 1})["contextId"]
    ids = [call(http, at("steps"), "ListTasks", {"contextId": context})["tasks"][0]["id"]]
    ids += [send(http, "steps", {"count": 1}, contextId=context)["id"] for _ in range(2)]
    seen: list[str] = []
    token = ""
    while True:
        asked = {"contextId": context, "pageSize": 2, "pageToken": token}
        page = call(http, at("steps"), "ListTasks", asked)
        assert page["totalSize"] == 3
        assert all("artifacts" not in task for task in page["tasks"])
        seen += [task["id"] for task in page["tasks"]]
        if not (token := page["nextPageToken"]):
            break
    assert seen == ids[::-1]
    [newest, *_] = call(http, at("steps"), "ListTasks", {"contextId": context, "includeArtifacts": True})["tasks"]
    assert answer(newest)["log"] == [0, 1, 2]


@pytest.mark.requirement("a2a.list")
def test_tasks_are_listed_by_state_and_time(http: httpx.Client) -> None:
    task = send(http, "approve", {"log": []})

    def listed(**terms: Any) -> list[str]:
        found = call(http, at("approve"), "ListTasks", {"contextId": task["contextId"], **terms})
        return [one["id"] for one in found["tasks"]]

    assert listed(status="TASK_STATE_INPUT_REQUIRED") == [task["id"]]
    assert listed(status="TASK_STATE_COMPLETED") == []
    assert listed(status="TASK_STATE_REJECTED") == []
    assert listed(statusTimestampAfter=task["status"]["timestamp"]) == [task["id"]]
    assert listed(statusTimestampAfter="2999-01-01T00:00:00Z") == []
    send(http, "approve", "yes", taskId=task["id"])
    assert listed(status="TASK_STATE_INPUT_REQUIRED") == []
    assert listed() == [task["id"]]


@pytest.mark.requirement("a2a.list")
@pytest.mark.parametrize(
    "terms",
    [
        {"pageSize": 0},
        {"pageSize": 101},
        {"pageSize": "many"},
        {"pageToken": "nonsense"},
        {"pageToken": f"2026-01-01/{UNKNOWN_ID}x"},
        {"contextId": "nonsense"},
        {"historyLength": -1},
        {"statusTimestampAfter": "yesterday"},
    ],
)
def test_a_list_that_makes_no_sense_is_refused(http: httpx.Client, terms: Any) -> None:
    assert error(http, at("echo"), "ListTasks", terms)[0] == -32602


# --- running tasks ---


@pytest.mark.requirement("a2a.cancel")
@pytest.mark.parametrize("method", ["CancelTask", "tasks/cancel"])
def test_a_running_task_is_cancelled(http: httpx.Client, method: str) -> None:
    task = begun(http, "steps", LONG)
    assert task["status"]["state"] in ("TASK_STATE_SUBMITTED", "TASK_STATE_WORKING")
    cancelled = call(http, at("steps"), method, {"id": task["id"]})
    assert cancelled["status"]["state"] in ("TASK_STATE_CANCELED", "canceled")
    thread, run = task["id"].split(":")
    assert http.get(f"/threads/{thread}/runs/{run}").json()["status"] == "interrupted"
    code, words = error(http, at("steps"), method, {"id": task["id"]})
    assert code == -32002
    assert "nothing to cancel" in words


@pytest.mark.requirement("a2a.return-immediately")
def test_a_task_that_was_not_waited_for_goes_on(http: httpx.Client) -> None:
    task = begun(http, "steps", {"count": 3, "pause": 0.01})
    until(lambda: state(http, "steps", task["id"]) == "TASK_STATE_COMPLETED", "the task is completed")
    blocking = {**old({"count": 1, "pause": 0.2}), "configuration": {"blocking": False}}
    assert call(http, at("steps"), "message/send", blocking)["status"]["state"] in ("submitted", "working")


@pytest.mark.requirement("a2a.subscribe")
@pytest.mark.parametrize("method", ["SubscribeToTask", "tasks/resubscribe"])
def test_a_running_task_can_be_followed_by_others(http: httpx.Client, method: str) -> None:
    task = begun(http, "steps", {"count": 5, "pause": 0.1})
    events = stream(http, at("steps"), method, {"id": task["id"]})
    first, last = events[0].get("task", events[0]), events[-1].get("statusUpdate", events[-1])
    assert first["id"] == task["id"]
    assert last["status"]["state"] in ("TASK_STATE_COMPLETED", "completed")
    assert error(http, at("steps"), "SubscribeToTask", {"id": task["id"]})[0] == -32004
    assert error(http, at("steps"), "SubscribeToTask", {"id": "nonsense"})[0] == -32001


@pytest.mark.requirement("a2a.stale-answers")
def test_a_task_at_work_takes_no_message(http: httpx.Client) -> None:
    task = begun(http, "steps", LONG)
    assert error(http, at("steps"), "SendMessage", new({"count": 1}, taskId=task["id"]))[0] == -32004
    call(http, at("steps"), "CancelTask", {"id": task["id"]})
    assert get_thread(http, task["contextId"])["status"] == "interrupted"


# --- bad requests ---


@pytest.mark.requirement("a2a.parse_errors")
def test_what_is_no_json_is_a_parse_error(http: httpx.Client) -> None:
    for content in (b"", b"{", rb'"\ud800"', b"[" * 10_000 + b"]" * 10_000, b'{"a": 18446744073709551616000}'):
        answer = http.post(at("echo"), content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (200, -32700)


@pytest.mark.requirement("a2a.errors")
@pytest.mark.parametrize(
    "content",
    [
        b"null",
        b"5",
        b"[]",
        b'[{"jsonrpc": "2.0", "id": 1, "method": "GetTask"}]',
        b"{}",
        b'{"jsonrpc": "1.0", "id": 1, "method": "GetTask"}',
        pytest.param(
            b'{"jsonrpc": "2.0", "id": true, "method": "GetTask"}', marks=pytest.mark.requirement("a2a.odd_requests")
        ),
        b'{"jsonrpc": "2.0", "id": 1}',
        pytest.param(b'{"jsonrpc": "2.0", "id": 1, "method": 5}', marks=pytest.mark.requirement("a2a.odd_requests")),
        pytest.param(
            b'{"jsonrpc": "2.0", "id": 1, "method": {"message/send": 1}}',
            marks=pytest.mark.requirement("a2a.odd_requests"),
        ),
    ],
)
def test_what_is_no_request_is_refused(http: httpx.Client, content: bytes) -> None:
    answer = http.post(at("echo"), content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, -32600)


@pytest.mark.requirement("a2a.errors")
def test_unknown_methods_say_so(http: httpx.Client) -> None:
    assert error(http, at("echo"), "nonsense/method")[0] == -32601
    assert error(http, at("echo"), "Nonsense")[0] == -32601


@pytest.mark.requirement("a2a.unsupported")
def test_unsupported_methods_say_so(http: httpx.Client) -> None:
    task = send(http, "echo", "hi")["id"]
    assert error(http, at("echo"), "GetExtendedAgentCard", {})[0] == -32007
    assert error(http, at("echo"), "ListTaskPushNotificationConfigs", {"taskId": task})[0] == -32003
    assert error(http, at("echo"), "tasks/pushNotificationConfig/get", {"id": task})[0] == -32003


@pytest.mark.requirement("a2a.bad_messages")
@pytest.mark.parametrize(
    "change",
    [
        {"parts": []},
        {"parts": "text"},
        {"parts": [{"text": 5}]},
        {"messageId": ""},
        {"role": "ROLE_UNSPECIFIED"},
        {"contextId": "nonsense"},
        {"contextId": 5},
        {"taskId": 5},
    ],
)
def test_a_message_that_makes_no_sense_starts_nothing(http: httpx.Client, change: Any) -> None:
    before = http.post("/threads/count", json={}).json()
    assert error(http, at("echo"), "SendMessage", new("hi", **change))[0] in (-32602, -32001)
    assert http.post("/threads/count", json={}).json() == before


@pytest.mark.requirement("a2a.contexts")
def test_a_task_and_another_context_do_not_belong_together(http: httpx.Client) -> None:
    task = send(http, "approve", {"log": []})
    params = new("yes", taskId=task["id"], contextId=UNKNOWN_ID)
    assert error(http, at("approve"), "SendMessage", params)[0] == -32602


@pytest.mark.requirement("a2a.versions")
def test_a_version_that_nobody_speaks_is_refused(http: httpx.Client) -> None:
    answer = http.post(at("echo"), json=message("SendMessage", new("hi"), 1), headers={"a2a-version": "7.0"})
    assert answer.json()["error"]["code"] == -32009


@pytest.mark.requirement("a2a.odd_text")
@pytest.mark.parametrize("odd", ["\x00", "a" * 10_000, "'; --"])
def test_odd_message_ids_break_nothing(http: httpx.Client, odd: str) -> None:
    context = send(http, "echo", "one")["contextId"]
    for fields in ({}, {"contextId": context}):
        answer = http.post(at("echo"), json=message("SendMessage", new("hi", messageId=odd, **fields), 1)).json()
        assert "result" in answer or answer["error"]["code"] == -32602


@pytest.mark.requirement("a2a.odd_text")
def test_odd_text_and_odd_ids_are_carried_as_they_are(http: httpx.Client) -> None:
    assert answer(send(http, "mirror", {"text": "a\x00\U0001f600"}))["codes"] == [97, 0, 0x1F600]
    assert answer(send(http, "echo", "\u2028 <b>")) == "you said: \u2028 <b>"
