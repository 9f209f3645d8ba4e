"""What Langfuse is sent by its real SDK: one trace for a conversation's question and answer, whatever dies between."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from bench import machine
from tests.support.receiver import Receiver
from tests.support.server import Server, free_port, refusal_to_start
from tests.support.spans import Collector, SentSpan
from tests.support.talk import get_thread, join, new_thread, start, until, until_running, wait

PROJECT = Path(__file__).parent / "project" / "traced.json"
KEYS = {"LANGFUSE_PUBLIC_KEY": "pk-lf-of-the-test", "LANGFUSE_SECRET_KEY": "sk-lf-of-the-test"}
PLANTED = "planted-Secret-of-the-environment"
ASKED = {"messages": [{"role": "user", "content": f"write to ada@example.com, {PLANTED}"}]}
INTERRUPTED_FOR = 0.4
"""Seconds that a run is at work in the node in which its server is killed."""


def traced(database_url: str, url: str, **environment: str) -> Server:
    return Server(
        config=PROJECT,
        database_url=database_url,
        LANGFUSE_BASE_URL=url,
        LANGFUSE_FLUSH_INTERVAL="0.1",
        **KEYS | environment,
    )


@contextmanager
def serving(database_url: str, url: str, **environment: str) -> Iterator[tuple[Server, httpx.Client]]:
    with traced(database_url, url, **environment) as server, server.http(timeout=60) as http:
        yield server, http


def named(spans: list[SentSpan], name: str) -> SentSpan:
    [found] = [span for span in spans if span.name == name]
    return found


def observed(span: SentSpan, what: str) -> Any:
    return span.attributes.get(f"langfuse.observation.{what}")


@pytest.mark.parametrize("replicas", [1, 2])
def test_O3_a_kill_and_a_resume_of_one_conversation_are_one_trace(replicas: int, database_url: str) -> None:
    with Collector() as langfuse, ExitStack() as stack:
        servers = [stack.enter_context(traced(database_url, langfuse.url)) for _ in range(replicas)]
        first, last = servers[0], servers[-1]
        with first.http(timeout=60) as http:
            thread = new_thread(http)
            run = start(http, thread, "careful", input={"done": [], "pause": INTERRUPTED_FOR})
            trace = UUID(run).hex
            langfuse.until_there(trace, "prepare")
        first.kill()
        if first is last:
            first.start()
        with last.http(timeout=60) as http:
            join(http, thread, run)
            assert get_thread(http, thread)["status"] == "interrupted"
            wait(http, thread, "careful", command={"resume": "yes"})
            done = get_thread(http, thread)["values"]["done"]
            assert done == ["prepare", "work", "yes", "finish"]
        assert last.stop() == 0
        spans = langfuse.until_there(trace, "prepare", "work", "ask", "finish")
        assert {span.trace for span in langfuse.spans} == {trace}
        assert [span.attributes["langfuse.trace.metadata.run_attempt"] for span in spans if span.name == "prepare"] == [
            "1"
        ]
        asked, answered = [span for span in spans if span.name == "ask"]
        assert observed(asked, "level") == "DEFAULT"
        assert "may I?" in observed(asked, "status_message")
        assert "yes" in observed(answered, "output")
        roots = [span for span in spans if not span.parent]
        assert len(roots) == 2, "the second attempt, and the answer; of the first one nothing says that it ended"
        assert "yes" in observed(roots[1], "input")
        assert not any(span.failed or observed(span, "level") == "ERROR" for span in spans)
        assert {span.attributes["session.id"] for span in spans} == {thread}
        assert {span.attributes["user.id"] for span in spans} == {"local"}


def test_O3_a_model_and_a_tool_are_told_with_usage_and_without_secrets(database_url: str) -> None:
    with (
        Collector() as langfuse,
        serving(
            database_url, langfuse.url, SOME_API_KEY=PLANTED, LANGFUSE_TRACING_ENVIRONMENT="test", HOLDFAST_RELEASE="7"
        ) as (server, http),
    ):
        thread = new_thread(http)
        run = start(http, thread, "chat", input=ASKED)
        join(http, thread, run)
        spans = langfuse.until_there(UUID(run).hex, "look", "LangGraph")
        model = named(spans, "GenericFakeChatModel")
        assert observed(model, "type") == "generation"
        assert json.loads(observed(model, "usage_details")) == {"input": 11, "output": 7, "total": 18}
        assert model.parent == named(spans, "think").id
        assert "[email]" in observed(named(spans, "look"), "input")
        assert set(model.attributes["langfuse.trace.tags"]) == {"chat", str(server_assistant(http))}
        assert model.attributes["langfuse.trace.name"] == "chat"
        assert (model.resource["langfuse.environment"], model.resource["langfuse.release"]) == ("test", "7")
        everything = str(spans)
        assert PLANTED not in everything
        assert "ada@example.com" not in everything
        assert server.stop() == 0
        assert KEYS["LANGFUSE_SECRET_KEY"] not in server.log


def server_assistant(http: httpx.Client) -> str:
    [found] = http.post("/assistants/search", json={"graph_id": "chat"}).json()
    return str(found["assistant_id"])


def test_O3_a_failure_is_one_and_a_cancelled_run_leaves_nothing_behind(database_url: str) -> None:
    with Collector() as langfuse, serving(database_url, langfuse.url) as (_, http):
        thread = new_thread(http)
        run = start(http, thread, "failing", input=ASKED)
        join(http, thread, run)
        failed = named(langfuse.until_there(UUID(run).hex, "fail", "LangGraph"), "fail")
        assert observed(failed, "level") == "ERROR"
        assert "[email]" in observed(failed, "status_message")
        thread = new_thread(http)
        run = start(http, thread, "plain", input={"done": [], "pause": 60})
        until_running(http, thread, run)
        langfuse.until_there(UUID(run).hex, "prepare")
        http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": "true"}).raise_for_status()
        langfuse.until_there(UUID(run).hex, "work", "LangGraph")


def test_O3_a_caller_s_trace_is_the_conversation_s_and_an_answer_s_own_is_not(database_url: str) -> None:
    theirs, later = "4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"
    with Collector() as langfuse, serving(database_url, langfuse.url) as (server, http):
        thread = new_thread(http)
        for trace, body in ((theirs, {"input": {"done": []}}), (later, {"command": {"resume": "yes"}})):
            answer = http.post(
                f"/threads/{thread}/runs/wait",
                json={"assistant_id": "careful", **body},
                headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
            )
            assert answer.status_code == 200
        langfuse.until_there(theirs, "finish")
        assert {span.trace for span in langfuse.spans} == {theirs}
        assert f"trace_id={theirs}" in server.log


def test_O3_a_share_of_the_traces_is_kept_each_as_a_whole(database_url: str) -> None:
    with Collector() as langfuse, serving(database_url, langfuse.url, LANGFUSE_SAMPLE_RATE="0.5") as (server, http):
        for _ in range(40):
            wait(http, new_thread(http), "plain", input={"done": []})
        assert server.stop() == 0
        traces = {span.trace for span in langfuse.spans}
        assert 5 < len(traces) < 35, "run ids are no random numbers in the bits that the SDK's own sampler looks at"
        assert all(len(langfuse.trace(trace)) == len(langfuse.spans) / len(traces) for trace in traces)


def test_O3_a_langfuse_that_is_not_there_costs_traces_and_one_line(database_url: str) -> None:
    with serving(database_url, f"http://127.0.0.1:{free_port()}") as (server, http):
        for _ in range(3):
            assert wait(http, new_thread(http), "plain", input={"done": []})["done"][-1] == "finish"
        until(lambda: lost(http), "the spans are counted as lost", 30)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 6
        assert server.log.count("traces for Langfuse are lost") == 1
        assert "Traceback" not in server.log


def lost(http: httpx.Client) -> float:
    [line] = [
        line
        for line in http.get("/metrics").text.splitlines()
        if line.startswith('holdfast_trace_spans_lost_total{place="langfuse"}')
    ] or ["0 0"]
    return float(line.split()[-1])


def test_O3_a_langfuse_that_refuses_is_said_once_with_its_reason(database_url: str) -> None:
    with Receiver(status=lambda _: 401) as langfuse, serving(database_url, langfuse.url) as (server, http):
        for _ in range(3):
            wait(http, new_thread(http), "plain", input={"done": []})
            until(lambda: lost(http) > 0, "the spans are counted as lost")
        assert server.stop() == 0
        assert server.log.count("traces for Langfuse are lost") == 1
        assert "401" in server.log


def test_O3_a_langfuse_that_never_answers_holds_up_no_run_no_end_and_no_memory(database_url: str) -> None:
    with Receiver() as langfuse, serving(database_url, langfuse.url) as (server, http):
        langfuse.gate.clear()
        wait(http, new_thread(http), "plain", input={"done": []})
        langfuse.wait(1)
        before = machine.rss_mb(server.pid)
        blob = "x" * 1_000_000
        for _ in range(40):
            wait(http, new_thread(http), "plain", input={"done": [], "blob": blob})
        assert lost(http) > 0, "there was no room for what they made, which is some 400 MB"
        assert machine.rss_mb(server.pid) - before < 250
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 6
        # On a slow machine Langfuse was given up before the end.
        assert "the last traces are lost" in server.log or "traces for Langfuse are lost" in server.log


def test_O3_half_a_configuration_ends_the_start(database_url: str) -> None:
    said = refusal_to_start(PROJECT, database_url, LANGFUSE_PUBLIC_KEY="pk-lf-of-the-test")
    assert "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY" in said
    said = refusal_to_start(PROJECT, database_url, LANGFUSE_SAMPLE_RATE="all", **KEYS)
    assert "LANGFUSE_SAMPLE_RATE" in said
