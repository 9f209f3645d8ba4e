"""Following a thread: the events of all its runs, whoever executes them and whenever they start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from holdfast.api.deps import With, uuid_of
from holdfast.api.documents import EVENTS, docs
from holdfast.api.responses import event_stream
from holdfast.api.runs import MayRead, last_event_id
from holdfast.db.events import Piece
from holdfast.wire import sse
from holdfast.wire.modes import THREAD_MODES, asked_modes

router = APIRouter(prefix="/threads/{thread_id}", tags=["Threads"])


@router.get(
    "/stream",
    summary="Follow a thread's events over all its runs, from Last-Event-ID on or live",
    **docs(
        answers=EVENTS,
        means="Events, until the client leaves: this stream has no end.",
        headers=("location",),
        sends=("Last-Event-ID",),
        refuses=(404,),
    ),
)
async def stream(
    thread_id: str,
    request: Request,
    with_: With,
    who: MayRead,
    stream_mode: Annotated[list[str] | None, Query(description="run_modes, lifecycle, state_update")] = None,
    stream_modes: Annotated[list[str] | None, Query(description="The same, as the official server calls it")] = None,
) -> Response:
    wanted = uuid_of(thread_id, "thread")
    modes = asked_modes([*(stream_mode or ()), *(stream_modes or ())], THREAD_MODES) or frozenset({"run_modes"})
    after = last_event_id(request)
    await with_.threads.standing(who, wanted)
    return event_stream(
        _frames(with_.events.follow_thread(who, wanted, after), modes),
        # The Python SDK reconnects here and leaves its parameters behind.
        headers={"location": f"/threads/{wanted}/stream?stream_mode={','.join(sorted(modes))}"},
        closing=with_.closing,
        is_endless=True,
    )


async def _frames(batches: AsyncIterator[list[Piece]], modes: frozenset[str]) -> AsyncIterator[list[bytes]]:
    async for pieces in batches:
        frames = [frame for piece in pieces for frame in _numbered(piece)]
        if passing := [frame for frame in frames if sse.thread_matches(sse.event_name(frame), modes)]:
            yield passing


def _numbered(piece: Piece) -> list[bytes]:
    return [
        sse.numbered(sse.run_done(said) if isinstance(said, UUID) else said, piece.at_ms, seq)
        for seq, said in enumerate(piece.said, piece.first_seq)
    ]
