"""The store: items that outlive their threads, in namespaces. What nodes reach as `runtime.store` is the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from langgraph.store.base import NOT_PROVIDED

from holdfast.api.deps import With, left_by_gate, may, read, shaped
from holdfast.api.documents import docs
from holdfast.api.responses import Json
from holdfast.errors import BadRequest
from holdfast.rules.caller import Caller
from holdfast.wire.store import (
    Asked,
    FoundItems,
    ItemKey,
    ItemOrNull,
    ItemPut,
    ItemRead,
    ItemSearch,
    Namespaces,
    NamespaceSearch,
    dotted,
    found_view,
    item_view,
)

router = APIRouter(prefix="/store", tags=["Store"])


def _asking(model: type[Asked]) -> Callable[[Request], Awaitable[dict[str, Any]]]:
    """What authorization handlers are shown, and may rewrite: the operation in their words (`namespace`, a tuple)."""

    async def about(request: Request) -> dict[str, Any]:
        asked = shaped(_query(request), model) if request.method == "GET" else await read(request, model)
        return asked.model_dump()

    return about


MayPut = Annotated[Caller, may("store", "put", _asking(ItemPut))]
MayGet = Annotated[Caller, may("store", "get", _asking(ItemRead))]
MayDelete = Annotated[Caller, may("store", "delete", _asking(ItemKey))]
MaySearch = Annotated[Caller, may("store", "search", _asking(ItemSearch))]
MayList = Annotated[Caller, may("store", "list_namespaces", _asking(NamespaceSearch))]


_TEXT = {"type": "string", "minLength": 1}
PLACE: list[dict[str, Any]] = [
    {
        "name": "namespace",
        "in": "query",
        "required": True,
        "description": "The labels of the namespace, joined by dots or one by one.",
        "schema": {"type": "array", "items": _TEXT, "minItems": 1},
    },
    {"name": "key", "in": "query", "required": True, "schema": _TEXT},
    {
        "name": "refresh_ttl",
        "in": "query",
        "description": "Whether this read prolongs the item's life.",
        "schema": {"type": "boolean"},
    },
]
"""Where an item is, as a query says it; `_query` reads it."""


@router.put(
    "/items",
    status_code=204,
    summary="Store or replace an item",
    **docs(takes=ItemPut, status=204, refuses=(400, 502)),
)
async def put(request: Request, with_: With, who: MayPut) -> Response:
    body = await read(request, ItemPut)
    store = with_.stores.of(who.owner)
    if body.ttl is not None and not store.supports_ttl:
        raise BadRequest("The store of this project keeps items for ever: ttl is not supported")
    ttl = NOT_PROVIDED if body.ttl is None else body.ttl
    await store.aput(body.place, body.key, body.value, index=body.index, ttl=ttl)
    return Response(status_code=204)


@router.get("/items", summary="An item, or null", **docs(answers=ItemOrNull, refuses=(400,), sends=PLACE))
async def get(request: Request, with_: With, who: MayGet) -> Response:
    left = left_by_gate(request)
    asked = shaped(_query(request) if left is None else left, ItemRead)
    item = await with_.stores.of(who.owner).aget(asked.place, asked.key, refresh_ttl=asked.refresh_ttl)
    return Json(item and item_view(item))


@router.delete(
    "/items",
    status_code=204,
    summary="Delete an item, if it is there",
    **docs(takes=ItemKey, status=204, refuses=(400,)),
)
async def delete(request: Request, with_: With, who: MayDelete) -> Response:
    body = await read(request, ItemKey)
    await with_.stores.of(who.owner).adelete(body.place, body.key)
    return Response(status_code=204)


@router.post("/items/search", summary="Search items", **docs(takes=ItemSearch, answers=FoundItems, refuses=(502,)))
async def search(request: Request, with_: With, who: MaySearch) -> Response:
    body = await read(request, ItemSearch)
    found = await with_.stores.of(who.owner).asearch(
        body.namespace,
        query=body.query,
        filter=body.filter,
        limit=body.limit,
        offset=body.offset,
        refresh_ttl=body.refresh_ttl,
    )
    return Json({"items": [found_view(item) for item in found]})


@router.post("/namespaces", summary="List namespaces", **docs(takes=NamespaceSearch, answers=Namespaces))
async def namespaces(request: Request, with_: With, who: MayList) -> Response:
    body = await read(request, NamespaceSearch)
    found = await with_.stores.of(who.owner).alist_namespaces(
        prefix=body.namespace, suffix=body.suffix, max_depth=body.max_depth, limit=body.limit, offset=body.offset
    )
    return Json({"namespaces": [list(namespace) for namespace in found]})


def _query(request: Request) -> dict[str, Any]:
    """An item's place as a query gives it.

    Raises:
        BadRequest: it names no key.
    """
    query = request.query_params
    if not query.get("key"):
        raise BadRequest("Key is required")
    return {
        "namespace": dotted(query.getlist("namespace")),
        "key": query["key"],
        "refresh_ttl": query.get("refresh_ttl"),
    }
