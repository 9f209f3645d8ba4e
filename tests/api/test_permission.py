"""What a gate is asked about a request, and what becomes of its answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Annotated, Any, cast

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from holdfast.api import problems
from holdfast.api.auth import Action, Resource
from holdfast.api.deps import Services, may, read
from holdfast.api.responses import Json
from holdfast.rules.caller import LOCAL, Caller
from holdfast.settings import Settings
from holdfast.wire.runs import RunBatch
from tests.support.limits import unlimited

pytestmark = pytest.mark.anyio


@dataclass
class Stamping:
    """A gate that stamps what it is shown, and lets a caller see the rows of the team that the body names."""

    asks: bool = True
    shown: list[dict[str, Any]] = field(default_factory=list)

    async def admit(self, request: Request) -> Caller:
        del request
        return LOCAL

    async def allow(self, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> Caller:
        del resource, action
        self.shown.append(value)
        value["metadata"] = {"stamped": True}
        return replace(caller, filters=({"team": value["kwargs"].get("team")},))


@pytest.fixture
def gate() -> Stamping:
    return Stamping()


@pytest.fixture
def client(gate: Stamping) -> httpx.AsyncClient:
    """A client of one operation that takes a batch."""
    app = FastAPI()
    settings = Settings(max_body_bytes=10_000)
    catalog = SimpleNamespace(ids=lambda: ())
    parts = SimpleNamespace(gate=gate, settings=settings, catalog=catalog, limits=unlimited(settings))
    app.state.services = cast("Services", parts)
    problems.install(app)

    @app.post("/batch")
    async def batch(request: Request, who: Annotated[Caller, may("threads", "create_run")]) -> Response:
        bodies = await read(request, RunBatch)
        return Json({"metadata": [body.metadata for body in bodies.root], "filters": who.filters})

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here")


async def test_a_batch_is_asked_for_part_by_part(gate: Stamping, client: httpx.AsyncClient) -> None:
    answer = await client.post("/batch", json=[{"assistant_id": "a", "team": 1}, {"assistant_id": "b", "team": 1}])
    assert answer.json() == {"metadata": [{"stamped": True}] * 2, "filters": [{"team": 1}]}
    assert [part["assistant_id"] for part in gate.shown] == ["a", "b"]


async def test_a_batch_whose_parts_are_allowed_under_different_conditions_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/batch", json=[{"assistant_id": "a", "team": 1}, {"assistant_id": "b", "team": 2}])
    assert answer.status_code == 403


@pytest.mark.parametrize("body", [[], {}, [5], [{"assistant_id": "a"}, 5], 5, None])
async def test_what_is_no_batch_is_refused(client: httpx.AsyncClient, body: Any) -> None:
    assert (await client.post("/batch", json=body)).status_code == 422
