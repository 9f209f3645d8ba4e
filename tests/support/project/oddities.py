"""Graphs that say and raise what JSON has no word for."""

from __future__ import annotations

from typing import Any

from langgraph.errors import InvalidUpdateError
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict


class SecretiveError(Exception):
    """An error of the project's own: its text is not for clients."""


ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        *(ValueError, TypeError, KeyError, AttributeError, RuntimeError, RecursionError, TimeoutError),
        *(InvalidUpdateError, SecretiveError, OSError, ZeroDivisionError),
    )
}


class Ordered(TypedDict, total=False):
    error: str


def _break(state: Ordered) -> Ordered:
    raise ERRORS[state["error"]]("as told")


breaking = StateGraph(Ordered).add_node("break", _break).add_edge(START, "break").add_edge("break", END)


class Odd(TypedDict, total=False):
    odd: dict[str, Any]


def _say(_: Odd) -> Odd:
    return {"odd": {"bytes": b"\x00\xff", "tuple": (1, 2), "keys": {1: "one"}, "nul": "a\x00b"}}


odd = StateGraph(Odd).add_node("say", _say).add_edge(START, "say").add_edge("say", END)
