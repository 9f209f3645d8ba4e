"""JSON-RPC for tests of MCP and A2A."""

from __future__ import annotations

import itertools
from typing import Any

import httpx

from tests.support.talk import parse

BOTH = {"accept": "application/json, text/event-stream"}
"""What clients of both protocols say that they read."""

_numbers = itertools.count(1)


def call(http: httpx.Client, url: str, method: str, params: dict[str, Any] | None = None, **headers: str) -> Any:
    """The result of a method; fails if there is none."""
    answer = ask(http, url, method, params, **headers)
    assert "error" not in answer, answer
    return answer["result"]


def error(http: httpx.Client, url: str, method: str, params: dict[str, Any] | None = None) -> tuple[int, str]:
    """Code and message of a method's error; fails if there is none."""
    answer = ask(http, url, method, params)
    assert "result" not in answer, answer
    return answer["error"]["code"], answer["error"]["message"]


def ask(http: httpx.Client, url: str, method: str, params: dict[str, Any] | None = None, **headers: str) -> Any:
    """The whole answer to a method, which comes with status 200."""
    number = next(_numbers)
    answer = http.post(url, json=message(method, params, number), headers={**BOTH, **headers})
    assert answer.status_code == 200, f"{answer.status_code}: {answer.text[:500]}"
    body = answer.json()
    assert (body["jsonrpc"], body["id"]) == ("2.0", number)
    return body


def stream(http: httpx.Client, url: str, method: str, params: dict[str, Any]) -> list[Any]:
    """The results in the events of a streaming method."""
    answer = http.post(url, json=message(method, params, 7), headers=BOTH)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = parse(answer.content)
    assert {event.name for event in events} == {"message"}
    assert {event.data["id"] for event in events} == {7}
    return [event.data["result"] for event in events]


def message(method: str, params: dict[str, Any] | None = None, number: int | str | None = None) -> dict[str, Any]:
    """A request, or without a number a notification."""
    given = {"params": params} if params is not None else {}
    numbered = {"id": number} if number is not None else {}
    return {"jsonrpc": "2.0", "method": method, **given, **numbered}
