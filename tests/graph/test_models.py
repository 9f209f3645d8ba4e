"""The layers around the model: real ChatOpenAI against real servers that fail on cue, and the offline stand-in."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing

import openai
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.store.memory import InMemoryStore
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Match, StreamFault
from llmock.testing import LLMockServer
from prometheus_client import REGISTRY
from pydantic import BaseModel

from graph.errors import classify, retry_after
from graph.models import Model, chat_model
from graph.routing import model_size
from graph.standin import NAME, NOTICE
from graph.state import Context
from graph.switchboard import BreakerOpenError, Limits, Settings, Switchboard, close

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def connections() -> AsyncIterator[None]:
    """What a test connects ends with its event loop."""
    yield
    await close()


@pytest.fixture
def other() -> Iterator[LLMock]:
    """A second service."""
    with LLMockServer() as server:
        yield LLMock(server)


@pytest.fixture
def two_services(llmock: LLMock, other: LLMock, monkeypatch: pytest.MonkeyPatch) -> tuple[LLMock, LLMock]:
    """Two endpoints of one provider that take turns."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{llmock.base_url()},{other.base_url()}")
    return llmock, other


@pytest.fixture
def fallback(llmock: LLMock, monkeypatch: pytest.MonkeyPatch) -> LLMock:
    """A cheaper model and one for when that fails too, at the same service."""
    monkeypatch.setenv("OPENAI_MODEL", "large")
    monkeypatch.setenv("SMALL_MODEL", "small")
    monkeypatch.setenv("FALLBACK_MODEL", "openai:last")
    return llmock


async def ask(text: str = "hello", context: Context | None = None, **how) -> AIMessage:
    return await chat_model(context or Context(), **how).ainvoke(text)


async def heard() -> tuple[str, Exception]:
    """What of an answer came before it failed, and the failure."""
    said = ""
    try:
        async for chunk in chat_model(Context()).astream("hello"):
            said += chunk.text
    except Exception as error:  # noqa: BLE001 - whose it is does not matter, its class does
        return said, error
    pytest.fail("the answer did not fail")


def models_asked(service: LLMock) -> list[str | None]:
    return [request.model for request in service.requests]


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def an_empty_port() -> str:
    """The address of a service that is not there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


# --- streaming through all of it ---------------------------------------------------------------------------------


async def test_A4_tokens_stream_through_every_layer_with_usage_and_the_name_of_the_endpoint(llmock, monkeypatch):
    for name, value in {"RPM": "1000", "TPM": "100000", "CONCURRENCY": "4", "CACHE": "exact"}.items():
        monkeypatch.setenv(f"MODEL_{name}", value)
    llmock.reply("Good morning to you")
    model = chat_model(Context(temperature=0.0), redaction=Backwards())
    before = counted("agent_model_tokens_total", endpoint="openai:gpt-4o-mini", direction="output")
    chunks = [chunk async for chunk in model.astream("hello")]
    assert len([chunk for chunk in chunks if chunk.content]) > 1
    answer = sum(chunks[1:], chunks[0])
    assert answer.text == "Good morning to you"
    told = answer.response_metadata
    assert (told["endpoint"], told["finish_reason"]) == ("openai:gpt-4o-mini", "stop")
    assert told["model_name"].startswith("gpt-4o-mini")
    after = counted("agent_model_tokens_total", endpoint="openai:gpt-4o-mini", direction="output")
    assert after - before == answer.usage_metadata["output_tokens"] > 0


async def test_A4_the_first_token_is_handed_on_before_the_last_one_was_made(llmock):
    llmock.stall(after_chunks=3, seconds=30.0).reply("a b c d e f")
    async with aclosing(chat_model(Context()).astream("hello")) as chunks:
        async with asyncio.timeout(5):
            first = [chunk async for chunk in until_text(chunks)]
    assert first[-1].content


async def until_text(chunks: AsyncIterator[AIMessageChunk]) -> AsyncIterator[AIMessageChunk]:
    async for chunk in chunks:
        yield chunk
        if chunk.content:
            return


async def test_A4_a_model_is_asynchronous_only():
    with pytest.raises(NotImplementedError, match="ainvoke"):
        chat_model(Context()).invoke("hello")


# --- A4: the chain -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 503, 429, 401, 408])
async def test_A4_a_failure_that_another_model_may_not_have_leads_to_the_cheaper_one(fallback, status):
    fallback.fail(status, model="large").reply("from the small one")
    answer = await ask()
    assert answer.text == "from the small one"
    assert models_asked(fallback) == ["large", "small"]
    assert answer.response_metadata["endpoint"] == "openai:small"


async def test_A4_then_the_other_provider_is_asked(fallback):
    fallback.fail(500, model="large").fail(500, model="small").reply("from the last one")
    assert (await ask()).response_metadata["endpoint"] == "openai:last"


async def test_A4_the_other_provider_may_be_of_another_kind(llmock, monkeypatch):
    monkeypatch.setenv("FALLBACK_MODEL", "offline:stand-in")
    llmock.outage()
    answer = await ask()
    assert answer.text.startswith(NOTICE)
    assert answer.response_metadata["endpoint"] == "offline:stand-in"


async def test_A4_a_service_that_is_not_there_leads_to_the_cheaper_one(llmock, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", an_empty_port())
    monkeypatch.setenv("FALLBACK_MODEL", "offline:stand-in")
    assert (await ask()).text.startswith(NOTICE)


async def test_A4_a_stream_that_breaks_before_its_first_word_leads_on(fallback):
    # After one chunk: the role has come, and no word yet.
    for kind in ("disconnect", "truncate"):
        fallback.add(StreamFault(kind, after_chunks=1, match=Match(model="large", stream=True)))
        fallback.reply("lost").reply("whole")
        answer = await ask()
        assert (answer.text, answer.response_metadata["endpoint"]) == ("whole", "openai:small")


@pytest.mark.parametrize("kind", ["disconnect", "truncate"])
async def test_A4_a_stream_that_breaks_after_its_first_word_is_not_answered_by_another(fallback, kind):
    fallback.add(StreamFault(kind, after_chunks=3)).reply("a b c d e f g h")
    said, failure = await heard()
    assert said
    assert classify(failure) == "connection"
    assert models_asked(fallback) == ["large"]


async def test_A4_a_bad_request_is_not_sent_to_another_model(fallback):
    fallback.fail(400)
    with pytest.raises(openai.BadRequestError):
        await ask()
    assert models_asked(fallback) == ["large"]


async def test_A4_a_conversation_that_is_too_long_is_not_sent_to_another_model(fallback):
    fallback.context_overflow()
    with pytest.raises((ContextOverflowError, openai.BadRequestError)) as failure:
        await ask()
    assert classify(failure.value) == "context_length"
    assert models_asked(fallback) == ["large"]


async def test_A4_what_leaves_is_the_last_failure_with_notes_on_the_others(fallback):
    fallback.fail(500, model="large").fail(401, model="small").fail(429, model="last", retry_after=7)
    with pytest.raises(openai.RateLimitError) as failure:
        await ask()
    assert (classify(failure.value), retry_after(failure.value)) == ("rate_limit", 7.0)
    notes = failure.value.__notes__
    assert [note.partition(": ")[0] for note in notes] == ["openai:last", "openai:large", "openai:small"]


# --- A8: routing -------------------------------------------------------------------------------------------------


async def test_A8_a_simple_question_goes_to_the_small_model_and_a_failure_of_it_to_the_large(fallback):
    assert (await ask(size="small")).response_metadata["endpoint"] == "openai:small"
    fallback.fail(500, model="small")
    assert (await ask(size="small")).response_metadata["endpoint"] == "openai:large"


async def test_A8_the_model_that_a_run_names_is_not_routed_around(fallback):
    fallback.reply("one")
    answer = await ask(context=Context(model="mine"), size="small")
    assert models_asked(fallback) == ["mine"]
    # A run chooses the model, not the labels of our metrics.
    assert answer.response_metadata["endpoint"] == "openai:other"


async def test_A8_without_a_small_model_the_large_one_answers(llmock):
    llmock.reply("one")
    assert (await ask(size="small")).response_metadata["endpoint"] == "openai:gpt-4o-mini"


@pytest.mark.parametrize(
    ("messages", "size"),
    [
        ([HumanMessage("hello")], "small"),
        ([HumanMessage("x" * 200)], "small"),
        ([HumanMessage("x" * 201)], "large"),
        ([HumanMessage("first this\nthen that")], "large"),
        ([HumanMessage([{"type": "text", "text": "what is in the picture"}])], "large"),
        ([HumanMessage("hello"), AIMessage("hello")], "large"),
        ([HumanMessage("hello"), AIMessage("hello"), HumanMessage("again")], "small"),
        ([HumanMessage("hello"), AIMessage("hello")] * 3 + [HumanMessage("again")], "large"),
        ([HumanMessage("6*7"), ToolMessage("42", tool_call_id="1"), HumanMessage("and?")], "large"),
        ([], "large"),
    ],
)
async def test_A8_the_rule_is_short_plain_early_and_without_tools(messages, size):
    assert model_size(messages) == size


# --- A7: balancing -----------------------------------------------------------------------------------------------


async def test_A7_two_keys_take_turns_with_quotas_of_their_own(llmock, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key-one, key-two")
    # The service counts by key: two requests with one key would be one too many.
    llmock.limits(rpm=1)
    answers = [await ask() for _ in range(2)]
    assert [answer.response_metadata["endpoint"][-2:] for answer in answers] == ["#1", "#2"]
    with pytest.raises(openai.RateLimitError):
        await ask()


async def test_A7_two_services_take_turns(two_services):
    one, two = two_services
    for _ in range(6):
        await ask()
    assert (len(one.requests), len(two.requests)) == (3, 3)


async def test_A7_one_that_fails_is_stood_in_for_by_its_neighbour_and_then_left_out(two_services, monkeypatch):
    monkeypatch.setenv("BREAKER_FAILURES", "2")
    one, two = two_services
    one.outage()
    for _ in range(8):
        await ask()
    assert (len(one.requests), len(two.requests)) == (2, 8)


# --- A5: the breaker ---------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the wall clock, which is what breakers look at."""
    ahead = 0.0
    real = time.time

    def move(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    return move


def wait_for_arrival(service: LLMock) -> None:
    """Block until a request is being served."""
    deadline = time.monotonic() + 5
    while not service._server.state.journal.in_flight:
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def failing(calls: int) -> list[str]:
    """The types of what so many calls raise."""
    raised = []
    for _ in range(calls):
        try:
            await ask()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            raised.append(type(error).__name__)
    return raised


async def test_A5_a_breaker_opens_after_so_many_failures_and_is_not_called_while_open(llmock, monkeypatch):
    monkeypatch.setenv("BREAKER_FAILURES", "3")
    llmock.outage()
    assert [name == "BreakerOpenError" for name in await failing(5)] == [False] * 3 + [True] * 2
    assert len(llmock.requests) == 3
    assert counted("agent_breaker_state", endpoint="openai:gpt-4o-mini") == 2


async def test_A5_with_every_breaker_open_the_error_says_when_to_come_again(llmock, monkeypatch, clock):
    monkeypatch.setenv("BREAKER_FAILURES", "1")
    monkeypatch.setenv("BREAKER_SECONDS", "50")
    llmock.outage()
    await failing(1)
    clock(20.0)
    with pytest.raises(BreakerOpenError) as failure:
        await ask()
    assert classify(failure.value) == "service_unavailable"
    assert retry_after(failure.value) == pytest.approx(30.0, abs=1.0)


async def test_A5_an_open_breaker_leads_to_the_next_model_at_once(fallback, monkeypatch):
    monkeypatch.setenv("BREAKER_FAILURES", "1")
    fallback.fail(500, model="large").reply("one").reply("two")
    await ask()
    await ask()
    assert models_asked(fallback) == ["large", "small", "small"]


async def test_A5_after_its_rest_a_probe_that_succeeds_closes_it(llmock, monkeypatch, clock):
    monkeypatch.setenv("BREAKER_FAILURES", "2")
    llmock.fail(500, times=2)
    await failing(2)
    clock(31.0)
    llmock.reply("well again")
    assert (await ask()).text == "well again"
    assert counted("agent_breaker_state", endpoint="openai:gpt-4o-mini") == 0
    # Closed means that the count starts anew: one failure does not open it.
    llmock.fail(500)
    await failing(1)
    assert counted("agent_breaker_state", endpoint="openai:gpt-4o-mini") == 0


async def test_A5_a_probe_that_fails_opens_it_again(llmock, monkeypatch, clock):
    monkeypatch.setenv("BREAKER_FAILURES", "2")
    llmock.outage()
    await failing(2)
    clock(31.0)
    await failing(3)
    assert len(llmock.requests) == 3


@pytest.mark.parametrize("probes", [1, 2])
async def test_A5_only_so_many_probes_go_through_at_once(llmock, monkeypatch, clock, probes):
    monkeypatch.setenv("BREAKER_FAILURES", "1")
    monkeypatch.setenv("BREAKER_PROBES", str(probes))
    llmock.fail(500)
    await failing(1)
    clock(31.0)
    llmock.delay(0.3, times=None)
    results = await asyncio.gather(*(ask() for _ in range(5)), return_exceptions=True)
    assert Counter(type(result).__name__ for result in results) == {"AIMessage": probes, "BreakerOpenError": 5 - probes}
    assert len(llmock.requests) == 1 + probes


async def test_A5_our_own_bad_requests_do_not_open_it(llmock, monkeypatch):
    monkeypatch.setenv("BREAKER_FAILURES", "2")
    llmock.fail(400, times=4).reply("still here")
    await failing(4)
    assert (await ask()).text == "still here"


async def test_A5_a_cancelled_probe_is_neither_a_success_nor_a_failure(llmock, monkeypatch, clock):
    monkeypatch.setenv("BREAKER_FAILURES", "1")
    llmock.fail(500)
    await failing(1)
    clock(31.0)
    llmock.delay(1.0)
    before = counted("agent_model_calls_total", endpoint="openai:gpt-4o-mini", outcome="cancelled")
    probe = asyncio.create_task(ask())
    await asyncio.to_thread(wait_for_arrival, llmock)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert counted("agent_model_calls_total", endpoint="openai:gpt-4o-mini", outcome="cancelled") == before + 1
    assert counted("agent_breaker_state", endpoint="openai:gpt-4o-mini") == 1
    llmock.reply("well again")
    assert (await ask()).text == "well again"
    assert counted("agent_breaker_state", endpoint="openai:gpt-4o-mini") == 0


async def test_A5_an_answer_that_nobody_reads_to_its_end_frees_its_slot(llmock, monkeypatch):
    monkeypatch.setenv("MODEL_CONCURRENCY", "1")
    llmock.reply("a b c d e f", times=None)
    async with aclosing(chat_model(Context()).astream("hello")) as chunks:
        await anext(chunks)
    async with asyncio.timeout(5):
        assert (await ask()).text == "a b c d e f"


# --- A6: timeouts ------------------------------------------------------------------------------------------------


async def test_A6_a_model_that_keeps_silent_is_given_up_for_the_next(fallback, monkeypatch):
    monkeypatch.setenv("MODEL_IDLE_SECONDS", "1")
    fallback.slow_first_token(30.0).reply("late").reply("in time")
    began = time.monotonic()
    assert (await ask()).response_metadata["endpoint"] == "openai:small"
    assert time.monotonic() - began < 5


async def test_A6_a_service_that_hangs_before_it_answers_is_given_up_for_the_next(fallback, monkeypatch):
    monkeypatch.setenv("MODEL_IDLE_SECONDS", "1")
    fallback.delay(3.0).reply("late").reply("in time")
    assert (await ask()).response_metadata["endpoint"] == "openai:small"


async def test_A6_a_role_without_a_word_is_no_first_token(fallback, monkeypatch):
    monkeypatch.setenv("MODEL_IDLE_SECONDS", "1")
    fallback.stall(after_chunks=1).reply("late").reply("in time")
    assert (await ask()).text == "in time"


async def test_A6_silence_in_the_middle_of_an_answer_is_a_timeout(fallback, monkeypatch):
    monkeypatch.setenv("MODEL_IDLE_SECONDS", "0.5")
    fallback.stall(after_chunks=3).reply("a b c d e f")
    said, failure = await heard()
    assert said
    assert classify(failure) == "timeout"
    assert models_asked(fallback) == ["large"]


# --- A9: limits --------------------------------------------------------------------------------------------------


class FastClock:
    """An event loop's clock that a test moves; what waits for it is woken by the loop as usual."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self._ahead)

    async def move(self, seconds: float) -> None:
        self._ahead += seconds
        for _ in range(20):
            await asyncio.sleep(0)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def take(limits: Limits, text: str, into: list[str], used: int = 0) -> None:
    async with limits.turn([HumanMessage(text)]) as settle:
        into.append(text)
        settle(used)


async def test_A9_more_requests_than_a_minute_holds_wait_for_their_turn(monkeypatch):
    clock = FastClock(asyncio.get_running_loop(), monkeypatch)
    limits, served = Limits(Settings(requests_per_minute=2)), []
    async with asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(take(limits, name, served))
        await settled()
        assert served == ["a", "b"]
        await clock.move(31)
        assert served == ["a", "b", "c"]
        await clock.move(31)
    assert served == ["a", "b", "c", "d"]


async def test_A9_a_large_prompt_is_not_overtaken_by_small_ones(monkeypatch):
    clock = FastClock(asyncio.get_running_loop(), monkeypatch)
    limits, served = Limits(Settings(tokens_per_minute=100)), []
    first, large, small = "f" * 300, "l" * 300, "s"
    async with asyncio.TaskGroup() as group:
        for text in (first, large, small):
            group.create_task(take(limits, text, served))
        await settled()
        # The small one would fit in; but it came after the large one.
        assert served == [first]
        await clock.move(61)
        assert served[:2] == [first, large]
        await clock.move(61)
    assert served == [first, large, small]


async def test_A9_the_tokens_of_the_answer_are_paid_by_the_next_in_line(monkeypatch):
    clock = FastClock(asyncio.get_running_loop(), monkeypatch)
    limits, served = Limits(Settings(tokens_per_minute=1_000)), []
    await take(limits, "a", served, used=1_500)
    async with asyncio.TaskGroup() as group:
        group.create_task(take(limits, "b", served))
        await settled()
        assert served == ["a"]
        await clock.move(61)
    assert served == ["a", "b"]


async def test_A9_a_prompt_beyond_the_whole_minute_still_goes_out():
    served: list[str] = []
    await take(Limits(Settings(tokens_per_minute=10)), "x" * 1_000, served)
    assert served


async def test_A9_no_more_calls_are_under_way_than_allowed(llmock, monkeypatch):
    monkeypatch.setenv("MODEL_CONCURRENCY", "2")
    llmock.delay(0.1, times=None)
    await asyncio.gather(*(ask() for _ in range(6)))
    edges = sorted(edge for request in llmock.requests for edge in [(request.started_at, 1), (request.ended_at, -1)])
    under_way = most = 0
    for _, step in edges:
        under_way += step
        most = max(most, under_way)
    assert most == 2


async def test_A9_the_limit_is_in_the_way_of_real_calls(llmock, monkeypatch):
    monkeypatch.setenv("MODEL_RPM", "1")
    llmock.reply("one", times=None)
    await ask()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await ask()
    assert len(llmock.requests) == 1


# --- tools, structured output, providers -------------------------------------------------------------------------


class Person(BaseModel):
    """A person."""

    name: str


@tool
def calculator(expression: str) -> str:
    """Work something out."""
    return expression


async def test_A18_every_member_is_offered_the_tools(fallback):
    fallback.fail(500, times=2).call_tool("calculator", {"expression": "6*7"})
    answer = await chat_model(Context()).bind_tools([calculator]).ainvoke("what is 6*7")
    assert [call["args"] for call in answer.tool_calls] == [{"expression": "6*7"}]
    offered = [[t["function"]["name"] for t in request.body["tools"]] for request in fallback.requests]
    assert offered == [["calculator"]] * 3


async def test_A18_the_offline_member_is_offered_the_tools_too(llmock, monkeypatch):
    monkeypatch.setenv("FALLBACK_MODEL", "offline:stand-in")
    llmock.outage()
    answer = await chat_model(Context()).bind_tools([calculator]).ainvoke("what is 6*7")
    assert [call["name"] for call in answer.tool_calls] == ["calculator"]


async def test_A18_every_member_gives_structured_output(fallback):
    fallback.fail(500, times=2).call_tool("Person", {"name": "Ada"})
    asked = chat_model(Context()).with_structured_output(Person)
    assert await asked.ainvoke("who?") == Person(name="Ada")
    assert [request.body["tool_choice"] for request in fallback.requests] == ["required"] * 3


async def test_A18_with_no_key_the_offline_stand_in_answers_and_says_so():
    answer = await ask()
    assert answer.text.startswith(NOTICE)
    assert (answer.response_metadata["endpoint"], answer.response_metadata["model_name"]) == ("offline", NAME)


async def test_A18_another_provider_comes_first_through_init_chat_model(llmock, monkeypatch):
    monkeypatch.setenv("CHAT_MODEL", "nobody:knows")
    with pytest.raises(ValueError, match="nobody"):
        await ask()
    monkeypatch.setenv("CHAT_MODEL", "openai:from-chat-model")
    await ask()
    assert models_asked(llmock) == ["from-chat-model"]


async def test_A18_a_key_selects_the_real_model_and_the_sdk_does_not_retry(llmock):
    llmock.outage()
    assert len(await failing(1)) == 1
    assert len(llmock.requests) == 1


async def test_A18_parameters_reach_the_provider(llmock):
    llmock.reply("one")
    await chat_model(Context(temperature=0.5)).ainvoke("hello", stop=["END"])
    assert (llmock.last_request.body["temperature"], llmock.last_request.body["stop"]) == (0.5, ["END"])


async def test_A18_a_model_is_made_for_a_run_and_its_connections_are_not(llmock):
    llmock.reply("one", times=None)
    for _ in range(3):
        await ask()
    board = Switchboard.current(Settings())
    assert len(board._clients) == 1


async def test_A18_a_changed_environment_begins_anew(llmock, monkeypatch):
    monkeypatch.setenv("BREAKER_FAILURES", "1")
    llmock.fail(500).reply("back")
    await failing(1)
    assert await failing(1) == ["BreakerOpenError"]
    monkeypatch.setenv("BREAKER_FAILURES", "2")
    assert (await ask()).text == "back"


async def test_A18_no_key_shows_in_a_models_text(llmock, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    model = chat_model(Context(), redaction=Backwards(), store=InMemoryStore())
    assert isinstance(model, Model)
    assert "sk-secret" not in f"{model!r} {model.chain!r} {model._serialized}"


# --- redaction, against the interface alone ----------------------------------------------------------------------


class Backwards:
    """Hides the word Ada as <1>, which comes back in pieces like < 1 >."""

    def hide(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        return [
            message.model_copy(update={"content": str(message.content).replace("Ada", "<1>")}) for message in messages
        ]

    def restorer(self, as_json: bool = False) -> PieceByPiece:  # noqa: ARG002
        return PieceByPiece()


class PieceByPiece:
    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        ready, self._held = self._held + text, ""
        if start := re.search(r"<1?$", ready):
            ready, self._held = ready[: start.start()], ready[start.start() :]
        return ready.replace("<1>", "Ada")

    def end(self) -> str:
        held, self._held = self._held, ""
        return held


async def test_A17_what_is_hidden_never_leaves_and_is_put_back_while_streaming(llmock):
    llmock.reply("Dear <1> , hello <1> and <")
    chunks = [chunk async for chunk in chat_model(Context(), redaction=Backwards()).astream("greet Ada")]
    assert llmock.last_request.body["messages"][-1]["content"] == "greet <1>"
    assert sum(chunks[1:], chunks[0]).text == "Dear Ada , hello Ada and <"
    assert len([chunk for chunk in chunks if chunk.content]) > 2


async def test_A17_what_is_hidden_is_put_back_in_tool_calls(llmock):
    llmock.call_tool("calculator", {"expression": "<1>+<1>"})
    model = chat_model(Context(), redaction=Backwards()).bind_tools([calculator])
    answer = await model.ainvoke("who is Ada")
    assert [call["args"] for call in answer.tool_calls] == [{"expression": "Ada+Ada"}]
    assert answer.invalid_tool_calls == []


async def test_A17_several_calls_in_one_answer_stay_apart_live_and_from_the_cache(monkeypatch):
    monkeypatch.setenv("MODEL_CACHE", "exact")
    monkeypatch.setenv("CACHE_TOOL_CALLS", "on")
    model = chat_model(Context(temperature=0.0), redaction=Backwards()).bind_tools([calculator])
    answers = [await model.ainvoke("what is 6*7; what is 1+1") for _ in range(2)]
    for answer in answers:
        assert [call["args"] for call in answer.tool_calls] == [{"expression": "6*7"}, {"expression": "1+1"}]
        assert answer.invalid_tool_calls == []
    assert answers[1].response_metadata["cached"]


async def test_A4_a_call_that_asks_for_no_stream_is_answered_too(llmock):
    llmock.reply("whole")
    assert (await chat_model(Context()).ainvoke("hello", stream=False)).text == "whole"
