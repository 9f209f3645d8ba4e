"""A model's service over HTTP, in OpenAI's protocol, that fails by a seeded schedule.

It is no mock of a library: the real SDK talks to a real socket. What it says follows from a script, found by the tag in
the user's last message. How it fails follows from the seed, the conversation, and the number of the request in it,
whatever other conversations do at the same time.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Fault = Literal[
    "rate limit",
    "http 500",
    "http 503",
    "hang",
    "slow first token",
    "cut off",
    "ended early",
    "malformed arguments",
    "context length",
    "unauthorized",
    "refused",
]
FAULTS: Sequence[Fault] = get_args(Fault)
SELDOM: Mapping[Fault, float] = {"unauthorized": 0.3}
SLOW_SECONDS = 0.15

Call = tuple[str, dict[str, Any]]
_TAG = re.compile(r"\bk(\d+)t(\d+)\b")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which requests fail, and how: `rate` of them, every kind alike except the seldom ones."""

    seed: int
    rate: float

    def fault(self, conversation: int, request: int) -> Fault | None:
        """What goes wrong with this request, if anything does."""
        dice = random.Random(f"{self.seed}/{conversation}/{request}")
        if dice.random() >= self.rate:
            return None
        return dice.choices(FAULTS, [SELDOM.get(fault, 1.0) for fault in FAULTS])[0]


@dataclass
class Script:
    """One conversation: the calls that the model makes in each turn, and the faults that its requests meet."""

    number: int
    schedule: Schedule
    calls: list[Sequence[Call]] = field(default_factory=list)
    calm: bool = False
    met: list[Fault] = field(default_factory=list)
    owes_calls: set[int] = field(default_factory=set)
    _requests: int = 0

    def tag(self, turn: int) -> str:
        """The word by which a turn is known."""
        return f"k{self.number}t{turn}"

    def answer(self, turn: int) -> str:
        """What the model says at the end of a turn."""
        return f"Done with {self.tag(turn)}, all of it."

    def refuses(self) -> bool:
        """Is the next request one whose connection is refused? Then it is over with this."""
        refused = not self.calm and self.schedule.fault(self.number, self._requests) == "refused"
        return refused and self.next_fault(can_be_malformed=False) is not None

    def next_fault(self, *, can_be_malformed: bool) -> Fault | None:
        """What goes wrong with the request that is here now."""
        fault = None if self.calm else self.schedule.fault(self.number, self._requests)
        self._requests += 1
        if fault == "malformed arguments" and not can_be_malformed:
            fault = "cut off"
        if fault is not None:
            self.met.append(fault)
        return fault


@dataclass
class FaultyModel:
    """The service, once `listening`. `closed_url` is where nobody listens."""

    scripts: dict[int, Script] = field(default_factory=dict)
    url: str = ""
    closed_url: str = ""
    _open: set[asyncio.Task[Any]] = field(default_factory=set)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Serve on loopback, on this event loop."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = _url(server.sockets[0])
        # A port that is bound and does not listen refuses, and nobody else gets it.
        with closing(socket.socket()) as deaf:
            deaf.bind(("127.0.0.1", 0))
            self.closed_url = _url(deaf)
            async with server:
                yield
                server.close()
                for task in self._open:
                    task.cancel()
                await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                await self._answer(json.loads(body), reader, writer)
                await writer.drain()
        finally:
            writer.close()
            self._open.discard(task)

    async def _answer(self, asked: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script, turn = self._place(asked["messages"])
        calls = _calls(asked, script, turn)
        fault = script.next_fault(can_be_malformed=bool(calls))
        if fault == "hang":
            await reader.read()
        elif fault in _REFUSALS:
            writer.write(_refusal(*_REFUSALS[fault]))
        else:
            if fault == "slow first token":
                await asyncio.sleep(SLOW_SECONDS)
            await _stream(writer, asked["model"], script.answer(turn), calls, fault)
            _remember(script, turn, fault, bool(calls))

    def _place(self, messages: Sequence[dict[str, Any]]) -> tuple[Script, int]:
        for message in reversed(messages):
            if message["role"] == "user" and (tag := _TAG.search(json.dumps(message["content"]))):
                return self.scripts[int(tag[1])], int(tag[2])
        raise AssertionError("a request of no conversation")


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def _calls(asked: dict[str, Any], script: Script, turn: int) -> Sequence[Call]:
    """The calls of this turn, unless they have been made already, and in a readable form."""
    made = False
    for message in asked["messages"]:
        made = message["role"] == "tool" or (made and message["role"] != "user")
    return script.calls[turn] if asked.get("tools") and (not made or turn in script.owes_calls) else ()


def _remember(script: Script, turn: int, fault: Fault | None, calls: bool) -> None:
    if fault == "malformed arguments":
        script.owes_calls.add(turn)
    elif calls and fault not in ("cut off", "ended early"):
        script.owes_calls.discard(turn)


_REFUSALS: Mapping[Fault | None, tuple[str, str, str]] = {
    "rate limit": ("429 Too Many Requests", "rate_limit_exceeded", "Retry-After: 0.05\r\n"),
    "http 500": ("500 Internal Server Error", "server_error", ""),
    "http 503": ("503 Service Unavailable", "overloaded", ""),
    "context length": ("400 Bad Request", "context_length_exceeded", ""),
    "unauthorized": ("401 Unauthorized", "invalid_api_key", ""),
}


def _refusal(status: str, code: str, headers: str) -> bytes:
    body = json.dumps({"error": {"message": f"injected: {code}", "type": code, "code": code}})
    head = f"HTTP/1.1 {status}\r\n{headers}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


async def _stream(
    writer: asyncio.StreamWriter, model: str, answer: str, calls: Sequence[Call], fault: Fault | None
) -> None:
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode())
    events = list(_events(answer, calls, malformed=fault == "malformed arguments"))
    for choices in events[: len(events) // 2] if fault in ("cut off", "ended early") else events:
        _write(writer, {"choices": choices, **_usage(choices)}, model)
        await writer.drain()
    if fault == "cut off":
        writer.transport.abort()
        return
    if fault != "ended early":
        _write_chunk(writer, b"data: [DONE]\n\n")
    _write_chunk(writer, b"")


def _write(writer: asyncio.StreamWriter, event: dict[str, Any], model: str) -> None:
    event |= {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": model}
    _write_chunk(writer, f"data: {json.dumps(event)}\n\n".encode())


def _write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def _usage(choices: Sequence[object]) -> dict[str, Any]:
    return {} if choices else {"usage": {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}}


def _events(answer: str, calls: Sequence[Call], *, malformed: bool) -> Iterator[list[dict[str, Any]]]:
    """The `choices` of every event: text or calls in pieces, the reason, and none beside the usage."""
    deltas = [{"tool_calls": [piece]} for piece in _pieces(calls, malformed=malformed)] if calls else _words(answer)
    for delta in [{"role": "assistant", "content": ""}, *deltas]:
        yield [{"index": 0, "delta": delta, "finish_reason": None}]
    yield [{"index": 0, "delta": {}, "finish_reason": "tool_calls" if calls else "stop"}]
    yield []


def _words(answer: str) -> list[dict[str, Any]]:
    return [{"content": word} for word in re.findall(r"\s*\S+", answer)]


def _pieces(calls: Sequence[Call], *, malformed: bool) -> Iterator[dict[str, Any]]:
    for index, (name, args) in enumerate(calls):
        text = json.dumps(args)
        half = len(text) // 2
        # The same ids in every answer, as servers have them that count from zero.
        yield {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
        # LangChain would complete an object that only ends too early.
        yield {"index": index, "function": {"arguments": "]" * malformed + text[:half]}}
        yield {"index": index, "function": {"arguments": text[half:]}}
