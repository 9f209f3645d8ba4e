"""Logging, set up in one place."""

from __future__ import annotations

import logging
import sys
import time

UNFINISHED = "ASGI callable returned without completing response."


def configure_logging(level: str) -> None:
    """One line per event on stderr."""
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True
    )
    for chatty in ("httpx", "httpcore", "openai", "uvicorn.access", "mcp"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("a2a").setLevel(logging.CRITICAL)  # It logs every client's mistake, with a traceback.
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    # While the database is away the pool reports every attempt, a hundred times a second.
    logging.getLogger("psycopg.pool").addFilter(_Seldom())


class _Seldom(logging.Filter):
    """Lets a line through when there was none for a second."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - whatever it says
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + 1.0
        return True


def _is_news(record: logging.LogRecord) -> bool:
    # Breaking off a stream when the server closes is on purpose (`api/responses.py`).
    return record.getMessage() != UNFINISHED
