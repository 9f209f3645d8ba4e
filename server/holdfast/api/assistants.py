"""Assistants. An id may be a UUID or, friendlier than the official server, a graph's name."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request, Response

from holdfast.api.deps import Services, With, body_docs, may, read
from holdfast.api.responses import Json
from holdfast.db.assistants import system_assistant_id
from holdfast.errors import Invalid
from holdfast.rules.caller import Caller
from holdfast.wire.assistants import AssistantSearch, AssistantTerms, assistant_view
from holdfast.wire.pages import page_headers

router = APIRouter(prefix="/assistants", tags=["Assistants"])

MayRead = Annotated[Caller, may("assistants", "read")]
MaySearch = Annotated[Caller, may("assistants", "search")]


@router.post("/search", openapi_extra=body_docs(AssistantSearch), summary="Search assistants")
async def search(request: Request, with_: With, who: MaySearch) -> Response:
    terms = await read(request, AssistantSearch)
    rows = await with_.assistants.search(
        who,
        graph_id=terms.graph_id,
        name=terms.name,
        metadata=terms.metadata,
        limit=terms.limit + 1,
        offset=terms.offset,
    )
    shown = [assistant_view(row) for row in rows[: terms.limit]]
    return Json(shown, headers=page_headers(terms.offset, len(shown), more=len(rows) > terms.limit))


@router.post("/count", openapi_extra=body_docs(AssistantTerms), summary="Count assistants")
async def count(request: Request, with_: With, who: MaySearch) -> Response:
    terms = await read(request, AssistantTerms)
    rows = await with_.assistants.search(
        who, graph_id=terms.graph_id, name=terms.name, metadata=terms.metadata, limit=None
    )
    return Json(len(rows))


@router.get("/{assistant_id}", summary="Get an assistant")
async def get(assistant_id: str, with_: With, who: MayRead) -> Response:
    row = await with_.assistants.get(who, resolve(with_, assistant_id))
    return Json(assistant_view(row))


@router.get("/{assistant_id}/graph", summary="Draw an assistant's graph")
async def graph(assistant_id: str, with_: With, who: MayRead, xray: str = "false") -> Response:
    row = await with_.assistants.get(who, resolve(with_, assistant_id))
    return Json(await with_.catalog.drawing(row["graph_id"], xray=_xray(xray)))


@router.get("/{assistant_id}/schemas", summary="The schemas of an assistant's graph")
async def schemas(assistant_id: str, with_: With, who: MayRead) -> Response:
    row = await with_.assistants.get(who, resolve(with_, assistant_id))
    return Json(await with_.catalog.schemas(row["graph_id"]))


@router.get("/{assistant_id}/subgraphs", summary="The schemas of all subgraphs")
async def subgraphs(assistant_id: str, with_: With, who: MayRead, recurse: bool = False) -> Response:
    row = await with_.assistants.get(who, resolve(with_, assistant_id))
    return Json(await with_.catalog.subgraphs(row["graph_id"], recurse=recurse, namespace=None))


@router.get("/{assistant_id}/subgraphs/{namespace}", summary="The schemas of one subgraph")
async def subgraph(assistant_id: str, namespace: str, with_: With, who: MayRead, recurse: bool = False) -> Response:
    row = await with_.assistants.get(who, resolve(with_, assistant_id))
    return Json(await with_.catalog.subgraphs(row["graph_id"], recurse=recurse, namespace=namespace))


def resolve(with_: Services, assistant_id: str) -> UUID:
    """The id that a client means.

    Raises:
        Invalid: neither a UUID nor the name of a graph.
    """
    if assistant_id in with_.catalog.ids():
        return system_assistant_id(assistant_id)
    try:
        return UUID(assistant_id)
    except ValueError:
        names = ", ".join(sorted(with_.catalog.ids()))
        raise Invalid(
            f"Invalid assistant: '{assistant_id}'. Must be either: an assistant UUID, or one of the graphs: {names}"
        ) from None


def _xray(value: str) -> bool | int:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value.isdecimal() and len(value) < 4 and int(value) >= 1:
        return int(value)
    raise Invalid("Invalid xray value: must be true, false or an integer of at least 1")
