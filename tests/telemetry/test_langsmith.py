"""LangSmith is LangChain's own: environment variables are all that it takes, and without them nothing is sent."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.receiver import Receiver
from tests.support.server import ROOT, Server
from tests.support.talk import new_thread, until, wait

ASKED = {"input": {"messages": [{"role": "user", "content": "what is 6 * 7"}]}}
ON = {"LANGSMITH_TRACING": "true", "LANGSMITH_API_KEY": "key-of-the-test", "LANGSMITH_PROJECT": "holdfast"}


def told(receiver: Receiver, words: str) -> list[str]:
    """The paths of the requests in which these words are."""
    return [call.path for call in receiver.calls if words.encode() in call.body]


def test_O4_a_run_is_traced_with_its_thread_where_the_environment_says_so(database_url: str) -> None:
    with Receiver() as langsmith:
        around: dict[str, Any] = {"LANGSMITH_ENDPOINT": langsmith.url, **ON}
        with (
            Server(config=ROOT / "langgraph.json", database_url=database_url, **around) as server,
            server.http(timeout=30) as http,
        ):
            thread = new_thread(http)
            wait(http, thread, "agent", **ASKED)
            until(lambda: told(langsmith, thread), "the run arrives")
            until(lambda: told(langsmith, "what is 6 * 7"), "with what was asked")
            assert "key-of-the-test" not in server.log


@pytest.mark.parametrize("off", ["LANGSMITH_TRACING", "LANGSMITH_API_KEY"])
def test_O4_a_run_answers_though_tracing_cannot_work(off: str, database_url: str) -> None:
    with Receiver(status=lambda _: 401) as langsmith:
        around = {name: value for name, value in ON.items() if name != off} | {"LANGSMITH_ENDPOINT": langsmith.url}
        with (
            Server(config=ROOT / "langgraph.json", database_url=database_url, **around) as server,
            server.http(timeout=30) as http,
        ):
            answer = wait(http, new_thread(http), "agent", **ASKED)
            assert "42" in answer["messages"][-1]["content"]
        if off == "LANGSMITH_TRACING":
            assert langsmith.calls == []
