"""What one writes without an agent server: FastAPI over LangGraph's own Postgres saver, as its documentation shows it.

    DATABASE_URL=... python -m uvicorn bench.handrolled:app

No run record, no queue, no lease, no rejoin: a process that dies takes its runs along.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.pregel import Pregel

from bench.project import graphs

Body = dict[str, Any]


@asynccontextmanager
async def _saved(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncPostgresSaver.from_conn_string(os.environ["DATABASE_URL"]) as saver:
        await saver.setup()
        app.state.graphs = {name: copy.copy(getattr(graphs, name)) for name in ("agent", "delta", "state")}
        for graph in app.state.graphs.values():
            graph.checkpointer = saver
        yield


app = FastAPI(lifespan=_saved)


@app.get("/ok")
async def ok() -> Body:
    return {"ok": True}


@app.post("/threads")
async def create_thread() -> Body:
    return {"thread_id": str(uuid4())}


@app.post("/threads/{thread_id}/runs/wait")
async def wait(thread_id: str, body: Body, request: Request) -> Body:
    values: Body = await _graph(request, body).ainvoke(body["input"], _config(thread_id, body))
    return {name: _plain(value) for name, value in values.items()}


@app.post("/threads/{thread_id}/runs/stream")
async def stream(thread_id: str, body: Body, request: Request) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        async for chunk, metadata in _graph(request, body).astream(
            body["input"], _config(thread_id, body), stream_mode="messages"
        ):
            yield f"event: messages\r\ndata: {json.dumps([_plain(chunk), metadata])}\r\n\r\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def _graph(request: Request, body: Body) -> Pregel[Any, Any, Any, Any]:
    found: Pregel[Any, Any, Any, Any] = request.app.state.graphs[body["assistant_id"]]
    return found


def _config(thread_id: str, body: Body) -> RunnableConfig:
    asked = body.get("config", {}).get("configurable", {})
    return {"configurable": {**asked, "thread_id": thread_id}}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump() if isinstance(value, BaseMessage) else value
