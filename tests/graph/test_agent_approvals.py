"""Approvals: what a human decides is what happens, once, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import ToolCall
from langchain_core.tools import tool

from graph.approvals import Decision, Grant, UnusableAnswerError, fingerprint, read_decision
from graph.tools import AgentTool, NotGrantedError, execute, standard_tools, toolbox

ALL = ("approve", "edit", "reject", "respond")
ELSE = {"recipient": "Bob", "body": "good bye"}


@pytest.mark.anyio
async def test_the_question_has_the_shape_that_chat_front_ends_render(talk):
    thread = talk()
    await thread.say("send hello to Ada")
    (question,) = await thread.questions()
    assert question.value == {
        "action_requests": [
            {
                "name": "send_message",
                "args": {"recipient": "Ada", "body": "hello"},
                "description": "The agent wants to call send_message.",
            }
        ],
        "review_configs": [{"action_name": "send_message", "allowed_decisions": list(ALL)}],
    }


@pytest.mark.anyio
async def test_nothing_is_sent_before_the_answer_and_once_after_an_approval(talk, sent):
    thread = talk()
    await thread.say("send hello to Ada")
    assert sent() == []
    await thread.decide("approve")
    assert sent() == [("Ada", "hello")]
    assert await thread.questions() == []
    assert (await thread.last_words()) == "Sent to Ada."


@pytest.mark.anyio
async def test_an_edited_call_runs_as_edited(talk, sent):
    thread = talk()
    await thread.say("send hello to Ada")
    await thread.decide("edit", edited_action={"name": "send_message", "args": ELSE})
    assert sent() == [("Bob", "good bye")]
    (result,) = await thread.results()
    assert result.text.startswith("A human changed this call before it ran")
    assert result.status == "success"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("decision", "status", "text"),
    [
        ({"type": "reject", "message": "too rude"}, "error", "too rude"),
        ({"type": "reject"}, "error", "A human rejected this call of send_message; it was not run."),
        ({"type": "respond", "message": "Ada already knows"}, "success", "Ada already knows"),
    ],
)
async def test_a_rejected_or_answered_call_never_runs(talk, sent, decision, status, text):
    thread = talk()
    await thread.say("send hello to Ada")
    await thread.answer({"decisions": [decision]})
    (result,) = await thread.results()
    assert (result.status, result.text) == (status, text)
    assert sent() == []
    assert await thread.questions() == []


@pytest.mark.anyio
async def test_a_bare_decision_is_understood_too(talk, sent):
    thread = talk()
    await thread.say("send hello to Ada")
    await thread.answer({"type": "approve"})
    assert sent() == [("Ada", "hello")]


UNUSABLE = [
    True,
    "approve",
    [],
    {},
    {"decisions": []},
    {"decisions": [{"type": "approve"}, {"type": "approve"}]},
    {"decisions": ["approve"]},
    {"decisions": [{"type": "ignore"}]},
    {"decisions": [{"type": ["approve"]}]},
    {"decisions": [{"type": "respond"}]},
    {"decisions": [{"type": "reject", "message": 3}]},
    {"decisions": [{"type": "edit"}]},
    {"decisions": [{"type": "edit", "edited_action": {"name": "send_message", "args": "x"}}]},
    {"decisions": [{"type": "edit", "edited_action": {"name": "format_disk", "args": {}}}]},
    {"decisions": [{"type": "edit", "edited_action": {"name": "send_message", "args": {"body": "x"}}}]},
    {"decisions": [{"type": "edit", "edited_action": {"name": "send_message", "args": {**ELSE, "cc": "Eve"}}}]},
    {
        "decisions": [
            {
                "type": "edit",
                "edited_action": {"name": "send_message", "args": {**ELSE, "idempotency_key": "mine"}},
            }
        ]
    },
]


@pytest.mark.anyio
@pytest.mark.parametrize("answer", UNUSABLE, ids=repr)
async def test_an_unusable_answer_runs_nothing_and_the_question_is_asked_again(talk, sent, answer):
    thread = talk()
    await thread.say("send hello to Ada")
    (first,) = await thread.questions()
    await thread.answer(answer)
    (again,) = await thread.questions()
    assert sent() == []
    assert again.id != first.id
    assert "could not be used" in again.value["action_requests"][0]["description"]
    await thread.decide("approve")
    assert sent() == [("Ada", "hello")]


def note_tool(ran: list[str], name: str, needs_approval: bool) -> AgentTool:
    @tool(name)
    async def note(text: str) -> str:
        """Note a text."""
        ran.append(f"{name} {text}")
        return f"{name} noted {text}"

    return AgentTool(note, approval="always" if needs_approval else "never")


@pytest.mark.anyio
@pytest.mark.parametrize("needs_approval", [True, False])
async def test_an_edit_to_another_tool_is_subject_to_that_tools_own_rule(talk, sent, needs_approval):
    ran: list[str] = []
    tools = {**standard_tools(), "note": note_tool(ran, "note", needs_approval)}
    thread = talk(tools_by_name=tools)
    await thread.say("send hello to Ada")
    await thread.decide("edit", edited_action={"name": "note", "args": {"text": "hello"}})
    if needs_approval:
        (question,) = await thread.questions()
        assert question.value["action_requests"][0]["name"] == "note"
        assert ran == []
        await thread.decide("approve")
    assert ran == ["note hello"]
    assert sent() == []


@pytest.mark.anyio
async def test_two_calls_at_once_are_answered_one_by_one(talk, sent):
    thread = talk()
    await thread.say("send hello to Ada and then send bye to Bob")
    first, second = await thread.questions()
    assert [q.value["action_requests"][0]["args"]["recipient"] for q in (first, second)] == ["Ada", "Bob"]
    from langgraph.types import Command

    await thread.run(Command(resume={second.id: {"decisions": [{"type": "approve"}]}}))
    assert sent() == [("Bob", "bye")]
    assert [q.id for q in await thread.questions()] == [first.id]
    await thread.run(Command(resume={first.id: {"decisions": [{"type": "reject", "message": "no"}]}}))
    assert sent() == [("Bob", "bye")]
    assert [result.text for result in await thread.results()] == ["no", "Sent to Bob."]


@pytest.mark.anyio
async def test_a_finished_neighbour_is_not_run_again_when_an_answer_arrives(talk, sent):
    ran: list[str] = []

    @tool
    async def calculator(expression: str) -> str:
        """Count how often this runs."""
        ran.append(expression)
        return "42"

    thread = talk(tools_by_name={**standard_tools(), "calculator": AgentTool(calculator)})
    await thread.say("what is 6*7 and then send hello to Ada")
    assert ran == ["6*7"]
    await thread.decide("approve")
    assert ran == ["6*7"]
    assert sent() == [("Ada", "hello")]
    assert (await thread.last_words()) == "6*7 = 42. Sent to Ada."


@pytest.mark.anyio
async def test_a_failed_neighbour_is_not_run_again_when_an_answer_arrives(talk, sent):
    ran: list[str] = []

    @tool
    async def calculator(expression: str) -> str:
        """Fail."""
        ran.append(expression)
        raise ConnectionError("secret://user:password@host")

    thread = talk(tools_by_name={**standard_tools(), "calculator": AgentTool(calculator)})
    await thread.say("what is 6*7 and then send hello to Ada")
    await thread.decide("approve")
    assert ran == ["6*7"]
    assert sent() == [("Ada", "hello")]
    failed, done = await thread.results()
    assert (failed.status, done.status) == ("error", "success")
    assert "password" not in failed.text


@pytest.mark.anyio
async def test_writing_on_instead_of_answering_drops_the_call_and_keeps_the_thread(talk, sent):
    thread = talk()
    await thread.say("send hello to Ada")
    await thread.say("what is 1 + 1")
    assert await thread.questions() == []
    assert (await thread.last_words()) == "1 + 1 = 2."
    assert sent() == []


@pytest.mark.anyio
async def test_a_fork_before_the_approval_asks_again_and_sends_nothing_twice(talk, sent):
    thread = talk()
    await thread.say("send hello to Ada")
    asked = await thread.agent.aget_state(thread.config)
    await thread.decide("approve")
    await thread.run(None, asked.config)
    (question,) = await thread.questions()
    assert question.value["action_requests"][0]["name"] == "send_message"
    await thread.decide("approve")
    assert sent() == [("Ada", "hello")]
    (result,) = await thread.results()
    assert result.text == "Was already sent to Ada; nothing was sent twice."


@pytest.mark.anyio
async def test_a_call_without_its_own_grant_does_not_run(sent):
    agent_tool = standard_tools()["send_message"]
    call = ToolCall(type="tool_call", name="send_message", args=dict(ELSE), id="call-1")
    wrong_args = Grant.of("send_message", {**ELSE, "body": "another text"})
    wrong_tool = Grant.of("calculator", ELSE)
    for grant in (None, wrong_args, wrong_tool):
        with pytest.raises(NotGrantedError):
            await execute(agent_tool, call, grant)
    assert sent() == []
    await execute(agent_tool, call, Grant.of("send_message", ELSE))
    assert sent() == [("Bob", "good bye")]


def test_a_fingerprint_ignores_key_order_and_nothing_else():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    values: list[Any] = [1, 1.0, True, "1", None, [1], {"a": 1}, {}]
    assert len({fingerprint({"a": value}) for value in values}) == len(values)


def test_decisions_are_read_only_if_they_are_allowed():
    assert read_decision({"type": "approve"}, ALL) == Decision("approve")
    assert read_decision({"decisions": [{"type": "reject", "message": None}]}, ALL) == Decision("reject")
    with pytest.raises(UnusableAnswerError, match="must be one of approve, reject"):
        read_decision({"type": "edit"}, ("approve", "reject"))


def test_a_toolbox_is_keyed_by_name():
    assert list(toolbox(*standard_tools().values())) == list(standard_tools())
