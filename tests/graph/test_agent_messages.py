"""The conversation's channel: the same list however writes are batched, replayed, forked or edited."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableConfig
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from pydantic import ValidationError

from graph.agent import build
from graph.messages import ABANDONED, merge_messages, prompt, with_own_call_ids

ids = st.sampled_from(["a", "b", "c", None])
message = st.one_of(
    st.builds(lambda text, i: HumanMessage(text, id=i), st.text(max_size=3), ids),
    st.builds(lambda text, i: AIMessage(text, id=i), st.text(max_size=3), ids),
    st.builds(lambda i: RemoveMessage(i), st.sampled_from(["a", "b", "c", REMOVE_ALL_MESSAGES])),
    st.builds(lambda text, i: AIMessageChunk(text, id=i), st.text(max_size=3), ids),
    st.text(max_size=3),
    st.builds(lambda text, i: {"role": "user", "content": text, "id": i}, st.text(max_size=3), ids),
    st.sampled_from([3, {"role": "nobody", "content": "x"}, {}, ["user"]]),
)
write = st.one_of(message, st.lists(message, max_size=4))
writes = st.lists(write, max_size=5)


@given(state=st.lists(message, max_size=5), xs=writes, ys=writes)
def test_the_reducer_does_not_depend_on_how_writes_are_batched(state, xs, ys):
    assert merge_messages(merge_messages(state, xs), ys) == merge_messages(state, xs + ys)


@given(xs=writes)
def test_every_message_has_an_id_of_its_own(xs):
    merged = merge_messages([], xs)
    assert all(m.id for m in merged)
    assert len({m.id for m in merged}) == len(merged)


@given(xs=writes)
def test_replaying_gives_the_same_ids_and_a_result_is_left_as_it_is(xs):
    merged = merge_messages([], xs)
    assert merge_messages([], xs) == merged
    assert merge_messages(merged, []) == merged


def test_a_known_id_replaces_its_message_in_place():
    state = [HumanMessage("one", id="1"), AIMessage("two", id="2")]
    merged = merge_messages(state, [[HumanMessage("ONE", id="1"), AIMessage("three", id="3")]])
    assert [m.content for m in merged] == ["ONE", "two", "three"]


def test_messages_are_removed_singly_or_all_together_and_unknown_ids_do_no_harm():
    state = [HumanMessage("one", id="1"), AIMessage("two", id="2")]
    assert [m.id for m in merge_messages(state, [RemoveMessage("1"), RemoveMessage("9")])] == ["2"]
    wiped = merge_messages(state, [[RemoveMessage(REMOVE_ALL_MESSAGES), HumanMessage("new", id="3")]])
    assert [m.id for m in wiped] == ["3"]


def test_a_chunk_becomes_a_message():
    (merged,) = merge_messages([], [AIMessageChunk("hello", id="1")])
    assert type(merged) is AIMessage


def test_the_writers_own_message_is_not_changed():
    mine = HumanMessage("one")
    merge_messages([], [mine])
    assert mine.id is None


def test_an_unanswered_call_is_answered_in_the_prompt_right_behind_it():
    asking = AIMessage("", tool_calls=[{"name": "x", "args": {}, "id": i} for i in ("c1", "c2")])
    sent = prompt([asking, ToolMessage("done", tool_call_id="c1"), HumanMessage("never mind")], "Be brief.")
    assert sent[0] == SystemMessage("Be brief.")
    assert [(m.type, getattr(m, "tool_call_id", None)) for m in sent[1:]] == [
        ("ai", None),
        ("tool", "c2"),
        ("tool", "c1"),
        ("human", None),
    ]
    assert sent[2].content == ABANDONED


def test_a_call_id_is_replaced_when_the_thread_has_used_it_or_it_is_missing_or_doubled():
    earlier = [AIMessage("", tool_calls=[{"name": "x", "args": {}, "id": "call_0"}])]
    calls = [{"name": "x", "args": {}, "id": i} for i in ("call_0", "call_1", "call_1", None, "")]
    answer = with_own_call_ids(AIMessage("", tool_calls=calls), earlier)
    new = [call["id"] for call in answer.tool_calls]
    assert new[1] == "call_1"
    assert len({*new, "call_0"}) == 6


@pytest.mark.anyio
async def test_a_thread_reads_back_the_same_from_every_checkpoint(talk):
    thread = talk()
    for text in ("hello", "what is 2 + 3", "look up threads"):
        await thread.say(text)
    history = [s async for s in thread.agent.aget_state_history(thread.config)]
    whole = history[0].values["messages"]
    for snapshot in history:
        kept = snapshot.values.get("messages", [])
        assert kept == whole[: len(kept)]
        assert (await thread.agent.aget_state(snapshot.config)).values.get("messages", []) == kept


@pytest.mark.anyio
async def test_a_fork_goes_its_own_way_and_leaves_the_original_alone(talk):
    thread = talk()
    await thread.say("what is 1 + 1")
    after_one = await thread.agent.aget_state(thread.config)
    await thread.say("what is 2 + 2")
    original = await thread.agent.aget_state(thread.config)
    await thread.run({"messages": [HumanMessage("what is 3 + 3")]}, after_one.config)
    assert (await thread.last_words()) == "3 + 3 = 6."
    forked = await thread.messages()
    assert forked[:4] == after_one.values["messages"]
    assert not any("2 + 2" in m.text for m in forked)
    assert (await thread.agent.aget_state(original.config)).values["messages"] == original.values["messages"]


@pytest.mark.anyio
async def test_state_updates_append_replace_and_remove(talk):
    thread = talk()
    await thread.say("hello")
    mine, reply = await thread.messages()
    await thread.agent.aupdate_state(thread.config, {"messages": [HumanMessage("good bye", id=mine.id)]})
    await thread.agent.aupdate_state(thread.config, {"messages": [RemoveMessage(reply.id)]})
    assert [m.text for m in await thread.messages()] == ["good bye"]
    await thread.agent.aupdate_state(thread.config, {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES)]})
    assert await thread.messages() == []
    await thread.say("what is 1 + 1")
    assert (await thread.last_words()) == "1 + 1 = 2."


@pytest.mark.anyio
async def test_messages_without_ids_keep_the_one_they_were_given(talk):
    thread = talk()
    await thread.run({"messages": "hello"})
    first = [m.id for m in await thread.messages()]
    await thread.say("hello")
    assert [m.id for m in await thread.messages()][:2] == first


@pytest.mark.anyio
@pytest.mark.parametrize("bad", [[{"role": "nobody", "content": "x"}], [{"content": "x"}], [3], 3])
async def test_a_message_that_cannot_be_read_is_refused_in_words_and_the_thread_stays_usable(talk, bad):
    thread = talk()
    await thread.say("hello")
    before = await thread.messages()
    await thread.run({"messages": bad})
    assert (await thread.last_words()).startswith("I could not answer: the last message cannot be read")
    state = await thread.state()
    assert "cannot be read" in state["error"]["message"]
    assert state["messages"][: len(before)] == before
    await thread.say("what is 1 + 1")
    assert (await thread.last_words()) == "1 + 1 = 2."


@pytest.mark.anyio
async def test_an_empty_input_is_answered_too(talk):
    thread = talk()
    await thread.run({})
    assert "You said nothing" in (await thread.last_words())


def test_a_message_that_langgraph_refuses_fails_its_run_and_nothing_else(saver):
    # LangGraph raises this one in a callback too, which the event loop of an anyio test would take for a failure.
    agent = build().compile(checkpointer=saver)
    config: RunnableConfig = {"configurable": {"thread_id": "1"}}

    async def conversation() -> str:
        await agent.ainvoke({"messages": "hello"}, config)
        before = (await agent.aget_state(config)).values
        with pytest.raises(ValidationError):
            await agent.ainvoke({"messages": [{"role": "user", "content": 3}]}, config)
        assert (await agent.aget_state(config)).values == before
        return (await agent.ainvoke({"messages": "what is 1 + 1"}, config))["messages"][-1].text

    assert asyncio.run(conversation()) == "1 + 1 = 2."
