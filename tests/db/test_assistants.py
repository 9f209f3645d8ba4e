"""Assistants and their versions: nothing lost, nothing twice, and nobody else's."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from holdfast.db.assistants import AssistantChange, AssistantFilter, Assistants, system_assistant_id
from holdfast.errors import Conflict, Forbidden, Missing
from holdfast.rules.caller import LOCAL, Caller, Sight
from tests.db.stage import ANN, ASSISTANT, BOB, GRAPH, Stage, together

pytestmark = pytest.mark.anyio

OTHER = "sing"
EVERYBODY = Caller("root", Sight.ALL)
MATCHING = Caller("eve", Sight.MATCHING, filters=({"team": "red"}, {"created_by": "system"}))


@pytest.fixture
def assistants(stage: Stage) -> Assistants:
    return Assistants(stage.database, [GRAPH, OTHER])


async def made(assistants: Assistants, caller: Caller = ANN, **given: Any) -> UUID:
    row = await assistants.create(caller, uuid4(), **{"graph_id": GRAPH, "name": "mine", **given})
    assistant_id: UUID = row["assistant_id"]
    return assistant_id


async def numbers(assistants: Assistants, caller: Caller, assistant_id: UUID) -> list[int]:
    return [row["version"] for row in await assistants.versions(caller, assistant_id, limit=1000)]


async def current_equals_its_version(assistants: Assistants, caller: Caller, assistant_id: UUID) -> bool:
    row = await assistants.get(caller, assistant_id)
    kept = {version["version"]: version for version in await assistants.versions(caller, assistant_id, limit=1000)}
    told = ("graph_id", "name", "description", "config", "context", "metadata")
    return [row[key] for key in told] == [kept[row["version"]][key] for key in told]


# --- versions ---


async def test_every_change_is_a_version_and_the_row_is_the_current_one(assistants: Assistants) -> None:
    mine = await made(assistants, config={"tags": ["a"]}, metadata={"a": 1, "b": {"c": 1}})
    changed = await assistants.patch(ANN, mine, AssistantChange(name="second", metadata={"b": {"d": 2}}))
    assert (changed["version"], changed["name"], changed["metadata"]) == (2, "second", {"a": 1, "b": {"d": 2}})
    assert changed["config"] == {"tags": ["a"]}
    assert (await assistants.patch(ANN, mine, AssistantChange()))["version"] == 3
    assert await numbers(assistants, ANN, mine) == [3, 2, 1]
    assert await current_equals_its_version(assistants, ANN, mine)
    first = (await assistants.versions(ANN, mine, offset=2))[0]
    assert (first["name"], first["metadata"]) == ("mine", {"a": 1, "b": {"c": 1}})


async def test_a_context_alone_becomes_the_configurable_of_the_config_that_is_there(assistants: Assistants) -> None:
    mine = await made(assistants, config={"tags": ["a"], "configurable": {"x": 1}}, context={"x": 1})
    row = await assistants.patch(ANN, mine, AssistantChange(context={"y": 2}))
    assert (row["config"], row["context"]) == ({"tags": ["a"], "configurable": {"y": 2}}, {"y": 2})
    row = await assistants.patch(ANN, mine, AssistantChange(context={}))
    assert (row["config"], row["context"]) == ({"tags": ["a"]}, {})
    row = await assistants.patch(ANN, mine, AssistantChange(config={"recursion_limit": 3}))
    assert (row["config"], row["context"]) == ({"recursion_limit": 3}, {})


async def test_an_earlier_version_comes_back_whole_and_the_next_change_gets_a_new_number(
    assistants: Assistants,
) -> None:
    first = {"config": {"tags": ["a"]}, "context": {"x": 1}, "metadata": {"a": 1}, "description": "one"}
    mine = await made(assistants, **first)
    await assistants.patch(
        ANN, mine, AssistantChange(OTHER, "second", "two", {"tags": ["b"]}, {"x": 2}, metadata={"b": 2})
    )
    back = await assistants.set_latest(ANN, mine, 1)
    assert {key: back[key] for key in first} == first
    assert (back["version"], back["name"], back["graph_id"]) == (1, "mine", GRAPH)
    assert await numbers(assistants, ANN, mine) == [2, 1]
    assert (await assistants.patch(ANN, mine, AssistantChange(name="third")))["version"] == 3
    assert (await assistants.set_latest(ANN, mine, 2))["description"] == "two"
    assert await current_equals_its_version(assistants, ANN, mine)


@pytest.mark.parametrize("version", [0, 3, -1, 2**40])
async def test_a_version_that_is_not_there_changes_nothing(assistants: Assistants, version: int) -> None:
    mine = await made(assistants)
    await assistants.patch(ANN, mine, AssistantChange(name="second"))
    with pytest.raises(Missing, match=f"Version {version} of assistant {mine} not found"):
        await assistants.set_latest(ANN, mine, version)
    assert (await assistants.get(ANN, mine))["version"] == 2


async def test_changes_at_once_lose_no_version_and_give_no_number_twice(assistants: Assistants) -> None:
    mine = await made(assistants)
    rows = await together(
        *(assistants.patch(ANN, mine, AssistantChange(metadata={str(n): n})) for n in range(20)),
        *(assistants.set_latest(ANN, mine, 1) for _ in range(5)),
    )
    assert sorted(row["version"] for row in rows[:20]) == list(range(2, 22))
    assert await numbers(assistants, ANN, mine) == list(range(21, 0, -1))
    assert await current_equals_its_version(assistants, ANN, mine)


async def test_of_changes_at_once_every_piece_of_metadata_stays(assistants: Assistants) -> None:
    mine = await made(assistants)
    await together(*(assistants.patch(ANN, mine, AssistantChange(metadata={str(n): n})) for n in range(20)))
    assert (await assistants.get(ANN, mine))["metadata"] == {str(n): n for n in range(20)}


async def test_versions_are_filtered_and_paged(assistants: Assistants) -> None:
    mine = await made(assistants, metadata={"stage": "draft"})
    for stage in ("draft", "live", "draft"):
        await assistants.patch(ANN, mine, AssistantChange(metadata={"stage": stage}))
    drafts = await assistants.versions(ANN, mine, metadata={"stage": "draft"})
    assert [row["version"] for row in drafts] == [4, 2, 1]
    assert [row["version"] for row in await assistants.versions(ANN, mine, limit=2, offset=1)] == [3, 2]
    assert await assistants.versions(ANN, mine, offset=10) == []


async def test_a_deleted_assistant_takes_its_versions_along(stage: Stage, assistants: Assistants) -> None:
    mine = await made(assistants)
    await assistants.patch(ANN, mine, AssistantChange())
    await assistants.delete(ANN, mine)
    with pytest.raises(Missing):
        await assistants.delete(ANN, mine)
    assert not await stage.sql("SELECT FROM holdfast.assistant_versions WHERE assistant_id = %s", mine)


async def test_a_change_and_a_deletion_at_once_leave_nothing_half(stage: Stage, assistants: Assistants) -> None:
    for _ in range(10):
        mine = await made(assistants)
        changed, deleted = await together(
            assistants.patch(ANN, mine, AssistantChange(name="late")), assistants.delete(ANN, mine)
        )
        assert deleted is None
        assert isinstance(changed, dict | Missing)
        assert not await stage.sql("SELECT FROM holdfast.assistant_versions WHERE assistant_id = %s", mine)


# --- ids ---


async def test_a_taken_id_is_a_conflict_or_kept_as_it_is(assistants: Assistants) -> None:
    mine = await made(assistants)
    with pytest.raises(Conflict):
        await assistants.create(ANN, mine, graph_id=GRAPH, name="again")
    kept = await assistants.create(ANN, mine, graph_id=OTHER, name="again", or_keep=True)
    assert (kept["name"], kept["graph_id"], kept["version"]) == ("mine", GRAPH, 1)
    for or_keep in (True, False):
        with pytest.raises(Conflict):
            await assistants.create(BOB, mine, graph_id=GRAPH, name="mine too", or_keep=or_keep)
    assert await numbers(assistants, ANN, mine) == [1]


async def test_of_two_who_create_one_id_at_once_one_succeeds(assistants: Assistants) -> None:
    wanted = uuid4()
    outcomes = await together(
        *(assistants.create(caller, wanted, graph_id=GRAPH, name="x") for caller in (ANN, BOB, ANN, BOB))
    )
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 3


async def test_assistants_of_a_graph_that_is_gone_do_not_exist(stage: Stage, assistants: Assistants) -> None:
    mine = await made(assistants, graph_id=OTHER)
    await assistants.patch(ANN, mine, AssistantChange(graph_id=GRAPH))
    later = Assistants(stage.database, [GRAPH])
    with pytest.raises(Missing, match="Version 1"):
        await later.set_latest(ANN, mine, 1)
    await assistants.set_latest(ANN, mine, 1)
    for refused in (later.get(ANN, mine), later.patch(ANN, mine, AssistantChange()), later.delete(ANN, mine)):
        with pytest.raises(Missing):
            await refused
    assert mine not in {row["assistant_id"] for row in await later.search(ANN, AssistantFilter(), limit=100)}


# --- whose ---


@pytest.mark.parametrize("stranger", [BOB, MATCHING, LOCAL])
async def test_other_peoples_assistants_do_not_exist(assistants: Assistants, stranger: Caller) -> None:
    mine = await made(assistants)
    for refused in (
        assistants.get(stranger, mine),
        assistants.on_thread(stranger, mine, None),
        assistants.versions(stranger, mine),
        assistants.patch(stranger, mine, AssistantChange(name="stolen")),
        assistants.set_latest(stranger, mine, 1),
        assistants.check_deletable(stranger, mine),
        assistants.delete(stranger, mine),
    ):
        with pytest.raises(Missing, match=f"Assistant with ID {mine} not found"):
            await refused
    assert await assistants.count(stranger, AssistantFilter()) == 1
    assert [row["name"] for row in await assistants.search(ANN, AssistantFilter(name="MIN"), limit=5)] == ["mine"]


@pytest.mark.parametrize("caller", [EVERYBODY, MATCHING])
async def test_a_caller_who_sees_more_may_change_it(assistants: Assistants, caller: Caller) -> None:
    mine = await made(assistants, metadata={"team": "red"})
    assert (await assistants.patch(caller, mine, AssistantChange(name="theirs")))["version"] == 2
    assert (await assistants.set_latest(caller, mine, 1))["name"] == "mine"
    await assistants.delete(caller, mine)
    with pytest.raises(Missing):
        await assistants.get(ANN, mine)


@pytest.mark.parametrize("caller", [ANN, EVERYBODY, MATCHING, Caller("local")])
async def test_system_assistants_are_everybodys_and_therefore_nobodys_to_change(
    assistants: Assistants, caller: Caller
) -> None:
    assert (await assistants.get(caller, ASSISTANT))["owner"] is None
    assert await numbers(assistants, caller, ASSISTANT) == [1]
    for refused in (
        assistants.patch(caller, ASSISTANT, AssistantChange()),
        assistants.set_latest(caller, ASSISTANT, 1),
        assistants.check_deletable(caller, ASSISTANT),
        assistants.delete(caller, ASSISTANT),
    ):
        with pytest.raises(Forbidden, match=f"system assistant of graph '{GRAPH}'"):
            await refused
    assert (await assistants.get(caller, ASSISTANT))["version"] == 1


async def test_who_is_alone_may_change_a_system_assistant_but_neither_its_graph_nor_its_being(
    assistants: Assistants,
) -> None:
    row = await assistants.patch(LOCAL, ASSISTANT, AssistantChange(name="changed", graph_id=GRAPH, context={"x": 1}))
    assert (row["version"], row["name"], row["context"]) == (2, "changed", {"x": 1})
    assert (await assistants.set_latest(LOCAL, ASSISTANT, 1))["context"] == {}
    with pytest.raises(Missing, match="Version 7"):
        await assistants.set_latest(LOCAL, ASSISTANT, 7)
    with pytest.raises(Forbidden, match="stays with its graph"):
        await assistants.patch(LOCAL, ASSISTANT, AssistantChange(graph_id=OTHER))
    with pytest.raises(Forbidden, match="cannot be deleted"):
        await assistants.delete(LOCAL, ASSISTANT)


# --- system assistants at start ---


async def test_a_start_leaves_what_users_changed_until_langgraph_json_says_something_else(
    assistants: Assistants,
) -> None:
    await assistants.patch(LOCAL, ASSISTANT, AssistantChange(name="ours", context={"x": 1}))
    await assistants.put_system(GRAPH, GRAPH, None)
    assert (await assistants.get(LOCAL, ASSISTANT))["name"] == "ours"
    assert await numbers(assistants, LOCAL, ASSISTANT) == [2, 1]
    await assistants.put_system(GRAPH, GRAPH, "now described")
    row = await assistants.get(LOCAL, ASSISTANT)
    assert (row["name"], row["description"], row["context"], row["version"]) == (GRAPH, "now described", {"x": 1}, 3)
    assert await current_equals_its_version(assistants, LOCAL, ASSISTANT)
    await assistants.put_system(GRAPH, GRAPH, "now described")
    assert await numbers(assistants, LOCAL, ASSISTANT) == [3, 2, 1]


async def test_processes_that_start_at_once_make_one_version(assistants: Assistants) -> None:
    await together(*(assistants.put_system(OTHER, "Singer", None) for _ in range(8)))
    assert await numbers(assistants, ANN, system_assistant_id(OTHER)) == [1]


async def test_a_start_does_not_write_over_a_users_assistant_of_the_same_id(assistants: Assistants) -> None:
    await assistants.create(ANN, system_assistant_id(OTHER), graph_id=GRAPH, name="mine")
    await assistants.put_system(OTHER, OTHER, None)
    assert (await assistants.get(ANN, system_assistant_id(OTHER)))["name"] == "mine"


# --- search ---


async def test_search_terms_hold_together_and_rows_come_in_the_order_asked_for(assistants: Assistants) -> None:
    for name, graph, team in (("b", GRAPH, "red"), ("a%", OTHER, "red"), ("C", GRAPH, "blue")):
        await made(assistants, name=name, graph_id=graph, metadata={"team": team})
    terms = AssistantFilter(metadata={"team": "red"})

    async def names(terms: AssistantFilter, **order: Any) -> list[str]:
        return [row["name"] for row in await assistants.search(ANN, terms, limit=10, **order)]

    assert await names(terms) == ["a%", "b"]
    assert await names(terms, descending=False) == ["b", "a%"]
    assert await names(terms, sort_by="name", descending=False) == ["a%", "b"]
    assert await names(AssistantFilter(GRAPH, "", {"team": "red"})) == ["b"]
    assert await names(AssistantFilter(name="%")) == ["a%"]
    assert await names(AssistantFilter(GRAPH, "c")) == ["C"]
    assert await assistants.count(ANN, terms) == 2
    assert await assistants.count(ANN, AssistantFilter(graph_id=OTHER)) == 1
    assert await assistants.count(BOB, terms) == 0


# --- runs ---


async def test_a_run_is_made_of_an_assistant_and_a_thread_that_are_the_callers(
    stage: Stage, assistants: Assistants
) -> None:
    mine = await made(assistants, metadata={"a": 1})
    thread = await stage.thread(ANN)
    await stage.threads.patch(ANN, thread, {"t": 2})
    await stage.sql('UPDATE holdfast.threads SET config = \'{"configurable": {"c": 3}}\'')
    row = await assistants.on_thread(ANN, mine, thread)
    assert (row["metadata"], row["thread_metadata"]) == ({"a": 1}, {"t": 2})
    assert row["thread_config"] == {"configurable": {"c": 3}}
    for caller, assistant_id, wanted in ((BOB, ASSISTANT, thread), (ANN, mine, uuid4()), (ANN, mine, None)):
        row = await assistants.on_thread(caller, assistant_id, wanted)
        assert (row["thread_metadata"], row["thread_config"]) == ({}, {})


async def test_a_waiting_run_keeps_its_graph_whatever_becomes_of_its_assistant(
    stage: Stage, assistants: Assistants
) -> None:
    mine = await made(assistants)
    for becomes in (
        assistants.patch(ANN, mine, AssistantChange(graph_id=OTHER)),
        assistants.delete(ANN, mine),
    ):
        run_id, _ = await stage.admit(await stage.thread(), assistant_id=mine)
        await becomes
        claim = await stage.claim()
        assert (claim.run_id, claim.graph_id, claim.assistant_id) == (run_id, GRAPH, mine)


async def test_an_assistants_threads_are_those_it_ran_on_last_and_the_caller_sees(
    stage: Stage, assistants: Assistants
) -> None:
    mine = await made(assistants)
    ran = await stage.thread(ANN)
    await stage.admit(ran, assistant_id=mine)
    await stage.admit(await stage.thread(ANN))
    foreign = await stage.thread(BOB)
    await stage.threads.patch(BOB, foreign, {"assistant_id": str(mine)})
    assert await assistants.threads(ANN, mine, limit=10) == [ran]
    await stage.runs.delete_thread(ANN, ran)
    assert await assistants.threads(ANN, mine, limit=10) == []
