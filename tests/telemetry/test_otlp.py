"""What a collector is sent by OTLP: requests, executions, nodes, models, tools; in one trace, without what was said."""

from __future__ import annotations

from contextlib import ExitStack
from uuid import UUID

import pytest

from tests.support.receiver import Receiver
from tests.support.server import Server, refusal_to_start
from tests.support.spans import Collector, SentSpan
from tests.support.talk import get_thread, join, new_thread, start, until, until_running, wait
from tests.telemetry.test_langfuse import ASKED, INTERRUPTED_FOR, KEYS, PROJECT

INVOKED = "invoke_agent"


def traced(database_url: str, url: str, **environment: str) -> Server:
    return Server(
        config=PROJECT,
        database_url=database_url,
        OTEL_EXPORTER_OTLP_ENDPOINT=url,
        OTEL_BSP_SCHEDULE_DELAY="100",
        **environment,
    )


def named(spans: list[SentSpan], name: str) -> SentSpan:
    [found] = [span for span in spans if span.name == name]
    return found


@pytest.mark.parametrize("replicas", [1, 2])
def test_O5_a_kill_and_a_resume_of_one_conversation_are_one_trace(replicas: int, database_url: str) -> None:
    with Collector() as collector, ExitStack() as stack:
        servers = [stack.enter_context(traced(database_url, collector.url)) for _ in range(replicas)]
        first, last = servers[0], servers[-1]
        with first.http(timeout=60) as http:
            thread = new_thread(http)
            run = start(http, thread, "careful", input={"done": [], "pause": INTERRUPTED_FOR})
            trace = UUID(run).hex
            collector.until_there(trace, "node prepare", "POST /threads/{thread_id}/runs")
        first.kill()
        if first is last:
            first.start()
        with last.http(timeout=60) as http:
            join(http, thread, run)
            wait(http, thread, "careful", command={"resume": "yes"})
            assert get_thread(http, thread)["values"]["done"] == ["prepare", "work", "yes", "finish"]
        assert last.stop() == 0
        spans = collector.trace(trace)
        asked, answered = [span for span in spans if span.name == "node ask"]
        assert asked.attributes["langgraph.left_by"] == "GraphInterrupt"
        assert "langgraph.left_by" not in answered.attributes
        executions = [span for span in spans if span.name == f"{INVOKED} careful"]
        assert [(span.attributes["holdfast.run.status"], span.parent) for span in executions] == [
            ("success", ""),
            ("success", ""),
        ]
        assert [span.attributes["holdfast.run.attempt"] for span in executions] == [2, 1]
        assert {span.attributes["gen_ai.conversation.id"] for span in executions} == {thread}
        assert "POST /threads/{thread_id}/runs/wait" in {span.name for span in spans}
        assert not any(span.failed for span in spans)


def test_O5_a_model_and_a_tool_are_told_in_numbers_and_names_alone(database_url: str) -> None:
    with Collector() as collector, traced(database_url, collector.url) as server, server.http(timeout=60) as http:
        thread = new_thread(http)
        run = start(http, thread, "chat", input=ASKED)
        join(http, thread, run)
        spans = collector.until_there(UUID(run).hex, "execute_tool look", f"{INVOKED} chat")
        invoked, model = named(spans, f"{INVOKED} chat"), named(spans, "chat model")
        assert model.parent == named(spans, "node think").id
        assert (model.attributes["gen_ai.usage.input_tokens"], model.attributes["gen_ai.usage.output_tokens"]) == (
            11,
            7,
        )
        assert model.attributes["gen_ai.response.model"] == "stand-in"
        tool = named(spans, "execute_tool look")
        assert tool.parent == named(spans, "node tools").id
        assert tool.attributes["gen_ai.tool.call.id"] == "1"
        assert named(spans, "node tools").parent == invoked.id
        assert invoked.attributes["user.id"] == "local"
        assert invoked.resource["service.name"] == "holdfast"
        assert not [said for said in ("write to", "example.com", "looking") if said in str(spans)]


def test_O5_a_failure_is_one_and_a_cancelled_run_is_told_of_as_far_as_it_came(database_url: str) -> None:
    with Collector() as collector, traced(database_url, collector.url) as server, server.http(timeout=60) as http:
        thread = new_thread(http)
        run = start(http, thread, "failing", input=ASKED)
        join(http, thread, run)
        spans = collector.until_there(UUID(run).hex, "node fail", f"{INVOKED} failing")
        assert named(spans, "node fail").failed
        assert named(spans, "node fail").attributes["error.type"] == "ValueError"
        assert named(spans, f"{INVOKED} failing").failed
        assert "[email]" in named(spans, "node fail").said
        thread = new_thread(http)
        run = start(http, thread, "plain", input={"done": [], "pause": 60})
        until_running(http, thread, run)
        collector.until_there(UUID(run).hex, "node prepare")
        http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": "true"}).raise_for_status()
        collector.until_there(UUID(run).hex, "node work", f"{INVOKED} plain")


def test_O5_a_caller_s_trace_holds_request_and_run_and_one_that_answers_is_linked(database_url: str) -> None:
    theirs, later = "4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"
    with Collector() as collector, traced(database_url, collector.url) as server, server.http(timeout=60) as http:
        thread = new_thread(http)
        for trace, body in ((theirs, {"input": {"done": []}}), (later, {"command": {"resume": "yes"}})):
            http.post(
                f"/threads/{thread}/runs/wait",
                json={"assistant_id": "careful", **body},
                headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
            ).raise_for_status()
        collector.until_there(theirs, "node finish")
        requests = until(
            lambda: len(found := [s for s in collector.trace(theirs) if s.name.endswith("/runs/wait")]) == 2 and found,
            "both requests are in the trace",
        )
        assert [(span.parent, span.links) for span in requests] == [("00f067aa0ba902b7", []), ("", [later])]
        assert collector.trace(later) == []


def test_O5_what_a_project_traces_itself_stands_below_its_run(database_url: str) -> None:
    with Collector() as collector, traced(database_url, collector.url) as server, server.http(timeout=60) as http:
        thread = new_thread(http)
        run = start(http, thread, "tracing", input={"done": []})
        join(http, thread, run)
        spans = collector.until_there(UUID(run).hex, f"{INVOKED} tracing")
        execution = named(spans, f"{INVOKED} tracing")
        assert get_thread(http, thread)["values"]["done"] == [f"{execution.trace} {execution.id}"]


def test_O5_langfuse_and_a_collector_are_told_of_the_same_trace(database_url: str) -> None:
    with (
        Collector() as langfuse,
        Collector() as collector,
        traced(
            database_url, collector.url, LANGFUSE_BASE_URL=langfuse.url, LANGFUSE_FLUSH_INTERVAL="0.1", **KEYS
        ) as server,
        server.http(timeout=60) as http,
    ):
        thread = new_thread(http)
        run = start(http, thread, "plain", input={"done": []})
        join(http, thread, run)
        assert not named(langfuse.until_there(UUID(run).hex, "LangGraph"), "LangGraph").parent
        collector.until_there(UUID(run).hex, f"{INVOKED} plain", "node finish")


def test_O5_a_collector_that_refuses_or_is_silent_costs_spans_and_one_line(database_url: str) -> None:
    with (
        Receiver(status=lambda _: 400) as collector,
        traced(database_url, collector.url) as server,
        server.http(timeout=60) as http,
    ):
        for _ in range(3):
            assert wait(http, new_thread(http), "plain", input={"done": []})["done"][-1] == "finish"
        until(lambda: 'spans_lost_total{place="otlp"}' in http.get("/metrics").text, "the loss is counted")
        collector.gate.clear()
        assert wait(http, new_thread(http), "plain", input={"done": []})["done"][-1] == "finish"
        assert server.stop() == 0
        assert server.log.count("traces for OTLP are lost") == 1


def test_O5_what_cannot_be_done_ends_the_start_and_what_is_off_is_silent(database_url: str) -> None:
    place = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}
    assert "http/protobuf" in refusal_to_start(PROJECT, database_url, OTEL_EXPORTER_OTLP_PROTOCOL="grpc", **place)
    assert "OTEL_TRACES_SAMPLER" in refusal_to_start(PROJECT, database_url, OTEL_TRACES_SAMPLER="jaeger", **place)
    with (
        Collector() as collector,
        traced(database_url, collector.url, OTEL_TRACES_EXPORTER="none") as server,
        server.http(timeout=60) as http,
    ):
        wait(http, new_thread(http), "plain", input={"done": []})
        assert server.stop() == 0
        assert collector.calls == []
