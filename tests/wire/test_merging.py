"""What a run is made of: assistant, thread and request, one above the other."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.errors import BadRequest
from holdfast.wire.assistants import AssistantCreate, AssistantPatch
from holdfast.wire.merging import (
    RESERVED_CONFIGURABLE,
    RESERVED_METADATA,
    merged_config,
    merged_metadata,
    mirrored,
    unreserved,
)

RESERVED = [*sorted(RESERVED_CONFIGURABLE), "__otel_trace__"]


def test_a_later_layer_wins_key_by_key() -> None:
    config = merged_config(
        {"tags": ["a"], "recursion_limit": 5, "configurable": {"a": 1, "b": 1, "c": 1, "d": 1}},
        {"configurable": {"b": 2, "c": 2, "d": 2}},
        {"tags": ["r"], "recursion_limit": None, "metadata": {}},
        {"c": 3, "d": 3},
        {"d": 4},
    )
    assert config == {
        "tags": ["r"],
        "recursion_limit": 5,
        "metadata": {},
        "configurable": {"a": 1, "b": 2, "c": 3, "d": 4},
    }
    assert merged_config({}, {}, {"tags": None}, {}, {}) == {"configurable": {}}


def test_metadata_is_laid_over_with_the_assistants_id_on_top() -> None:
    layers = [{"a": 1, "b": 1, "c": 1, "d": 1}, {"b": 2, "c": 2, "d": 2}, {"c": 3, "d": 3}, {"d": 4}]
    assert merged_metadata("me", *layers) == {"a": 1, "b": 2, "c": 3, "d": 4, "assistant_id": "me"}


@pytest.mark.parametrize("layer", range(4))
def test_no_layer_of_metadata_can_name_an_id(layer: int) -> None:
    layers: list[dict[str, Any]] = [{}, {}, {}, {}]
    layers[layer] = {**dict.fromkeys(RESERVED_METADATA, "forged"), "kept": 1}
    assert merged_metadata("me", *layers) == {"kept": 1, "assistant_id": "me"}


def test_the_graph_a_thread_ran_before_is_not_the_graph_of_the_next_run() -> None:
    assert merged_metadata("me", {}, {"graph_id": "old", "owner": "ada"}, {}, {}) == {
        "owner": "ada",
        "assistant_id": "me",
    }


@pytest.mark.parametrize("key", RESERVED)
def test_a_reserved_key_is_dropped_from_every_layer(key: str) -> None:
    forged = {key: "forged", "kept": 1}
    assert unreserved(forged) == {"kept": 1}
    assert mirrored(forged, None) == mirrored(None, forged) == ({"kept": 1}, {"kept": 1})
    stored = {"configurable": forged}
    assert merged_config(stored, stored, {}, {}, {}) == {"configurable": {"kept": 1}}


def test_only_the_server_names_reserved_keys() -> None:
    assert merged_config({}, {}, {}, {}, {"langgraph_request_id": "r"})["configurable"] == {"langgraph_request_id": "r"}
    assert unreserved({"__otel_": 1, "otel": 2}) == {"__otel_": 1, "otel": 2}


@pytest.mark.parametrize("key", ["thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map"])
def test_where_a_run_takes_place_comes_from_its_request_alone_and_is_no_context(key: str) -> None:
    preset = {"configurable": {key: "preset"}}
    assert merged_config(preset, preset, {}, {key: "asked"}, {})["configurable"] == {key: "asked"}
    assert merged_config(preset, preset, {}, {}, {})["configurable"] == {}
    assert mirrored({key: "asked", "a": 1}, {}) == ({key: "asked", "a": 1}, {"a": 1})
    assert mirrored({key: "asked"}, {"a": 1}) == ({key: "asked", "a": 1}, {"a": 1})
    assert mirrored({}, {key: "said", "a": 1}) == ({"a": 1}, {key: "said", "a": 1})


def test_configurable_and_context_are_two_names_for_one_thing() -> None:
    assert mirrored(None, None) == mirrored({}, None) == mirrored(None, {}) == ({}, {})
    assert mirrored({"a": 1}, {}) == mirrored({}, {"a": 1}) == ({"a": 1}, {"a": 1})
    for configurable, context in (({"a": 1}, {"b": 2}), ({"a": 1}, {"a": 1})):
        with pytest.raises(BadRequest, match="both configurable and context"):
            mirrored(configurable, context)
    assert mirrored({"langgraph_auth_user": 1}, {"a": 1}) == ({"a": 1}, {"a": 1})


@pytest.mark.parametrize(
    ("given", "config", "context"),
    [
        ({}, {}, {}),
        ({"config": None, "context": None}, {}, {}),
        ({"context": {"a": 1}}, {"configurable": {"a": 1}}, {"a": 1}),
        ({"config": {"configurable": {"a": 1}}}, {"configurable": {"a": 1}}, {"a": 1}),
        ({"config": {"tags": ["t"]}, "context": {"a": 1}}, {"tags": ["t"], "configurable": {"a": 1}}, {"a": 1}),
        ({"config": {"tags": ["t"], "configurable": None, "unknown": 1}}, {"tags": ["t"]}, {}),
        ({"config": {"configurable": {"langgraph_auth_user": 1}}}, {}, {}),
    ],
)
def test_a_new_assistant_has_both(given: dict[str, Any], config: dict[str, Any], context: dict[str, Any]) -> None:
    assert AssistantCreate(graph_id="g", **given).settings() == (config, context)


@pytest.mark.parametrize(
    ("given", "config", "context"),
    [
        ({}, None, None),
        ({"context": {}}, None, {}),
        ({"context": {"a": 1}}, None, {"a": 1}),
        ({"config": {}}, {}, None),
        ({"config": {"tags": []}}, {"tags": []}, None),
        ({"config": {"configurable": {}}}, {}, {}),
        ({"config": {"configurable": {"a": 1}}}, {"configurable": {"a": 1}}, {"a": 1}),
        (
            {"config": {"recursion_limit": 3}, "context": {"a": 1}},
            {"recursion_limit": 3, "configurable": {"a": 1}},
            {"a": 1},
        ),
    ],
)
def test_a_patch_has_what_it_says(given: dict[str, Any], config: Any, context: Any) -> None:
    assert AssistantPatch(**given).settings() == (config, context)


def test_what_steers_langgraphs_loop_comes_from_no_request() -> None:
    given = {"__pregel_send": 1, "__pregel_resume_map": {}, "__pregel_resuming": True, "mine": 1}
    assert unreserved(given) == {"__pregel_resuming": True, "mine": 1}
