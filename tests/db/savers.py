"""Savers over a stage: ours and the stock one, and what they have written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from holdfast.db.checkpoints import FencedSaver
from holdfast.db.queue import Claimed
from tests.db.stage import CHECKPOINT_TABLES, Stage


def saver(stage: Stage, claim: Claimed | None = None) -> FencedSaver:
    return FencedSaver(stage.database, fence=claim.fence if claim else None, committer=stage.saves)


@asynccontextmanager
async def stock(stage: Stage) -> AsyncIterator[AsyncPostgresSaver]:
    async with AsyncPostgresSaver.from_conn_string(stage.url) as plain:
        yield plain


def config_of(claim: Claimed) -> RunnableConfig:
    """What `worker/execute.py` gives a graph, as far as a saver cares."""
    configurable = {"thread_id": str(claim.thread_id), "checkpoint_ns": "", "run_id": str(claim.run_id)}
    return {"configurable": configurable, "metadata": {"run_id": str(claim.run_id)}, "run_id": claim.run_id}


def checkpoint_with(values: dict[str, Any], step: int = 0) -> tuple[Checkpoint, dict[str, Any]]:
    versions: dict[str, Any] = dict.fromkeys(values, f"{step:032}.0")
    made = empty_checkpoint() | {"id": str(uuid6(clock_seq=step)), "channel_values": values}
    return made | {"channel_versions": versions}, versions  # type: ignore[return-value]


async def put(
    by: BaseCheckpointSaver[Any], config: RunnableConfig, values: dict[str, Any], step: int = 0
) -> RunnableConfig:
    checkpoint, versions = checkpoint_with(values, step)
    return await by.aput(config, checkpoint, {"source": "loop", "step": step, "run_id": "r"}, versions)


async def rows(stage: Stage) -> dict[str, list[Any]]:
    return {table: await stage.sql(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4, 5") for table in CHECKPOINT_TABLES}


def config_for(thread_id: UUID) -> RunnableConfig:
    return {"configurable": {"thread_id": str(thread_id), "checkpoint_ns": ""}}
