"""Following a run: as a stream of events, or until its result is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from holdfast.api.cancelling import tell
from holdfast.api.deps import Services
from holdfast.api.idempotency import replayed
from holdfast.api.responses import LongAnswer, event_stream, slow_json
from holdfast.api.starting import Started
from holdfast.db.cancelling import CancelAction
from holdfast.errors import DatabaseUnavailable, HoldfastError, Missing
from holdfast.rules.caller import Caller
from holdfast.rules.run import ACTIVE, FAILED
from holdfast.wire import codec, sse
from holdfast.wire.modes import STREAM_MODES, asked_modes
from holdfast.wire.threads import result_view

FROM_THE_START = 0


def stream(
    with_: Services,
    who: Caller,
    run: Started,
    *,
    after: int | None = FROM_THE_START,
    modes: frozenset[str] | None = None,
    cancel_on_disconnect: bool = False,
    stateless: bool = False,
) -> LongAnswer:
    """The run's events from `after` on, filtered by stream mode where `modes` are given."""
    frames = _told(with_, who, run, after)
    which = content_location(run, stateless=stateless)
    # Who reconnects to the location leaves the parameters of the first request behind.
    asked = f"?stream_mode={','.join(sorted(modes))}" if modes else ""
    return event_stream(
        _filtered(frames, modes) if modes else frames,
        headers={**which, **replayed(run.repeated), "location": f"{which['content-location']}/stream{asked}"},
        closing=with_.closing,
        on_disconnect=_cancelling(with_, who, run) if cancel_on_disconnect else None,
    )


def wait(with_: Services, who: Caller, run: Started, *, cancel_on_disconnect: bool = False) -> LongAnswer:
    """The run's result when it is there."""
    return slow_json(
        result(with_, who, run),
        headers={**content_location(run), **replayed(run.repeated), "location": f"{_path(run)}/join"},
        closing=with_.closing,
        on_disconnect=_cancelling(with_, who, run) if cancel_on_disconnect else None,
    )


def stopped(with_: Services, who: Caller, run: Started) -> LongAnswer:
    """`{}` when a cancelled run has stopped: whatever its graph does at that moment may take its time."""

    async def nothing() -> bytes:
        await result(with_, who, run)
        return b"{}"

    return slow_json(nothing(), headers={"location": f"{_path(run)}/join"}, closing=with_.closing)


async def result(with_: Services, who: Caller, run: Started) -> bytes:
    """The final values as JSON; a failed run answers `{"__error__": ...}`, and the HTTP status stays 200."""
    try:
        ready = await with_.events.result(who, run.run_id)
        return ready if ready is not None else await _stored_result(with_, who, run)
    except DatabaseUnavailable:
        # The run goes on: an answer that breaks off says so, and the client joins it again.
        raise
    except HoldfastError as error:
        # The status line went out long ago; this is how the API fails late.
        return codec.dumps({"__error__": codec.error_body(error)})


async def cancel(with_: Services, who: Caller, run: Started, action: CancelAction) -> None:
    """Ask a run to stop; a worker that has to be told is told."""
    tell(with_, await with_.runs.cancel_these(who, run.thread_id, [run.run_id], action))


def content_location(run: Started, *, stateless: bool = False) -> dict[str, str]:
    """Which run this answer is about; clients take the id from here."""
    return {"content-location": f"/runs/{run.run_id}" if stateless else _path(run)}


def join_modes(asked: list[str]) -> frozenset[str] | None:
    """The filter of a join, as `asked_modes` reads it; None for all.

    Raises:
        Invalid: an unknown mode.
    """
    return asked_modes(asked, STREAM_MODES) or None


async def _told(with_: Services, who: Caller, run: Started, after: int | None) -> AsyncIterator[list[bytes]]:
    """The run's frames; of a run that ended and whose log has expired, at least how it ended."""
    silent = after is not None
    async for frames in with_.events.follow(who, run.run_id, after):
        silent = False
        yield frames
    if not silent or not await with_.events.is_silent(run.run_id):
        return
    row = await with_.runs.find(who, run.run_id)
    if row is None or not row["has_run"] or row["status"] in ACTIVE:
        return
    if row["error"] is not None and row["status"] in FAILED:
        yield [sse.frame("error", codec.dumps(row["error"]), None)]
    else:
        yield [sse.run_done(run.run_id)]


async def _filtered(frames: AsyncIterator[list[bytes]], modes: frozenset[str]) -> AsyncIterator[list[bytes]]:
    async for batch in frames:
        if passing := [frame for frame in batch if sse.matches(sse.event_name(frame), modes)]:
            yield passing


async def _stored_result(with_: Services, who: Caller, run: Started) -> bytes:
    row = await with_.runs.find(who, run.run_id, run.thread_id)
    if row is not None and row["error"] is not None and row["status"] in FAILED:
        return codec.dumps({"__error__": row["error"]})
    thread = await with_.threads.result(who, run.thread_id)
    if thread is None:
        raise Missing(f"Thread with ID {run.thread_id} not found")
    return result_view(thread)


def _cancelling(with_: Services, who: Caller, run: Started) -> Callable[[], Awaitable[None]]:
    async def cancel_run() -> None:
        try:
            await cancel(with_, who, run, "interrupt")
        except Missing:
            return  # It had ended by itself.

    return cancel_run


def _path(run: Started) -> str:
    return f"/threads/{run.thread_id}/runs/{run.run_id}"
