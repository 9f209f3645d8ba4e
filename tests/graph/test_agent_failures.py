"""Failures: real ChatOpenAI against a real server that fails on cue, and tools that fail."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from langchain_core.tools import tool
from langgraph.store.memory import InMemoryStore
from llmock.scenarios import Reply
from llmock.scenarios import ToolCall as ScriptedCall

from graph.errors import POLICIES
from graph.guards import UNTRUSTED_NOTE, untrusted
from graph.nodes import Limits, Nodes
from graph.state import Context
from graph.tools import RESULT_LIMIT, AgentTool, standard_tools


@pytest.mark.anyio
async def test_a_real_model_streams_tokens_and_reports_usage(talk, llmock):
    llmock.reply("Good morning to you")
    thread = talk()
    await thread.say("hello")
    (_, answer) = await thread.messages()
    pieces = [chunk for chunk in thread.tokens() if chunk.content]
    assert len(pieces) > 1
    assert "".join(piece.content for piece in pieces) == answer.text == "Good morning to you"
    assert {piece.id for piece in pieces} == {answer.id}
    assert answer.usage_metadata["total_tokens"] > 0
    assert llmock.last_request.stream


@pytest.mark.anyio
async def test_the_model_name_comes_from_the_environment_or_the_run(talk, llmock, monkeypatch):
    monkeypatch.setenv("OPENAI_MODEL", "gpt-4.1-mini")
    llmock.reply("one").reply("two")
    thread = talk()
    await thread.say("hello")
    thread.context = Context(model="gpt-4.1", temperature=0.5, system_prompt="Be brief.")
    await thread.say("hello")
    first, second = llmock.requests
    assert (first.model, second.model) == ("gpt-4.1-mini", "gpt-4.1")
    assert second.body["temperature"] == 0.5
    system = second.body["messages"][0]
    assert (system["role"], system["content"]) == ("system", f"Be brief.\n\n{UNTRUSTED_NOTE}")


@pytest.mark.anyio
async def test_a_real_model_calls_tools_and_reads_their_results(talk, llmock, sent):
    calls = (
        ScriptedCall("calculator", {"expression": "6*7"}),
        ScriptedCall("send_message", {"recipient": "Ada", "body": "42"}),
    )
    llmock.add(Reply(tool_calls=calls)).reply("It is 42, and Ada knows.")
    thread = talk()
    await thread.say("tell Ada what 6*7 is")
    await thread.decide("approve")
    assert sent() == [("Ada", "42")]
    told = [m["content"] for m in llmock.last_request.body["messages"] if m["role"] == "tool"]
    assert told == [untrusted("42", "tool:calculator"), untrusted("Sent to Ada.", "tool:send_message")]
    assert (await thread.last_words()) == "It is 42, and Ada knows."


@pytest.mark.anyio
async def test_the_same_call_id_in_a_later_turn_is_another_call(talk, sent):
    from collections.abc import AsyncIterator, Iterator

    from langchain_core.messages import AIMessageChunk
    from langchain_core.messages.tool import tool_call_chunk
    from langchain_core.outputs import ChatGenerationChunk

    from graph import standin

    class CountsFromZero(standin.OfflineStandIn):
        """Numbers its calls from call_0 in every answer, as some OpenAI-compatible servers do."""

        async def _astream(self, *args, **kwargs) -> AsyncIterator[ChatGenerationChunk]:
            async for chunk in super()._astream(*args, **kwargs):
                yield self._renumbered(chunk)

        def _stream(self, *args, **kwargs) -> Iterator[ChatGenerationChunk]:
            for chunk in super()._stream(*args, **kwargs):
                yield self._renumbered(chunk)

        def _renumbered(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
            message = chunk.message
            if not (isinstance(message, AIMessageChunk) and message.tool_call_chunks):
                return chunk
            (call,) = message.tool_call_chunks
            same_id = "call_0" if call["id"] else None
            renumbered = tool_call_chunk(name=call["name"], args=call["args"], id=same_id, index=call["index"])
            return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[renumbered]))

    thread = talk(model=lambda *_, **__: CountsFromZero(streaming=True))
    for recipient in ("Ada", "Bob"):
        await thread.say(f"send hello to {recipient}")
        await thread.decide("approve")
    assert sent() == [("Ada", "hello"), ("Bob", "hello")]


@pytest.mark.anyio
async def test_a_dropped_connection_is_retried_within_the_step(talk, llmock):
    llmock.disconnect(after_chunks=1).reply("first").reply("second")
    thread = talk()
    await thread.say("hello")
    assert thread.nodes_run() == ["agent"]
    assert len(llmock.requests) == 2
    assert (await thread.state()).get("error") is None


@pytest.mark.anyio
async def test_an_answer_that_ends_without_a_finish_reason_is_not_taken_for_whole(talk, llmock):
    llmock.truncate(after_chunks=2).reply("a b c d e f").reply("whole")
    thread = talk()
    await thread.say("hello")
    assert (await thread.last_words()) == "whole"
    assert [m.type for m in await thread.messages()] == ["human", "ai"]
    llmock.assert_resilient()


@pytest.mark.anyio
async def test_a_rate_limit_is_waited_out_in_a_superstep_of_its_own(talk, llmock):
    llmock.rate_limit(retry_after=1).reply("now")
    thread = talk()
    await thread.say("hello")
    assert (await thread.last_words()) == "now"
    states = [s.values async for s in thread.agent.aget_state_history(thread.config)]
    failure = next(s["error"] for s in states if s.get("error"))
    assert (failure["class"], failure["node"], failure["attempt"]) == ("rate_limit", "agent", 1)
    assert failure["retry_after"] == 1.0
    assert states[0]["retry_count"] == 0
    first, second = llmock.requests
    assert second.started_at - first.ended_at >= 0.99
    llmock.assert_resilient()


@pytest.mark.anyio
async def test_A3_a_long_retry_after_is_put_to_a_human_at_once_if_the_run_asks_for_it(talk, llmock):
    llmock.rate_limit(retry_after=3600)
    thread = talk()
    thread.context = Context(ask_when_stuck=True)
    await thread.say("hello")
    (question,) = await thread.questions()
    assert question.value["action_requests"][0]["name"] == "try_again"
    assert len(llmock.requests) == 1


@pytest.mark.anyio
async def test_A3_spent_retries_are_put_to_a_human_who_may_try_again(talk, llmock):
    llmock.outage(status=500)
    thread = talk()
    thread.context = Context(ask_when_stuck=True)
    await thread.say("hello")
    retries = POLICIES["service_unavailable"].retries
    # Each superstep makes two attempts: this class is worth a quick retry.
    assert len(llmock.requests) == 2 * (retries + 1)
    (question,) = await thread.questions()
    assert question.value["review_configs"] == [
        {"action_name": "try_again", "allowed_decisions": ["approve", "reject"]}
    ]
    state = await thread.state()
    assert (state["error"]["class"], state["retry_count"]) == ("service_unavailable", retries + 1)
    llmock.reset().reply("back again")
    await thread.decide("approve")
    assert (await thread.last_words()) == "back again"
    state = await thread.state()
    assert (state["error"], state["retry_count"]) == (None, 0)


async def given_up_and_usable(thread, llmock) -> None:
    """The failure was said in words and is recorded; the next turn is answered."""
    assert (await thread.last_words()).startswith("I could not answer: the model's service is not available")
    assert (await thread.state())["error"]["class"] == "service_unavailable"
    llmock.reset().reply("hello again")
    await thread.say("hello?")
    assert (await thread.last_words()) == "hello again"
    assert (await thread.state())["error"] is None


@pytest.mark.anyio
async def test_A1_spent_retries_are_answered_in_plain_words_and_the_thread_stays_usable(talk, llmock):
    llmock.outage(status=500)
    thread = talk()
    await thread.say("hello")
    assert await thread.questions() == []
    await given_up_and_usable(thread, llmock)


@pytest.mark.anyio
async def test_a_human_may_leave_it_and_the_thread_stays_usable(talk, llmock):
    llmock.outage(status=500)
    thread = talk()
    thread.context = Context(ask_when_stuck=True)
    await thread.say("hello")
    await thread.decide("edit", edited_action={"name": "try_again", "args": {}})
    await thread.decide("reject")
    await given_up_and_usable(thread, llmock)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "code", "failure_class"),
    [
        (401, None, "auth"),
        (403, None, "auth"),
        (429, "insufficient_quota", "auth"),
        (404, None, "system"),
        (422, None, "system"),
    ],
)
async def test_what_no_waiting_mends_is_given_up_after_one_attempt(talk, llmock, status, code, failure_class):
    llmock.fail(status, code=code, times=None)
    thread = talk()
    await thread.say("hello")
    assert len(llmock.requests) == 1
    assert thread.nodes_run()[-1] == "give_up"
    state = await thread.state()
    assert state["error"]["class"] == failure_class
    assert POLICIES[failure_class].words in state["messages"][-1].text
    assert await thread.questions() == []


@pytest.mark.anyio
async def test_A3_a_wait_that_was_cut_off_goes_on_until_the_same_moment(talk, llmock):
    llmock.rate_limit(retry_after=1).reply("now")
    thread = talk()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(thread.say("hello"))

        async def cut_off():
            async for update in _updates_of(thread):
                if update.get("error"):
                    running.cancel()
                    return

        group.create_task(cut_off())
    before = (await thread.state())["error"]
    await thread.run(None)
    assert (await thread.last_words()) == "now"
    assert datetime.now(UTC) >= datetime.fromisoformat(before["next_attempt_at"])
    failures = [
        s.values["error"] async for s in thread.agent.aget_state_history(thread.config) if s.values.get("error")
    ]
    assert {failure["next_attempt_at"] for failure in failures} == {before["next_attempt_at"]}
    assert len(llmock.requests) == 2


async def _updates_of(thread):
    while True:
        yield await thread.state()
        await asyncio.sleep(0)


@pytest.mark.anyio
async def test_A3_only_what_is_left_of_a_wait_is_waited_for():
    due = {"class": "rate_limit", "attempt": 1, "retry_after": 30.0, "next_attempt_at": datetime.now(UTC).isoformat()}
    async with asyncio.timeout(5):
        assert await Nodes().error_handler({"messages": [], "error": due, "retry_count": 1}) == {}


@pytest.mark.anyio
async def test_A11_a_prompt_that_is_too_long_is_made_shorter_in_the_same_run(talk, llmock):
    thread = talk()
    for number in range(6):
        llmock.reply(f"answer {number} " + "words " * 300)
        await thread.say(f"question {number} " + "and more " * 200)
    llmock.fail(400, code="context_length_exceeded", times=1).reply("a summary").reply("at last")
    await thread.say("and now?")
    assert (await thread.last_words()) == "at last"
    assert "compact" in thread.nodes_run()
    state = await thread.state()
    assert (state["error"], state["summary"]) == (None, "a summary")
    sent = llmock.last_request.body["messages"]
    assert "a summary" in sent[1]["content"]
    assert len(sent) < len(state["messages"])
    assert len(state["messages"]) == 14, "the thread keeps what the prompt leaves out"


@pytest.mark.anyio
async def test_A11_a_conversation_that_stays_too_long_is_given_up_in_words(talk, llmock):
    llmock.fail(400, code="context_length_exceeded", times=None)
    thread = talk()
    await thread.say("hello")
    assert len(llmock.requests) == POLICIES["context_length"].retries + 1
    assert POLICIES["context_length"].words in (await thread.last_words())


@pytest.mark.anyio
async def test_a_silent_model_times_out_and_is_tried_again(talk, llmock):
    llmock.slow_first_token(30.0).reply("late").reply("in time")
    thread = talk(limits=Limits(model=5.0, model_idle=0.2, first_backoff=0.001, quick_retry=0.001))
    await thread.say("hello")
    assert (await thread.last_words()) == "in time"
    assert "error_handler" in thread.nodes_run()


@pytest.mark.anyio
async def test_an_unreadable_stream_is_tried_again_and_then_given_up(talk, llmock):
    llmock.corrupt(times=None)
    thread = talk()
    await thread.say("hello")
    assert len(llmock.requests) == POLICIES["output_parsing"].retries + 1
    assert (await thread.state())["error"]["class"] == "output_parsing"
    assert thread.nodes_run()[-1] == "give_up"


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["malformed_arguments", "unknown_tool"])
async def test_a_broken_tool_call_is_fed_back_to_the_model(talk, llmock, kind):
    llmock.call_tool("calculator", {"expression": "1"}).break_tool_call(kind).reply("sorry")
    thread = talk()
    await thread.say("hello")
    (result,) = await thread.results()
    assert result.status == "error"
    assert result.text.startswith("output_parsing: ")
    assert (await thread.last_words()) == "sorry"
    told = [m for m in llmock.last_request.body["messages"] if m["role"] == "tool"]
    assert [m["tool_call_id"] for m in told] == [result.tool_call_id]


def replaced_calculator(body, **how) -> dict[str, AgentTool]:
    return {**standard_tools(), "calculator": AgentTool(tool("calculator")(body), **how)}


@pytest.mark.anyio
async def test_a_slow_tool_is_stopped_and_the_model_told(talk):
    async def calculator(expression: str) -> str:
        """Never finish."""
        await asyncio.Event().wait()
        return expression

    thread = talk(tools_by_name=replaced_calculator(calculator, timeout=0.05))
    await thread.say("what is 6*7")
    (result,) = await thread.results()
    assert (result.status, result.text) == ("error", "timeout: the tool did not finish in time.")


@pytest.mark.anyio
async def test_a_slow_effect_is_reported_as_unknown(talk):
    async def calculator(expression: str) -> str:
        """Never finish."""
        await asyncio.Event().wait()
        return expression

    tools = replaced_calculator(calculator, timeout=0.05, if_unknown="tell")
    thread = talk(store=InMemoryStore(), tools_by_name=tools)
    await thread.say("what is 6*7")
    (result,) = await thread.results()
    assert "Whether it took effect is not known" in result.text


@pytest.mark.anyio
async def test_a_long_result_is_cut_with_a_note(talk):
    async def calculator(expression: str) -> str:
        """Say much."""
        return expression * RESULT_LIMIT

    thread = talk(tools_by_name=replaced_calculator(calculator))
    await thread.say("what is 6*7")
    (result,) = await thread.results()
    assert result.text.endswith(f"[cut: the first {RESULT_LIMIT} of {3 * RESULT_LIMIT} characters]")


@pytest.mark.anyio
async def test_a_wrong_sum_is_explained_by_the_tool_itself(talk):
    thread = talk()
    await thread.say("what is 1/0")
    (result,) = await thread.results()
    assert (result.status, result.text) == ("error", "tool_failure: division by zero")
    assert "division by zero" in (await thread.last_words())
