"""The tools by themselves, and the stand-in that calls them."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import math
import multiprocessing
import sys
import time

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolCall
from langchain_core.tools import tool
from langgraph.errors import GraphInterrupt
from langgraph.store.memory import InMemoryStore

from graph import knowledge, outbox, standin
from graph.calculator import CalculationError, calculate
from graph.errors import BusinessRuleError
from graph.tools import AgentTool, BadArgumentsError, Retry, execute, standard_tools

numbers = st.integers(0, 10**6).map(str) | st.floats(0, 1e6, allow_nan=False).map(repr)
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner),
        st.builds("{}{}".format, st.sampled_from(["-", "+"]), inner),
        st.builds("({} ** {})".format, inner, st.integers(0, 3)),
    ),
    max_leaves=8,
)


def passes_through_infinity(expression):
    parts = (node for node in ast.walk(ast.parse(expression, mode="eval")) if isinstance(node, ast.expr))
    values = (eval(ast.unparse(part)) for part in parts)
    return any(isinstance(value, float) and not math.isfinite(value) for value in values)


@given(expressions)
@example("((1 / 2.225073858507203e-309) ** 0)")
def test_the_calculator_agrees_with_python(expression):
    try:
        expected = eval(expression)
    except ArithmeticError:
        with pytest.raises(CalculationError):
            calculate(expression)
        return
    if isinstance(expected, int) and expected.bit_length() > 4_096:
        return
    if passes_through_infinity(expression):
        with pytest.raises(CalculationError, match="finite"):
            calculate(expression)
        return
    result = calculate(expression)
    assert (type(result), result) == (type(expected), expected)


HOSTILE = [
    "__import__('os').system('true')",
    "().__class__",
    "abs(-1)",
    "x + 1",
    "'a' * 1000000000",
    "[1] * 3",
    "True + 1",
    "1j * 1j",
    "9 ** 9 ** 9",
    "9 ** 99999999",
    "(-8) ** 0.5",
    "2.0 ** 100000",
    "1 << 4",
    "2 ^ 8",
    "1 if 1 else 2",
    "lambda: 1",
    "1; 2",
    "1 / 0",
    "0 ** -1",
    "1e999",
    "1e308 * 10",
    "",
    "1" * 501,
    "9" * 400 + "**9",
    "(" * 240 + "1" + ")" * 240,
    "1 and 2",
    "1 < 2",
    "~1",
    "f'{1}'",
    "[1][0]",
    "(x := 1)",
    "0.1j + 1",
    "1\x00",
    "1 +",
    "\ud800",
]


@pytest.mark.parametrize("expression", HOSTILE, ids=lambda value: ascii(value)[:30])
def test_the_calculator_refuses_everything_else_at_once(expression):
    started = time.perf_counter()
    with pytest.raises(CalculationError):
        calculate(expression)
    assert time.perf_counter() - started < 0.5


@given(st.text(max_size=60))
def test_the_calculator_answers_any_text_with_a_number_or_a_refusal(text):
    with contextlib.suppress(CalculationError):
        assert isinstance(calculate(text), int | float)


def test_a_message_is_put_in_the_outbox_once_per_key():
    message = outbox.Message("thread:call", "Ada", "hello")
    assert [outbox.put(message), outbox.put(message)] == [True, False]
    assert outbox.sent() == [message]


def test_a_key_that_was_used_for_another_message_is_refused():
    outbox.put(outbox.Message("thread:call", "Ada", "hello"))
    with pytest.raises(BusinessRuleError, match="nothing was sent now"):
        outbox.put(outbox.Message("thread:call", "Ada", "good bye"))
    assert len(outbox.sent()) == 1


def _put_when_all_are_ready(barrier, answers):
    barrier.wait(20)
    answers.put(outbox.put(outbox.Message("thread:call", "Ada", "hello")))


def test_processes_that_race_with_one_key_send_one_message():
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.Queue()
    racers = [context.Process(target=_put_when_all_are_ready, args=(barrier, answers)) for _ in range(4)]
    for racer in racers:
        racer.start()
    outcomes = sorted(answers.get(timeout=20) for _ in racers)
    for racer in racers:
        racer.join(20)
    assert outcomes == [False, False, False, True]
    assert len(outbox.sent()) == 1


@pytest.mark.parametrize(
    ("query", "title"),
    [("What is a thread?", "Threads"), ("langgraph", "LangGraph"), ("time travel", "Checkpoints and time travel")],
)
def test_the_best_note_comes_first(query, title):
    assert knowledge.look_up(query)[0].title == title


def test_nothing_is_found_for_other_words():
    assert knowledge.look_up("pancakes") == []
    assert knowledge.look_up("") == []


@pytest.mark.anyio
async def test_a_look_up_without_result_says_what_there_is():
    text = await standard_tools()["lookup_knowledge"].spec.ainvoke({"query": "pancakes"})
    assert text.startswith("Nothing found. There are notes on: Holdfast, ")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("calculator", {}),
        ("calculator", {"expression": 3}),
        ("calculator", {"expression": "1", "extra": 1}),
        ("calculator", "1 + 1"),
        ("lookup_knowledge", {"query": ""}),
        ("lookup_knowledge", {"query": "x", "store": None}),
        ("send_message", {"recipient": "Ada", "body": "x", "idempotency_key": "mine"}),
        ("fetch_page", {"url": "http://" + "a" * 2_000}),
        ("refund", {"order": "A1", "amount": 0}),
        ("refund", {"order": "A1", "amount": -5.0}),
        ("refund", {"order": "A1", "amount": "5"}),
        ("refund", {"order": "A1", "amount": True}),
        ("refund", {"order": "A1", "amount": float("nan")}),
        ("refund", {"order": "A1", "amount": float("inf")}),
    ],
)
def test_arguments_must_fit_the_schema_exactly(name, args):
    with pytest.raises(BadArgumentsError):
        standard_tools()[name].check(args)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("send_message", ["recipient", "body"]), ("refund", ["order", "amount"]), ("lookup_knowledge", ["query"])],
)
def test_A13_the_model_does_not_see_what_is_injected(name, fields):
    schema = standard_tools()[name].spec.tool_call_schema.model_json_schema()
    assert list(schema["properties"]) == fields


@pytest.mark.parametrize("expression", ["-" * 200 + "1", "1+(" * 100 + "1" + ")" * 100, "1" + "+1" * 249])
def test_A13_the_calculator_goes_as_deep_as_its_limit(expression):
    assert calculate(expression) == eval(expression)


def _from_deep_below(depth, expression):
    return _from_deep_below(depth - 1, expression) if depth else calculate(expression)


def test_A13_the_calculator_says_where_there_is_no_room_for_so_much_nesting():
    room = sys.getrecursionlimit() - len(inspect.stack())
    with pytest.raises(CalculationError, match="nested too deeply"):
        _from_deep_below(room - 300, "-" * 490 + "1")


def calling(name, **args):
    return ToolCall(type="tool_call", name=name, args=args, id="call-1")


def flaky(failures, **how):
    """A tool that raises these, then answers with the number of its runs."""
    ran = []

    @tool
    async def look() -> str:
        """Look."""
        ran.append(1)
        if failures:
            raise failures.pop(0)
        return str(len(ran))

    return AgentTool(look, **how), ran


def too_busy(**headers):
    request = httpx.Request("GET", "http://x")
    return httpx.HTTPStatusError("busy", request=request, response=httpx.Response(429, headers=headers))


QUICK = Retry(pause=0.001)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "failure", [ConnectionError(), TimeoutError(), httpx.ReadTimeout("slow"), too_busy(), too_busy(retry_after="0")]
)
async def test_A13_what_passes_is_tried_again_within_the_task(failure):
    look, ran = flaky([failure, failure], retry=QUICK)
    assert await execute(look, calling("look"), None) == "3"
    assert len(ran) == 3


@pytest.mark.anyio
async def test_A13_attempts_are_bounded_and_the_last_failure_is_told():
    look, ran = flaky([ConnectionError(n) for n in range(9)], retry=QUICK)
    with pytest.raises(ConnectionError, match="2"):
        await execute(look, calling("look"), None)
    assert len(ran) == 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("failure", "how"),
    [
        (ValueError("no"), {"retry": QUICK}),
        (BusinessRuleError("no"), {"retry": QUICK}),
        (GraphInterrupt(), {"retry": QUICK}),
        (too_busy(**{"retry-after": "60"}), {"retry": QUICK}),
        (TimeoutError(), {"retry": Retry(on=frozenset({"connection"}), pause=0.001)}),
        (ConnectionError(), {}),
    ],
    ids=["refused", "by a rule", "an interrupt", "too busy for long", "not in its list", "no retry"],
)
async def test_A13_what_does_not_pass_is_not_tried_again(failure, how):
    look, ran = flaky([failure], **how)
    with pytest.raises(type(failure)):
        await execute(look, calling("look"), None)
    assert len(ran) == 1


@pytest.mark.anyio
async def test_A13_each_attempt_has_the_tools_whole_time():
    ran = []

    @tool
    async def look() -> str:
        """Hang, the first time."""
        ran.append(1)
        if len(ran) == 1:
            await asyncio.Event().wait()
        return "seen"

    assert await execute(AgentTool(look, timeout=0.05, retry=QUICK), calling("look"), None) == "seen"


def test_A13_a_tool_with_an_effect_cannot_be_given_retries():
    with pytest.raises(TypeError, match="has an effect"):
        AgentTool(standard_tools()["send_message"].spec, if_unknown="run_again", retry=Retry())


@pytest.mark.anyio
async def test_A13_a_failed_effect_is_not_tried_again():
    look, ran = flaky([ConnectionError()], if_unknown="tell")
    with pytest.raises(ConnectionError):
        await execute(look, calling("look"), None, store=InMemoryStore())
    assert len(ran) == 1


TOOLS = ("calculator", "lookup_knowledge", "send_message")
BEFORE = AIMessage("earlier")


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("what is 6 * 7?", [("calculator", {"expression": "6 * 7"})]),
        ("2^8", [("calculator", {"expression": "2**8"})]),
        ("please calculate (1 + 2) / 3.", [("calculator", {"expression": "(1 + 2) / 3"})]),
        ("What is a thread?", [("lookup_knowledge", {"query": "a thread"})]),
        ("look up time travel", [("lookup_knowledge", {"query": "time travel"})]),
        ("Send good luck to Ada.", [("send_message", {"recipient": "Ada", "body": "good luck"})]),
        ("send 10 to 20 apples to Bob", [("send_message", {"recipient": "Bob", "body": "10 to 20 apples"})]),
        (
            "send hi to Ada; what is 1+1 and then look up runs",
            [
                ("send_message", {"recipient": "Ada", "body": "hi"}),
                ("calculator", {"expression": "1+1"}),
                ("lookup_knowledge", {"query": "runs"}),
            ],
        ),
        ("hello", []),
        ("I sent it", []),
        ("", []),
        ("what is " + "1" * 3_000, []),
    ],
)
def test_the_stand_in_knows_a_few_phrasings(text, calls):
    reply = standin.plan([BEFORE, HumanMessage(text)], TOOLS)
    assert list(reply.calls) == calls
    assert bool(reply.text) == (not calls)


def test_the_stand_in_calls_only_tools_that_it_was_offered():
    assert standin.plan([HumanMessage("what is 1 + 1")], ()).calls == ()


def test_the_stand_in_says_what_it_is_in_its_first_answer_only():
    assert standin.plan([SystemMessage("x"), HumanMessage("hello")], ()).text.startswith(standin.NOTICE)
    assert standin.plan([BEFORE, HumanMessage("hello")], ()).text.startswith("Hello!")


@pytest.mark.anyio
async def test_the_stand_in_streams_tokens_calls_and_usage(talk):
    thread = talk()
    await thread.say("what is 6*7 and then look up threads")
    chunks = thread.tokens()
    assert sum(bool(c.content) for c in chunks) > 10
    assert any(c.tool_call_chunks for c in chunks)
    _, first, *_, last = await thread.messages()
    assert [call["name"] for call in first.tool_calls] == ["calculator", "lookup_knowledge"]
    assert last.response_metadata["model_name"] == "holdfast-offline-stand-in"
    assert last.usage_metadata["total_tokens"] > 0
    assert last.text.startswith("6*7 = 42. My notes say: Threads:")
