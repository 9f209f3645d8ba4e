"""Server-sent events, byte for byte: `event`, one `data` line, an optional `id`, CRLF throughout.

Frames are made once, when an event happens, and then travel as bytes: to the followers in this process, into the event
log as blocks of concatenated frames, and out of it again. Data is JSON from `codec.dumps`, so no frame holds a raw CR
or LF and a block can be cut at its blank lines.

Only the frames of resumable runs carry an id. In the stream of a thread every frame has one: `numbered` adds it from
what the log says of the frame, so that it is the same at every reading.
"""

from __future__ import annotations

import re
from uuid import UUID

HEARTBEAT = b": heartbeat\r\n\r\n"

_END = b"\r\n\r\n"
_EVENT_ID = re.compile(r"\d{1,16}-(\d{1,18})", re.ASCII)
_FROM_THE_START = frozenset({"-1", "-", "0"})


def frame(event: str, data: bytes, event_id: str | None) -> bytes:
    """One event; `data` is JSON without line breaks."""
    name = event.encode(errors="replace")
    if event_id is None:
        return b"event: %b\r\ndata: %b\r\n\r\n" % (name, data)
    return b"event: %b\r\ndata: %b\r\nid: %b\r\n\r\n" % (name, data, event_id.encode())


def numbered(frame: bytes, ms: int, seq: int) -> bytes:
    """The frame with an id; its own, if it has one."""
    if b"\r\nid: " in frame:
        return frame
    return b"%bid: %b%b" % (frame.removesuffix(b"\r\n"), event_id(ms, seq).encode(), _END)


def run_done(run_id: UUID) -> bytes:
    """What the stream of a thread says at the end of a run."""
    return frame("metadata", b'{"status":"run_done","run_id":"%b"}' % str(run_id).encode(), None)


def event_name(frame: bytes) -> str:
    """The name in a frame; "" for a heartbeat."""
    line, _, _ = frame.partition(b"\r\n")
    return line.removeprefix(b"event: ").decode() if line.startswith(b"event: ") else ""


def data(frame: bytes) -> bytes:
    """The JSON in a frame."""
    return frame.split(b"\r\n", 2)[1].removeprefix(b"data: ")


def split(block: bytes) -> list[bytes]:
    """The frames of a block, each with its ending. Raises `ValueError` for a block that was cut short."""
    *frames, rest = block.split(_END)
    if rest:
        raise ValueError("The event block ends in the middle of a frame")
    return [frame + _END for frame in frames]


def event_id(ms: int, seq: int) -> str:
    """`<ms>-<seq>`: the time for people, the sequence number for order and resumption."""
    return f"{ms}-{seq}"


def parse_last_event_id(value: str | None) -> int | None:
    """The sequence number to resume after: 0 = from the start, None = no header, live events only.

    Raises `ValueError` for what is neither `<ms>-<seq>` nor one of `-1`, `-`, `0`; the text is the official server's.
    """
    if value is None:
        return None
    if value in _FROM_THE_START:
        return 0
    match = _EVENT_ID.fullmatch(value)
    if match is None:
        raise ValueError("Invalid last-event-id: must be a valid Redis stream ID")
    return int(match[1])


def matches(event_name: str, modes: frozenset[str]) -> bool:
    """Does a follower who asked for `modes` get this event? Errors always pass."""
    head, _, _ = event_name.partition("|")
    if head == "error":
        return True
    if head == "messages":
        return "messages-tuple" in modes
    return head.partition("/")[0] in modes


def thread_matches(event_name: str, modes: frozenset[str]) -> bool:
    """Does a follower of a thread who asked for `modes` get this event?"""
    if event_name == "state_update":
        return "state_update" in modes
    return "run_modes" in modes or ("lifecycle" in modes and event_name == "metadata")
