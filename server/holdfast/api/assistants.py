"""Assistants. An id may be a UUID or, friendlier than the official server, a graph's name."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, TypeVar
from uuid import UUID, uuid4

from fastapi import APIRouter, Query, Request, Response

from holdfast.api.deps import Permission, Services, With, may, read
from holdfast.api.documents import PAGED, docs
from holdfast.api.responses import Json
from holdfast.db.assistants import AssistantChange, AssistantFilter, system_assistant_id
from holdfast.errors import Invalid, Missing, UnknownGraph
from holdfast.rules.caller import Caller
from holdfast.wire.assistants import (
    Assistant,
    AssistantCreate,
    AssistantPatch,
    AssistantSearch,
    AssistantTerms,
    AssistantVersion,
    Drawing,
    GraphSchemas,
    LatestVersion,
    Subgraphs,
    VersionSearch,
    assistant_view,
    version_view,
)
from holdfast.wire.merging import own_metadata
from holdfast.wire.pages import page_headers
from holdfast.wire.threads import searchable

router = APIRouter(prefix="/assistants", tags=["Assistants"])

MayCreate = Annotated[Caller, may("assistants", "create")]
MayRead = Annotated[Caller, may("assistants", "read")]
MayUpdate = Annotated[Caller, may("assistants", "update")]
MayDelete = Annotated[Caller, may("assistants", "delete")]
MaySearch = Annotated[Caller, may("assistants", "search")]

DeleteThreads = Annotated[bool, Query(description="Delete the threads that it ran on, too")]
Recurse = Annotated[bool, Query(description="Subgraphs of subgraphs, too")]
Xray = Annotated[
    str,
    Query(
        description="`true`: draw the inside of subgraphs; a number: down to that depth",
        json_schema_extra={"pattern": "^(true|false|[1-9][0-9]{0,2})$"},
    ),
]

T = TypeVar("T")

THREADS_AT_ONCE = 100


@router.post(
    "",
    summary="Create an assistant",
    **docs(takes=AssistantCreate, answers=Assistant, refuses=(400, 404, 409)),
)
async def create(request: Request, with_: With, who: MayCreate) -> Response:
    body = await read(request, AssistantCreate)
    _known_graph(with_, body.graph_id)
    config, context = body.settings()
    row = await with_.assistants.create(
        who,
        body.assistant_id or uuid4(),
        graph_id=body.graph_id,
        config=_text_of("config", config),
        context=_text_of("context", context),
        metadata=_text_of("metadata", own_metadata(body.metadata)),
        name=_text_of("name", body.name),
        description=_text_of("description", body.description),
        or_keep=body.if_exists == "do_nothing",
    )
    return Json(assistant_view(row))


@router.post(
    "/search",
    summary="Search assistants",
    **docs(takes=AssistantSearch, answers=list[Assistant], headers=PAGED, partly=True),
)
async def search(request: Request, with_: With, who: MaySearch) -> Response:
    body = await read(request, AssistantSearch)
    rows = await with_.assistants.search(
        who,
        _filter(body),
        limit=body.limit + 1,
        offset=body.offset,
        sort_by=body.sort_by,
        descending=body.sort_order == "desc",
    )
    shown = [assistant_view(row, body.select) for row in rows[: body.limit]]
    return Json(shown, headers=page_headers(body.offset, len(shown), more=len(rows) > body.limit))


@router.post("/count", summary="Count assistants", **docs(takes=AssistantTerms, answers=int))
async def count(request: Request, with_: With, who: MaySearch) -> Response:
    return Json(await with_.assistants.count(who, _filter(await read(request, AssistantTerms))))


@router.get("/{assistant_id}", summary="Get an assistant", **docs(answers=Assistant, refuses=(404,)))
async def get(assistant_id: str, with_: With, who: MayRead) -> Response:
    row = await with_.assistants.get(who, resolve(with_, assistant_id))
    return Json(assistant_view(row))


@router.patch(
    "/{assistant_id}",
    summary="Make a new version of an assistant",
    **docs(takes=AssistantPatch, answers=Assistant, refuses=(400, 404)),
)
async def patch(assistant_id: str, request: Request, with_: With, who: MayUpdate) -> Response:
    body = await read(request, AssistantPatch)
    wanted = resolve(with_, assistant_id)
    if body.graph_id is not None:
        _known_graph(with_, body.graph_id)
    config, context = body.settings()
    change = AssistantChange(
        graph_id=body.graph_id,
        config=_text_of("config", config),
        context=_text_of("context", context),
        metadata=_text_of("metadata", own_metadata(body.metadata)),
        name=_text_of("name", body.name),
        description=_text_of("description", body.description),
    )
    return Json(assistant_view(await with_.assistants.patch(who, wanted, change)))


@router.delete(
    "/{assistant_id}",
    status_code=204,
    summary="Delete an assistant, and its threads if asked to",
    **docs(status=204, refuses=(404,)),
)
async def delete(
    assistant_id: str, request: Request, with_: With, who: MayDelete, delete_threads: DeleteThreads = False
) -> Response:
    wanted = resolve(with_, assistant_id)
    if delete_threads:
        # Threads first: should this break off, the assistant is still there to try it again with.
        await with_.assistants.check_deletable(who, wanted)
        await _delete_threads(with_, await Permission("threads", "delete")(request, with_), wanted)
    await with_.assistants.delete(who, wanted)
    return Response(status_code=204)


@router.post(
    "/{assistant_id}/versions",
    summary="An assistant's versions",
    **docs(takes=VersionSearch, answers=list[AssistantVersion], refuses=(404,)),
)
async def versions(assistant_id: str, request: Request, with_: With, who: MayRead) -> Response:
    body = await read(request, VersionSearch)
    searchable(body.metadata, "metadata")
    rows = await with_.assistants.versions(
        who, resolve(with_, assistant_id), metadata=body.metadata, limit=body.limit, offset=body.offset
    )
    return Json([version_view(row) for row in rows])


@router.post(
    "/{assistant_id}/latest",
    summary="Go back to an earlier version",
    **docs(takes=LatestVersion, answers=Assistant, refuses=(404,)),
)
async def set_latest(
    assistant_id: str,
    request: Request,
    with_: With,
    who: MayUpdate,
    version: Annotated[int | None, Query(description="In place of a body")] = None,
) -> Response:
    wanted = resolve(with_, assistant_id)
    number = (await read(request, LatestVersion)).version if version is None else version
    return Json(assistant_view(await with_.assistants.set_latest(who, wanted, number)))


@router.get("/{assistant_id}/graph", summary="Draw an assistant's graph", **docs(answers=Drawing, refuses=(400, 404)))
async def graph(assistant_id: str, with_: With, who: MayRead, xray: Xray = "false") -> Response:
    row = await with_.assistants.get(who, resolve(with_, assistant_id))
    drawn = await with_.catalog.drawing(
        row["graph_id"], xray=_xray(xray), configurable=row["config"].get("configurable")
    )
    return Json(drawn)


@router.get(
    "/{assistant_id}/schemas",
    summary="The schemas of an assistant's graph",
    **docs(answers=GraphSchemas, refuses=(400, 404)),
)
async def schemas(assistant_id: str, with_: With, who: MayRead) -> Response:
    row = await with_.assistants.get(who, resolve(with_, assistant_id))
    return Json(await with_.catalog.schemas(row["graph_id"], configurable=row["config"].get("configurable")))


@router.get(
    "/{assistant_id}/subgraphs",
    summary="The schemas of all subgraphs",
    **docs(answers=Subgraphs, refuses=(400, 404)),
)
async def subgraphs(assistant_id: str, with_: With, who: MayRead, recurse: Recurse = False) -> Response:
    return await _subgraphs(assistant_id, None, with_, who, recurse)


@router.get(
    "/{assistant_id}/subgraphs/{namespace}",
    summary="The schemas of one subgraph",
    **docs(answers=Subgraphs, refuses=(400, 404)),
)
async def subgraph(assistant_id: str, namespace: str, with_: With, who: MayRead, recurse: Recurse = False) -> Response:
    return await _subgraphs(assistant_id, namespace, with_, who, recurse)


async def _subgraphs(assistant_id: str, namespace: str | None, with_: Services, who: Caller, recurse: bool) -> Response:
    row = await with_.assistants.get(who, resolve(with_, assistant_id))
    found = await with_.catalog.subgraphs(
        row["graph_id"], recurse=recurse, namespace=namespace, configurable=row["config"].get("configurable")
    )
    return Json(found)


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


async def _delete_threads(with_: Services, who: Caller, assistant_id: UUID) -> None:
    while found := await with_.assistants.threads(who, assistant_id, limit=THREADS_AT_ONCE):
        for thread_id in found:
            with suppress(Missing):  # somebody else was faster
                for run in await with_.runs.delete_thread(who, thread_id):
                    with_.bell.ring("cancel", run)
        with_.dispatcher.look_for_cancels()


def _known_graph(with_: Services, graph_id: str) -> None:
    if graph_id not in with_.catalog.ids():
        raise Missing(str(UnknownGraph(graph_id, with_.catalog.ids())))


def _filter(terms: AssistantTerms) -> AssistantFilter:
    return AssistantFilter(
        graph_id=_text_of("graph_id", terms.graph_id),
        name=_text_of("name", terms.name),
        metadata=_text_of("metadata", terms.metadata),
    )


def _text_of(field: str, value: T) -> T:
    """The value, which Postgres can hold as text or JSONB."""
    searchable(value, field)
    return value


def _xray(value: str) -> bool | int:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value.isdecimal() and len(value) < 4 and int(value) >= 1:
        return int(value)
    raise Invalid("Invalid xray value: must be true, false or an integer of at least 1")
