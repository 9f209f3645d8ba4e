"""Whatever comes in: an error in the contract's shape, never a 500, and nothing half done."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.bodies import BODIES, JSON_RPC, LISTS, WRONG
from tests.support.server import Server
from tests.support.talk import UNKNOWN_ID, get_thread, join, new_thread, refused, start, unchanged, wait

MEGABYTE = 2**20
ASSISTANT = "0a551574-0000-4000-8000-000000000000"

every_operation = pytest.mark.parametrize(("method", "path"), list(BODIES))


@pytest.fixture(scope="module")
def used(http: httpx.Client) -> str:
    """A thread that has a run behind it; nothing in this file changes it."""
    http.post("/assistants", json={"graph_id": "steps", "assistant_id": ASSISTANT, "if_exists": "do_nothing"})
    thread = new_thread(http)
    wait(http, thread, "steps", input={"count": 1})
    question(http, thread)
    return thread


def send(http: httpx.Client, method: str, path: str, thread: str, content: bytes) -> httpx.Response:
    cron = new_cron(http) if "{cron}" in path else ""
    approval = question(http, thread) if "{approval}" in path else ""
    ids = {"thread": thread, "cron": cron, "approval": approval, "assistant_id": ASSISTANT}
    return http.request(method, path.format(**ids), content=content)


@cache
def question(http: httpx.Client, of: str) -> str:
    """The approval that is asked about where others are asked about the thread `of`."""
    asking = new_thread(http)
    wait(http, asking, "approve", input={})
    [approval] = http.get(f"/threads/{asking}/approvals").json()
    return str(approval["approval_id"])


def new_cron(http: httpx.Client) -> str:
    created = http.post("/runs/crons", json=BODIES["POST", "/runs/crons"])
    assert created.status_code == 200, created.text
    return str(created.json()["cron_id"])


def in_table(path: str) -> str:
    """A documented path as the table writes it."""
    return re.sub(r"\{(thread|cron|approval)_id\}", r"{\1}", path)


def test_every_operation_with_a_body_is_in_the_table(http: httpx.Client) -> None:
    documented = {
        (method.upper(), in_table(path))
        for path, methods in http.get("/openapi.json").json()["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation
    }
    assert documented == set(BODIES) | LISTS | JSON_RPC


# --- what is no JSON object ---

NOT_JSON = [b"", b" ", b"{", b'{"a":}', b"nope", b"{}{}", b"\xff\xfe", b'{"a": NaN}', b'{"a": Infinity}', b"{'a': 1}"]


@every_operation
def test_what_is_no_json_is_refused(http: httpx.Client, used: str, method: str, path: str) -> None:
    with unchanged(http, used):
        for content in NOT_JSON:
            assert refused(send(http, method, path, used, content), 422) == "Invalid JSON in request body"


@every_operation
def test_what_is_no_object_is_refused(http: httpx.Client, used: str, method: str, path: str) -> None:
    with unchanged(http, used):
        for content in (b"null", b"5", b'"text"', b"[]", b"[{}]", b"true"):
            refused(send(http, method, path, used, content), 422)


@every_operation
def test_json_that_is_ten_thousand_levels_deep_is_refused(
    http: httpx.Client, used: str, method: str, path: str
) -> None:
    deep = [
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"metadata":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"input":' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}",
    ]
    with unchanged(http, used):
        for content in deep:
            refused(send(http, method, path, used, content), 422)


@every_operation
def test_half_of_a_surrogate_pair_is_refused(http: httpx.Client, used: str, method: str, path: str) -> None:
    with unchanged(http, used):
        for text in (rb"\ud800", rb"\udc00", rb"a\udfffb", rb"\udc00\ud800"):
            for content in (b'{"metadata": {"a": "%b"}}' % text, b'{"%b": 1}' % text):
                refused(send(http, method, path, used, content), 422)


# --- fields ---


def fields(http: httpx.Client, method: str, path: str) -> dict[str, bool]:
    """What an operation takes, and whether it has to be there."""
    document = http.get("/openapi.json").json()
    [operations] = [operations for written, operations in document["paths"].items() if in_table(written) == path]
    reference = operations[method.lower()]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    body = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
    return {field: field in body.get("required", ()) for field in body["properties"]}


@every_operation
def test_a_wrong_type_is_refused_by_name(http: httpx.Client, used: str, method: str, path: str) -> None:
    with unchanged(http, used):
        for field, required in fields(http, method, path).items():
            for value in WRONG.get(field, ()):
                if value is None and not required:
                    continue
                body = {**BODIES[method, path], field: value}
                answer = send(http, method, path, used, json.dumps(body).encode())
                assert answer.status_code in (400, 404, 422), (field, value, answer.text)
                refused(answer, answer.status_code)


def test_the_table_of_wrong_values_covers_what_the_operations_take(http: httpx.Client) -> None:
    documented = {field for method, path in BODIES for field in fields(http, method, path)}
    anything = {"input", "answer", "subgraphs", "checkpoint_during"}
    assert documented - anything <= set(WRONG)


@every_operation
def test_an_unknown_field_is_ignored(http: httpx.Client, method: str, path: str) -> None:
    thread = new_thread(http)
    wait(http, thread, "steps", input={"count": 1})
    body = {**BODIES[method, path], "unknown_field": {"a": [1]}, "webhook": None}
    answer = send(http, method, path, thread, json.dumps(body).encode())
    # What `cancel` takes, it may find nothing for.
    assert answer.status_code in ((204, 404) if path == "/runs/cancel" else (200, 204)), answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/threads/{thread}/runs?limit=many",
        "/threads/{thread}/runs?limit=-1",
        "/threads/{thread}/runs?offset=-1",
        "/threads/{thread}/runs?offset=1000000000000000000000",
        "/threads/{thread}/history?limit=many",
        "/threads/{thread}/history?limit=0",
        "/threads/{thread}/state?subgraphs=perhaps",
        "/threads/{thread}/state?select=nope",
        "/threads/{thread}/state/x?select=values.",
        "/threads/{thread}/history?select=nope",
        "/assistants/steps/graph?xray=perhaps",
        "/assistants/steps/subgraphs?recurse=perhaps",
    ],
)
def test_a_bad_query_is_refused(http: httpx.Client, used: str, path: str) -> None:
    answer = http.get(path.format(thread=used))
    assert answer.status_code in (400, 422), answer.text
    refused(answer, answer.status_code)


# --- ids ---

BAD_IDS = ["nonsense", "123", UNKNOWN_ID + "0", "%00", "%F0%9F%92%A3", "-1", "a%2Fb", "%C3%28", "0" * 5000]


@pytest.mark.parametrize("bad", [*BAD_IDS, UNKNOWN_ID])
def test_a_bad_or_unknown_id_is_an_error_on_every_route(http: httpx.Client, used: str, bad: str) -> None:
    allowed = (404,) if bad == UNKNOWN_ID else (404, 422)
    with unchanged(http, used):
        for path, methods in http.get("/openapi.json").json()["paths"].items():
            for method in (method for method in methods if (method.upper(), path) not in JSON_RPC):
                for filled in _with_one_bad_id(path, used, bad):
                    body = BODIES.get((method.upper(), in_table(path)), {})
                    answer = http.request(method.upper(), filled, json=body)
                    assert answer.status_code in allowed, (method, filled, answer.text)
                    refused(answer, answer.status_code)


def _with_one_bad_id(path: str, thread: str, bad: str) -> Iterator[str]:
    for name in ("thread_id", "run_id", "assistant_id", "cron_id"):
        if f"{{{name}}}" in path:
            filled = path.replace(f"{{{name}}}", bad).replace("{thread_id}", thread)
            yield (
                filled.replace("{run_id}", UNKNOWN_ID)
                .replace("{checkpoint_id}", UNKNOWN_ID)
                .replace("{namespace}", "x")
            )


@pytest.mark.parametrize("text", ["%00", "a%00b", "%F0%9F%92%A3", "%C3%28", "'; --", "0" * 5000])
def test_any_text_may_name_a_checkpoint_or_a_namespace(http: httpx.Client, used: str, text: str) -> None:
    for path in (
        f"/threads/{used}/state/{text}",
        f"/threads/{used}/history?before={text}",
        f"/threads/{used}/state?select=values.{text}",
        f"/threads/{used}?include={text}",
        f"/threads/{used}/runs?status={text}",
        f"/assistants/nested/subgraphs/{text}",
    ):
        answer = http.get(path)
        assert answer.status_code in (200, 422), (path, answer.text)
        if answer.status_code == 422:
            refused(answer, 422)


# --- size ---


def _resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.mark.requirement("conventions.too_large")
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("path", ["/threads", "/threads/{thread}/runs/wait", "/runs/stream"])
def test_fifty_megabytes_are_refused_and_never_held(
    server: Server, http: httpx.Client, used: str, path: str, announced: bool
) -> None:
    before = _resident_bytes(server.pid)
    head, piece = b'{"assistant_id": "steps", "input": "', b"a" * MEGABYTE

    def content() -> Iterator[bytes]:
        yield head
        for _ in range(50):
            yield piece

    headers = {"content-length": str(len(head) + 50 * MEGABYTE)} if announced else {}
    with unchanged(http, used), server.http(timeout=30) as client:
        answer = client.post(path.format(thread=used), content=content(), headers=headers)
        refused(answer, 413)
    assert _resident_bytes(server.pid) - before < 64 * MEGABYTE


def test_a_large_body_below_the_limit_is_taken(http: httpx.Client, thread: str) -> None:
    text = "x" * (4 * MEGABYTE)
    assert wait(http, thread, "steps", input={"count": 1, "log": [text]})["log"] == [text, 0]


def test_a_state_with_a_long_list_of_numbers_does_not_stall_the_server(http: httpx.Client, thread: str) -> None:
    text = "x" * 500_000
    assert len(wait(http, thread, "mirror", input={"text": text})["codes"]) == len(text)
    assert len(get_thread(http, thread)["values"]["codes"]) == len(text)


# --- characters and numbers ---


@pytest.mark.parametrize(
    "body", [{"metadata": {"a": "x\x00y"}}, {"metadata": {"a\x00": 1}}, {"metadata": {"a": [{"b": "\x00"}]}}]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/threads"),
        ("PATCH", "/threads/{thread}"),
        ("POST", "/threads/search"),
        ("POST", "/threads/count"),
        ("POST", "/threads/{thread}/runs"),
        ("POST", "/threads/{thread}/runs/wait"),
        ("POST", "/runs/wait"),
        ("POST", "/threads/{thread}/history"),
        ("POST", "/assistants"),
        ("POST", "/assistants/search"),
        ("POST", "/assistants/count"),
        ("PATCH", "/assistants/{assistant_id}"),
        ("POST", "/assistants/{assistant_id}/versions"),
        ("POST", "/runs/crons"),
        ("POST", "/threads/{thread}/runs/crons"),
        ("POST", "/runs/crons/search"),
        ("POST", "/runs/crons/count"),
        ("PATCH", "/runs/crons/{cron}"),
    ],
)
def test_nul_in_metadata_is_refused(
    http: httpx.Client, used: str, method: str, path: str, body: dict[str, Any]
) -> None:
    with unchanged(http, used):
        content = json.dumps({**BODIES[method, path], **body}).encode()
        refused(send(http, method, path, used, content), 422)


@pytest.mark.parametrize("text", ["a\x00b", "\x00", "\\u0000 and \x00", "🧨 \u2028 \x7f", "\ufffd"])
def test_any_character_in_an_input_survives_the_way_through_the_state(
    http: httpx.Client, thread: str, text: str
) -> None:
    wait(http, thread, "mirror", input={"text": text}, interrupt_before=["look"])
    assert http.get(f"/threads/{thread}/state").json()["values"]["text"] == text
    assert get_thread(http, thread)["values"]["text"] == text
    assert wait(http, thread, "mirror", input=None)["codes"] == [ord(character) for character in text]
    [first, *_] = http.get(f"/threads/{thread}/runs").json()[::-1]
    assert first["kwargs"]["input"]["text"] == text


def test_nul_in_an_answer_and_in_a_state_update_is_taken(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "approve", input={})
    assert wait(http, thread, "approve", command={"resume": "a\x00b"})["log"] == ["a\x00b", "done"]
    answer = http.post(f"/threads/{thread}/state", json={"values": {"log": ["c\x00d"]}})
    assert answer.status_code == 200, answer.text
    assert get_thread(http, thread)["values"]["log"] == ["a\x00b", "done", "c\x00d"]


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, -(2**63), 1e308, -0.0, 5e-324])
def test_any_number_of_64_bits_runs_and_is_kept(http: httpx.Client, thread: str, number: float) -> None:
    values = wait(http, thread, "steps", input={"count": 1, "log": [number]}, metadata={"n": number})
    assert values["log"][0] == number
    row = get_thread(http, thread)
    # Postgres writes 1e308 out in full: the same number, in other digits.
    assert (row["status"], float(row["values"]["log"][0])) == ("idle", float(number))
    assert http.get(f"/threads/{thread}/state").json()["values"]["log"][0] == number
    kept = http.patch(f"/threads/{thread}", json={"metadata": {"n": number}}).json()["metadata"]["n"]
    assert float(kept) == float(number)


@every_operation
def test_a_number_over_64_bits_is_refused(http: httpx.Client, used: str, method: str, path: str) -> None:
    with unchanged(http, used):
        for number in (2**64, -(2**63) - 1, 10**100):
            for field in ("input", "metadata", "values", "command", "unknown_field"):
                body = {**BODIES[method, path], field: {"resume": [number]}}
                detail = refused(send(http, method, path, used, json.dumps(body).encode()), 422)
                assert detail == "Integers over 64 bits are not supported"
        refused(send(http, method, path, used, b'{"metadata": {"n": %b}}' % (b"9" * 10_000)), 422)


def test_many_digits_in_a_text_are_no_number(http: httpx.Client) -> None:
    digits = "9" * 400
    assert get_thread(http, new_thread(http, metadata={"n": digits}))["metadata"] == {"n": digits}


# --- metadata that lies ---


@pytest.mark.parametrize("graph_id", ["nope", 5, None, {}, [], "a\u2028", True])
def test_a_thread_that_names_no_real_graph_can_still_be_read_and_deleted(http: httpx.Client, graph_id: Any) -> None:
    thread = new_thread(http, metadata={"graph_id": graph_id, "assistant_id": graph_id})
    for method, path, body in [
        ("GET", "/state", None),
        ("GET", "/history", None),
        ("POST", "/history", {}),
        ("POST", "/state", {"values": {"log": [1]}}),
        ("POST", "/state/checkpoint", {"checkpoint": {}}),
    ]:
        answer = http.request(method, f"/threads/{thread}{path}", json=body)
        assert answer.status_code in (200, 400, 422), (path, answer.text)
    assert wait(http, thread, "steps", input={"count": 1})["log"] == [0]
    assert http.delete(f"/threads/{thread}").status_code == 204


@pytest.mark.parametrize("key", ["thread_id", "run_id", "checkpoint_id", "checkpoint_ns", "__pregel_store"])
def test_a_config_cannot_forge_what_belongs_to_the_server(http: httpx.Client, thread: str, key: str) -> None:
    body = {"input": {"count": 1}, "config": {"configurable": {key: UNKNOWN_ID}}}
    answer = http.post(f"/threads/{thread}/runs", json={"assistant_id": "steps", **body})
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 200:
        run = answer.json()["run_id"]
        join(http, thread, run)
        state = http.get(f"/threads/{thread}/state").json()
        assert state["metadata"].get("run_id", run) == run
    refused(http.get(f"/threads/{UNKNOWN_ID}"), 404)


# --- random bodies ---

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["\x00", UNKNOWN_ID, "steps", "values", "*", "__copy__", "__end__", "step"])
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
shapes = st.fixed_dictionaries(
    {},
    optional={
        "checkpoint_id": scalars,
        "checkpoint_ns": scalars,
        "configurable": st.dictionaries(st.sampled_from(["checkpoint_id", "thread_id", "a"]), anything, max_size=2),
        "metadata": anything,
        "resume": anything,
        "goto": anything,
        "update": anything,
        "node": anything,
    },
)
FIELDS = sorted(set(WRONG) | {"input", "subgraphs", "checkpoint_during"})
bodies = st.dictionaries(st.sampled_from(FIELDS), shapes | anything, max_size=4)

FUZZED = [
    "/threads",
    "/threads/search",
    "/threads/count",
    "/assistants",
    "/assistants/search",
    "/assistants/{assistant_id}/versions",
    "/assistants/{assistant_id}/latest",
    "/threads/{thread}/runs",
    "/threads/{thread}/runs/crons",
    "/runs/crons/search",
    "/threads/{thread}/state",
    "/threads/{thread}/state/checkpoint",
    "/threads/{thread}/history",
]


@pytest.mark.parametrize("path", FUZZED)
def test_no_body_makes_the_server_fail(http: httpx.Client, path: str) -> None:
    thread = new_thread(http)
    wait(http, thread, "steps", input={"count": 1})

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(body=bodies)
    def fuzz(body: dict[str, Any]) -> None:
        sent = {**BODIES["POST", path], **body}
        answer = send(http, "POST", path, thread, json.dumps(sent).encode())
        assert answer.status_code < 500, (sent, answer.text)
        if answer.status_code >= 400:
            refused(answer, answer.status_code)

    fuzz()
    assert http.delete(f"/threads/{thread}").status_code == 204


@pytest.mark.parametrize("operation", ["runs", "runs/wait"])
def test_a_refused_run_leaves_nothing_behind(http: httpx.Client, used: str, operation: str) -> None:
    with unchanged(http, used):
        for wrong in ({"assistant_id": "nope"}, {"stream_mode": "nope"}, {"command": {"resume": 1}}, {"metadata": 5}):
            body = {"assistant_id": "steps", "if_not_exists": "create", **wrong}
            for thread in (used, UNKNOWN_ID):
                answer = http.post(f"/threads/{thread}/{operation}", json=body)
                assert 400 <= answer.status_code < 500
        refused(http.get(f"/threads/{UNKNOWN_ID}"), 404)


def test_a_run_with_a_strange_input_fails_alone(http: httpx.Client, thread: str) -> None:
    for strange in (5, "text", [1], [[1]], {"log": 5}, {"nobody": 1}, {"pause": "x"}):
        run = start(http, thread, "steps", input=strange)
        join(http, thread, run)
        assert http.get(f"/threads/{thread}/runs/{run}").json()["status"] in ("success", "error")
    assert get_thread(http, thread)["status"] in ("idle", "error")
