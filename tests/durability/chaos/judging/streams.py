"""What followers saw, live and later, against the replay of each run when everything is over.

Theory of operation. Frames carry ids, `<ms>-<number>`, whose numbers grow. Whoever followed a run has seen a piece of
it without holes, with the bytes of the replay. One thing may have been seen that the replay lacks: the last frames of
an attempt, when its process died before they were logged. The next attempt begins at a higher number, with a
`metadata` frame, and those numbers are never given again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from tests.durability.chaos.evidence import Evidence, Line
from tests.durability.chaos.judging.runs import ACTIVE


def out_of_order(evidence: Evidence) -> Iterator[str]:
    """Connections, to a run or a thread, whose ids do not grow."""
    for op, frames in _connections(evidence).items():
        numbers = [_number(frame["id"]) for frame in frames]
        if any(second <= first for first, second in pairwise(numbers)):
            yield f"{op}: {numbers}"
    for thread, view in evidence.threads.items():
        for run, frames in view.replays.items():
            numbers = [number for number, _ in _numbered(frames)]
            if any(second <= first for first, second in pairwise(numbers)):
                yield f"replay of {run} of thread {thread}: {numbers}"


def different(evidence: Evidence) -> Iterator[str]:
    """Frames that were seen otherwise than they are replayed, or by others under the same id."""
    seen: dict[tuple[str, str], str] = {}
    for op, frames in _connections(evidence).items():
        for frame in frames:
            place = (evidence.asked[op]["thread"], frame["id"])
            if seen.setdefault(place, frame["raw"]) != frame["raw"]:
                yield f"{op}: {frame['id']} is {frame['raw'][:200]!r}, and was {seen[place][:200]!r}"
    for thread, view in evidence.threads.items():
        for raw in (raw for frames in view.replays.values() for raw in frames if "\r\nid: " in raw):
            live = seen.get((thread, raw.rpartition("\r\nid: ")[2]))
            if live is not None and live != raw:
                yield f"thread {thread}: {live[:200]!r} is replayed as {raw[:200]!r}"


def holes(evidence: Evidence) -> Iterator[str]:
    """Frames between the first and the last that a connection saw, which the replay has and the connection did not."""
    for op, frames, replay in _of_runs(evidence):
        numbers = {_number(frame["id"]) for frame in frames}
        first, last = min(numbers), max(numbers)
        missed = [number for number, _ in replay if first < number < last and number not in numbers]
        if missed:
            yield f"{op}: {frames[0]['run']} without {missed}"


def vanished(evidence: Evidence) -> Iterator[str]:
    """Frames that a follower saw and the replay lacks, other than the last of an attempt that died."""
    for op, frames, replay in _of_runs(evidence):
        logged = {number for number, _ in replay}
        begins = [number for number, raw in replay if raw.startswith("event: metadata\r\n")]
        for frame in frames:
            number = _number(frame["id"])
            if number in logged:
                continue
            later = [begin for begin in begins if begin > number]
            if not later or any(number < each < later[0] for each in logged):
                yield f"{op}: {frame['run']} showed {frame['id']}, which is not in its log"


def ended_early(evidence: Evidence) -> Iterator[str]:
    """Streams and results that came to a proper end while the run went on, or before its last frame."""
    replays = {run: _numbered(frames) for view in evidence.threads.values() for run, frames in view.replays.items()}
    for line in evidence.observations:
        if line["what"] != "closed" or line["how"] != "clean" or line["run"] is None:
            continue
        if line["status"] in ACTIVE:
            yield f"{line['op']}: ended while run {line['run']} was {line['status']}"
        frames = _connections(evidence).get(line["op"])
        replay = replays.get(line["run"])
        if frames and replay and _number(frames[-1]["id"]) < replay[-1][0]:
            yield f"{line['op']}: ended before frame {replay[-1][0]} of run {line['run']}"


def never_ended(evidence: Evidence) -> Iterator[str]:
    """Streams that were still open when everything was over and had had its time."""
    for line in evidence.observations:
        if line["what"] == "closed" and line["how"] == "hung" and not evidence.deleted(_thread(evidence, line)):
            yield f"{line['op']}: run {line['run']}"


def wrong_results(evidence: Evidence) -> Iterator[str]:
    """What `wait` said of a run that succeeded, where that is not a state with its input."""
    statuses = {run["run_id"]: run["status"] for view in evidence.threads.values() for run in view.runs}
    for line in evidence.observations:
        if line["what"] != "result" or statuses.get(line["run"]) != "success" or line["body"] is None:
            continue
        mark = evidence.asked[line["op"]]["mark"]
        if mark not in line["body"].get("inputs", []):
            yield f"{line['op']}: run {line['run']} came to {str(line['body'])[:300]}"


def _connections(evidence: Evidence) -> Mapping[str, Sequence[Line]]:
    """The frames with ids of every connection."""
    connections: dict[str, list[Line]] = defaultdict(list)
    for line in evidence.observations:
        if line["what"] == "frame" and line["id"] is not None:
            connections[line["op"]].append(line)
    return connections


def _of_runs(evidence: Evidence) -> Iterator[tuple[str, Sequence[Line], Sequence[tuple[int, str]]]]:
    """Connections to runs that can still be replayed: name, frames, replay."""
    replays = {run: _numbered(frames) for view in evidence.threads.values() for run, frames in view.replays.items()}
    for op, frames in _connections(evidence).items():
        if replay := replays.get(frames[0]["run"]):
            yield op, frames, replay


def _numbered(frames: Sequence[str]) -> list[tuple[int, str]]:
    return [(_number(raw.rpartition("\r\nid: ")[2]), raw) for raw in frames if "\r\nid: " in raw]


def _number(event_id: str) -> int:
    return int(event_id.partition("-")[2])


def _thread(evidence: Evidence, line: Line) -> str:
    return str(evidence.asked[line["op"]]["thread"])
