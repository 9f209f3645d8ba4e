"""A request that is sent again is carried out once (`Idempotency-Key`)."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import psycopg
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import LONG, new_thread, parse, refused, start, until, wait

ONE_STEP: dict[str, Any] = {"assistant_id": "steps", "input": {"count": 1}}
STATEFUL = ["", "/stream", "/wait"]


@pytest.fixture
def key() -> dict[str, str]:
    """Headers with a key of the test's own."""
    return {"idempotency-key": uuid.uuid4().hex}


def runs_of(http: httpx.Client, thread: str) -> list[Any]:
    return list(http.get(f"/threads/{thread}/runs").json())


def is_repeat(answer: httpx.Response) -> bool:
    assert answer.status_code == 200, answer.text
    return answer.headers.get("idempotent-replayed") == "true"


# --- repeats ---


@pytest.mark.requirement("runs.idempotent_create")
def test_a_repeated_create_answers_with_the_first_run(http: httpx.Client, thread: str, key: dict[str, str]) -> None:
    first, again = [http.post(f"/threads/{thread}/runs", json=ONE_STEP, headers=key) for _ in range(2)]
    assert (is_repeat(first), is_repeat(again)) == (False, True)
    assert again.json()["run_id"] == first.json()["run_id"]
    assert again.headers["content-location"] == first.headers["content-location"]
    assert len(runs_of(http, thread)) == 1


@pytest.mark.requirement("runs.idempotent_stream")
@pytest.mark.parametrize("place", ["/threads/{thread}/runs/stream", "/runs/stream"])
def test_a_repeated_stream_is_the_first_one_from_its_start(
    http: httpx.Client, thread: str, key: dict[str, str], place: str
) -> None:
    body = {**ONE_STEP, "stream_mode": ["updates", "values"]}
    first, again = [http.post(place.format(thread=thread), json=body, headers=key) for _ in range(2)]
    assert (is_repeat(first), is_repeat(again)) == (False, True)
    assert again.content == first.content
    assert len(parse(again.content)) > 3
    assert again.headers["location"] == first.headers["location"]


@pytest.mark.requirement("runs.idempotent_wait")
@pytest.mark.parametrize("place", ["/threads/{thread}/runs/wait", "/runs/wait"])
def test_a_repeated_wait_answers_with_the_first_result(
    http: httpx.Client, thread: str, key: dict[str, str], place: str
) -> None:
    first, again = [http.post(place.format(thread=thread), json=ONE_STEP, headers=key) for _ in range(2)]
    assert (is_repeat(first), is_repeat(again)) == (False, True)
    assert again.json() == first.json() == {"log": [0], "count": 1}
    assert again.headers["content-location"] == first.headers["content-location"]


@pytest.mark.requirement("runs.idempotent_create")
@pytest.mark.parametrize(("place", "body"), [("/runs", ONE_STEP), ("/runs/batch", [ONE_STEP, ONE_STEP])])
def test_a_repeated_background_run_or_batch_starts_nothing(
    http: httpx.Client, key: dict[str, str], place: str, body: Any
) -> None:
    first, again = [http.post(place, json=body, headers=key) for _ in range(2)]
    assert (is_repeat(first), is_repeat(again)) == (False, True)

    def ids(answer: httpx.Response) -> list[str]:
        runs = answer.json()
        return [run["run_id"] for run in (runs if isinstance(runs, list) else [runs])]

    assert ids(again) == ids(first)


@pytest.mark.requirement("runs.idempotent_thread")
@pytest.mark.parametrize("body", [{}, {"metadata": {"a": 1}}, {"thread_id": "new"}])
def test_a_repeated_creation_of_a_thread_answers_with_the_first_thread(
    http: httpx.Client, key: dict[str, str], body: dict[str, Any]
) -> None:
    body = {**body, "thread_id": str(uuid.uuid4())} if "thread_id" in body else body
    first, again = [http.post("/threads", json=body, headers=key) for _ in range(2)]
    assert (is_repeat(first), is_repeat(again)) == (False, True)
    assert again.json() == first.json()


@pytest.mark.requirement("runs.idempotent_answer")
def test_a_repeated_answer_is_the_first_one_and_meets_no_other_question(
    http: httpx.Client, thread: str, key: dict[str, str]
) -> None:
    wait(http, thread, "twice", input={})
    body = {"assistant_id": "twice", "command": {"resume": "yes"}}
    first, again = [http.post(f"/threads/{thread}/runs/wait", json=body, headers=key) for _ in range(2)]
    assert (is_repeat(first), is_repeat(again)) == (False, True)
    assert again.json() == first.json()
    assert again.json()["log"] == [{"first": "yes"}]
    assert again.json()["__interrupt__"][0]["value"] == {"question": "and this?"}


@pytest.mark.requirement("runs.idempotent_create")
@pytest.mark.parametrize("precondition", [{"multitask_strategy": "reject"}, {"if_thread_status": "idle"}])
def test_a_repeat_is_no_second_run_that_its_own_first_one_could_block(
    http: httpx.Client, thread: str, key: dict[str, str], precondition: dict[str, str]
) -> None:
    body = {"assistant_id": "steps", **LONG, **precondition}
    first, again = [http.post(f"/threads/{thread}/runs", json=body, headers=key) for _ in range(2)]
    assert (is_repeat(first), is_repeat(again)) == (False, True)
    http.post(f"{again.headers['content-location']}/cancel", params={"wait": 1})


@pytest.mark.requirement("runs.idempotent_create")
@pytest.mark.anyio
async def test_the_sdk_may_send_a_key_with_every_operation(sdk: LangGraphClient, key: dict[str, str]) -> None:
    thread = (await sdk.threads.create(headers=key))["thread_id"]
    assert (await sdk.threads.create(headers=key))["thread_id"] == thread
    key = {"idempotency-key": f"{uuid.uuid4()}"}
    runs = [await sdk.runs.create(thread, "steps", input={}, headers=key) for _ in range(2)]
    assert runs[0]["run_id"] == runs[1]["run_id"]
    assert len(await sdk.runs.list(thread)) == 1


# --- at once ---


@pytest.mark.requirement("runs.idempotent_at_once")
@pytest.mark.anyio
@pytest.mark.parametrize("operation", ["/threads/{thread}/runs", "/threads/{thread}/runs/wait", "/runs", "/runs/wait"])
async def test_of_many_equal_requests_at_once_one_is_carried_out(
    server: Server, key: dict[str, str], operation: str
) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as clients:
        thread = (await clients.post("/threads", json={})).json()["thread_id"]
        path = operation.format(thread=thread)
        barrier = asyncio.Barrier(16)

        async def send() -> httpx.Response:
            await barrier.wait()
            return await clients.post(path, json=ONE_STEP, headers=key)

        answers = await asyncio.gather(*(send() for _ in range(16)))
    assert sorted(map(is_repeat, answers)) == [False] + [True] * 15
    assert len({answer.headers["content-location"] for answer in answers}) == 1


@pytest.mark.requirement("runs.idempotent_answer")
@pytest.mark.anyio
async def test_of_many_equal_answers_at_once_one_is_given_and_all_are_told(server: Server, http: httpx.Client) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as clients:
        for _ in range(5):
            thread = (await clients.post("/threads", json={})).json()["thread_id"]
            await clients.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "twice", "input": {}})
            body = {"assistant_id": "twice", "command": {"resume": "yes"}}
            headers = {"idempotency-key": thread}
            posts = [clients.post(f"/threads/{thread}/runs/wait", json=body, headers=headers) for _ in range(8)]
            answers = await asyncio.gather(*posts)
            assert sorted(map(is_repeat, answers)) == [False] + [True] * 7
            assert {tuple(map(str, answer.json()["log"])) for answer in answers} == {("{'first': 'yes'}",)}


# --- what is no repeat ---


@pytest.mark.requirement("runs.idempotent_other_request")
@pytest.mark.parametrize("operation", STATEFUL)
def test_a_key_with_another_request_is_refused(
    http: httpx.Client, thread: str, key: dict[str, str], operation: str
) -> None:
    path = f"/threads/{thread}/runs{operation}"
    http.post(path, json=ONE_STEP, headers=key)
    for place, body in [
        (path, {**ONE_STEP, "input": {"count": 2}}),
        (path, {**ONE_STEP, "metadata": {"a": 1}}),
        (f"/threads/{new_thread(http)}/runs{operation}", ONE_STEP),
        ("/runs/stream", ONE_STEP),
        ("/runs/batch", [ONE_STEP]),
        ("/threads", {}),
    ]:
        detail = refused(http.post(place, json=body, headers=key), 422)
        assert detail == "This Idempotency-Key was used for another request."
    assert len(runs_of(http, thread)) == 1


@pytest.mark.requirement("runs.idempotent_refused")
def test_a_request_that_was_refused_may_be_sent_again(http: httpx.Client, thread: str, key: dict[str, str]) -> None:
    run = start(http, thread, "steps", **LONG)
    body = {**ONE_STEP, "multitask_strategy": "reject"}
    refused(http.post(f"/threads/{thread}/runs/wait", json=body, headers=key), 409)
    http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 1})
    answer = http.post(f"/threads/{thread}/runs/wait", json=body, headers=key)
    assert not is_repeat(answer)


@pytest.mark.requirement("runs.idempotent_gone")
@pytest.mark.parametrize("operation", STATEFUL)
def test_a_repeat_whose_run_is_gone_starts_no_second_one(
    http: httpx.Client, thread: str, key: dict[str, str], operation: str
) -> None:
    path = f"/threads/{thread}/runs{operation}"
    where = http.post(path, json=ONE_STEP, headers=key).headers["content-location"]
    http.get(f"{where}/join")
    assert http.delete(where).status_code == 204
    run = where.rsplit("/", 1)[-1]
    assert refused(http.post(path, json=ONE_STEP, headers=key), 404) == f"Run with ID {run} not found"
    assert runs_of(http, thread) == []


@pytest.mark.requirement("runs.idempotent_gone")
def test_a_repeat_whose_thread_is_gone_makes_no_second_one(http: httpx.Client, key: dict[str, str]) -> None:
    thread = http.post("/threads", json={}, headers=key).json()["thread_id"]
    http.delete(f"/threads/{thread}")
    assert refused(http.post("/threads", json={}, headers=key), 404) == f"Thread with ID {thread} not found"


@pytest.mark.requirement("runs.idempotent_key_form")
@pytest.mark.parametrize("bad", ["", '""', "a b", "x" * 256, '"open', "\u00fc".encode("latin-1")])
@pytest.mark.parametrize(
    "path",
    ["/threads", "/threads/{thread}/runs", "/threads/{thread}/runs/wait", "/runs/stream", "/runs", "/runs/batch"],
)
def test_a_malformed_key_is_refused(http: httpx.Client, thread: str, path: str, bad: Any) -> None:
    body = [ONE_STEP] if path.endswith("batch") else ONE_STEP
    detail = refused(http.post(path.format(thread=thread), json=body, headers={"idempotency-key": bad}), 422)
    assert detail.startswith("Idempotency-Key must be")


@pytest.mark.requirement("runs.idempotent_key_form")
def test_a_key_in_quotes_is_the_same_key(http: httpx.Client, thread: str) -> None:
    first, again = [
        http.post(f"/threads/{thread}/runs", json=ONE_STEP, headers={"idempotency-key": key})
        for key in (thread, f'"{thread}"')
    ]
    assert again.json()["run_id"] == first.json()["run_id"]


@pytest.mark.requirement("runs.without_key")
def test_requests_without_a_key_are_all_carried_out(http: httpx.Client, thread: str) -> None:
    for _ in range(2):
        assert not is_repeat(http.post(f"/threads/{thread}/runs", json=ONE_STEP))
    assert len(runs_of(http, thread)) == 2


@pytest.mark.requirement("runs.idempotent_forgotten")
def test_a_key_is_forgotten_after_a_day(cluster: Cluster) -> None:
    with cluster.database() as url, psycopg.connect(url, autocommit=True) as conn:
        for key, age in (("old", "25 hours"), ("young", "23 hours")):
            conn.execute(
                "INSERT INTO holdfast.idempotency_keys VALUES ('local', %s, '', '{}', '{}', now() - %s::interval)",
                [key, age],
            )
        with Server(database_url=url, config=PROJECT):
            until(lambda: len(conn.execute("SELECT FROM holdfast.idempotency_keys").fetchall()) < 2, "one is swept")
        assert conn.execute("SELECT key FROM holdfast.idempotency_keys").fetchall() == [("young",)]
