"""One line per event, with the ids that it belongs to."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any

import pytest
import structlog
from structlog.contextvars import bind_contextvars

from holdfast.settings import Settings
from holdfast.telemetry.logs import configure_logging

Configure = Callable[..., io.StringIO]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Sets logging up as a process does, with these settings, and gives what is written; all of it is put back."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def configured(**environment: Any) -> io.StringIO:
        stream = io.StringIO()
        configure_logging(Settings(_env_file=None, **{"LOG_FORMAT": "json", **environment}), {}, stream)
        return stream

    yield configured
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    for name in ("chatty", "httpx"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_the_pools_warnings_come_once_a_second(configure: Configure) -> None:
    stream = configure()
    for number in range(50):
        logging.getLogger("psycopg.pool").warning("no connection %d", number)
        logging.getLogger("holdfast").warning("said %d", number)
    said = [line["logger"] for line in lines(stream)]
    assert said.count("psycopg.pool") == 1
    assert said.count("holdfast") == 50


def test_a_traceback_is_part_of_its_one_line(configure: Configure) -> None:
    stream = configure()
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("mine").exception("it failed", extra={"attempt": 3})
    [line] = lines(stream)
    assert (line["event"], line["level"], line["logger"], line["attempt"]) == ("it failed", "error", "mine", 3)
    assert line["exception"].endswith("ValueError: two\nlines")


def test_for_people_a_line_is_text(configure: Configure) -> None:
    stream = configure(LOG_FORMAT="console")
    Context().run(_say_bound, run_id="r1")
    assert "[warning  ] said" in stream.getvalue()
    assert "run_id=r1" in stream.getvalue()


def test_whatever_is_not_a_terminal_gets_json(configure: Configure) -> None:
    stream = configure(LOG_FORMAT=None)
    logging.getLogger("mine").warning("said")
    assert lines(stream)[0]["event"] == "said"


def test_ids_are_those_of_the_context(configure: Configure) -> None:
    stream = configure()
    Context().run(_say_bound, run_id="r1", thread_id="t1")
    Context().run(_say_bound, run_id="r2")
    assert [(line["run_id"], line.get("thread_id")) for line in lines(stream)] == [("r1", "t1"), ("r2", None)]


def test_structlogs_own_loggers_are_heard_and_masked_too(configure: Configure) -> None:
    stream = configure()
    structlog.get_logger("theirs").warning("key sk-abcdefghijklmnop", password="hunter2")
    [line] = lines(stream)
    assert (line["event"], line["password"], line["logger"]) == ("key [key]", "[secret]", "theirs")


def test_levels_can_be_given_by_logger(configure: Configure) -> None:
    stream = configure(LOG_LEVEL="warning", LOG_LEVELS="chatty=debug,httpx=info")
    for name in ("chatty", "httpx", "mine"):
        logging.getLogger(name).info("said")
    assert [line["logger"] for line in lines(stream)] == ["chatty", "httpx"]


def test_what_is_no_json_is_logged_all_the_same(configure: Configure) -> None:
    stream = configure(LOG_REDACT="0")
    endless: list[Any] = []
    endless.append(endless)
    logging.getLogger("mine").warning("odd \ud800", extra={"large": 2**80, "itself": endless, "of": {object: 1}})
    assert lines(stream)[0]["event"] == "odd \ud800"


def test_without_redaction_a_line_says_what_was_said(configure: Configure) -> None:
    stream = configure(LOG_REDACT="0")
    logging.getLogger("mine").warning("mail a@example.com")
    assert lines(stream)[0]["event"] == "mail a@example.com"


def _say_bound(**ids: str) -> None:
    bind_contextvars(**ids)
    logging.getLogger("mine").warning("said")
