"""A resumable stream outlives its server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.durability.client import Client
from tests.durability.walk import PROJECT
from tests.support.server import Server
from tests.support.talk import Event, parse

STEPS = 6
KILL_AFTER = 3
PAUSE = 0.15


@dataclass
class Reader:
    """A client that remembers what it has read; half a frame at the end of a broken connection is no event."""

    events: list[Event] = field(default_factory=list)
    _rest: bytes = b""

    def feed(self, chunk: bytes) -> None:
        whole, end, self._rest = (self._rest + chunk).rpartition(b"\r\n\r\n")
        self.events += parse(whole + end)

    @property
    def numbers(self) -> list[int]:
        return [int(str(event.id).partition("-")[2]) for event in self.events]

    def steps(self) -> int:
        return sum(event.name == "updates" for event in self.events)


@pytest.mark.requirement("streams.restart")
def test_a_client_that_reconnects_after_a_kill_gets_the_rest_of_the_stream(database_url: str, tmp_path: Path) -> None:
    effects = str(tmp_path / "effects.jsonl")
    with (
        Server(config=PROJECT, database_url=database_url, EFFECT_LOG=effects) as server,
        Client(server.url) as client,
    ):
        thread = client.thread()
        first = Reader()
        path = _read_until_killed(server, client, thread, first)
        server.start()
        rest = Reader()
        _follow(client, path, str(first.events[-1].id), rest)
        assert client.http.get(path.removesuffix("/stream")).json()["status"] == "success"
        replay = Reader()
        _follow(client, path, "-1", replay)

    numbers = first.numbers + rest.numbers
    assert numbers == sorted(set(numbers)), "no number comes twice, and none out of order"
    assert len(rest.events[-1].data["done"]) == STEPS, "the last event is the final state"
    assert first.steps() + rest.steps() >= STEPS, "every step is told at least once"
    assert replay.numbers == sorted(set(replay.numbers))
    assert [event.raw for event in replay.events][-len(rest.events) :] == [event.raw for event in rest.events]


def _read_until_killed(server: Server, client: Client, thread: str, reader: Reader) -> str:
    """Start a resumable run, kill the server in the middle of its stream; the path to join it again."""
    body = {
        "assistant_id": "walk",
        "input": {"count": STEPS, "pause": PAUSE, "done": []},
        "stream_mode": ["updates", "values"],
        "stream_resumable": True,
    }
    with client.http.stream("POST", f"/threads/{thread}/runs/stream", json=body) as answer:
        chunks = answer.iter_raw()
        while reader.steps() < KILL_AFTER:
            reader.feed(next(chunks))
        server.kill()
        with pytest.raises(httpx.TransportError):
            reader.feed(b"".join(chunks))
    return str(answer.headers["location"])


def _follow(client: Client, path: str, last_event_id: str, reader: Reader) -> None:
    with client.http.stream("GET", path, headers={"last-event-id": last_event_id}) as answer:
        for chunk in answer.iter_raw():
            reader.feed(chunk)
