"""The newest checkpoint is the one that was written last, however wrong the clocks of the hosts are."""

from __future__ import annotations

import operator
import time
from typing import Annotated, Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from holdfast.db.checkpointids import come_after
from holdfast.db.queue import Claimed
from holdfast.db.runs import RunEnd
from holdfast.rules.run import RunStatus
from tests.db.savers import config_for, config_of, saver
from tests.db.stage import Stage, outcome

pytestmark = pytest.mark.anyio

HOUR_NS = 3600 * 10**9


class Notes(TypedDict):
    log: Annotated[list[str], operator.add]


def a_host(monkeypatch: pytest.MonkeyPatch, *, fast_ns: int = 0) -> None:
    """From here on ids are made as by a process that has made none yet, on a host whose clock is fast."""
    now = time.time_ns
    monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", None)
    monkeypatch.setattr(checkpoint_ids, "time", type("Clock", (), {"time_ns": lambda: now() + fast_ns}))


async def noted(stage: Stage, claim: Claimed, note: str, start: RunnableConfig | None = None) -> None:
    graph = (
        StateGraph(Notes)
        .add_node("nothing", lambda _: {"log": []})
        .add_edge(START, "nothing")
        .compile(checkpointer=saver(stage, claim))
    )
    config: Any = config_of(claim)
    config["configurable"] |= (start or {}).get("configurable", {})
    await graph.ainvoke({"log": [note]}, config, durability="sync")
    await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome()))


async def test_a_host_whose_clock_is_behind_goes_on_after_what_another_host_wrote(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await stage.started()
    thread = first.thread_id
    a_host(monkeypatch, fast_ns=HOUR_NS)
    await noted(stage, first, "fast")
    a_host(monkeypatch)
    await noted(stage, await stage.started(thread), "slow")
    latest = await saver(stage).aget_tuple(config_for(thread))
    assert latest is not None
    assert latest.checkpoint["channel_values"]["log"] == ["fast", "slow"]


async def test_a_branch_from_an_older_checkpoint_comes_after_the_newest_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await stage.started()
    thread = first.thread_id
    a_host(monkeypatch)
    await noted(stage, first, "trunk")
    before = await saver(stage).aget_tuple(config_for(thread))
    assert before is not None
    a_host(monkeypatch, fast_ns=HOUR_NS)
    await noted(stage, await stage.started(thread), "fast")
    a_host(monkeypatch)
    await noted(stage, await stage.started(thread), "branch", before.config)
    latest = await saver(stage).aget_tuple(config_for(thread))
    assert latest is not None
    assert latest.checkpoint["channel_values"]["log"] == ["trunk", "branch"]


def test_ids_of_another_kind_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", None)
    come_after("not a uuid")
    come_after("0192d0f4-7a51-7000-8000-000000000000")
    assert checkpoint_ids._last_v6_timestamp is None
