"""Logging, set up in one place: whatever is logged here, by whom, is one redacted line with the ids it belongs to.

The interface is the standard library's, for our code, for libraries and for users' graphs alike: `logging.getLogger`.
structlog renders the records, and its own loggers end up among them. What a line is about travels in
`structlog.contextvars`, under the names in `IDS`; whoever makes a task that serves others than the one who happened to
come first gives it a context of its own.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor

from holdfast.settings import Settings
from holdfast.telemetry.masking import known_secrets, masked, names_secret

ACCESS = "holdfast.access"
"""The logger of answers, a line each (`api/access.py`)."""

UNFINISHED = "ASGI callable returned without completing response."

IDS = ("request_id", "run_id", "thread_id", "assistant_id", "graph_id", "user", "trace_id", "node")
"""What ties lines together."""

QUIET: Mapping[str, int | str] = {
    **dict.fromkeys(("httpx", "httpcore", "openai", "uvicorn.access", "mcp"), logging.WARNING),
    "langfuse": logging.ERROR,  # It warns of every model whose name it cannot tell, once for each run.
    "a2a": logging.CRITICAL,  # It logs every client's mistake, with a traceback.
}
"""Loggers that say more than anybody wants to read; `LOG_LEVELS` can change it."""

_OURS = frozenset({*IDS, "timestamp", "level", "logger"} - {"request_id", "user"})
"""Fields that need no look: only we and a graph's own code write them, and nearly every line has them."""
_OF_ANSWERS = _OURS | {"event", "method", "route", "status", "duration_ms", "bytes", "ended", "client"}


def configure_logging(settings: Settings, environment: Mapping[str, str], stream: TextIO | None = None) -> None:
    """One line per event on `stream`; the default is stderr. Called again, it takes the place of what was.

    Args:
        environment: where the secrets are that no line may show, beside those of the settings.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_formatter(settings, environment, handler.stream))
    handler.addFilter(_is_news)
    handler.addFilter(_Seldom("psycopg.pool"))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for levels in (QUIET, settings.log_levels):
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *_ABOUT,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def current_node(config: Mapping[str, Any] | None) -> str | None:
    """The node of the graph that a LangChain config belongs to."""
    node = ((config or {}).get("metadata") or {}).get("langgraph_node")
    return node if isinstance(node, str) else None


def config_variable() -> ContextVar[Mapping[str, Any] | None] | None:
    """Where LangChain keeps the config of what is being executed; None while nothing has imported it."""
    # Not imported here: commands that execute nothing would wait for it.
    module = sys.modules.get("langchain_core.runnables.config")
    return getattr(module, "var_child_runnable_config", None)


def _with_node(_logger: object, _method: str, event: EventDict) -> EventDict:
    if (variable := config_variable()) is not None and (node := current_node(variable.get(None))) is not None:
        event.setdefault("node", node)
    return event


def _without_colours(_logger: object, _method: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)  # uvicorn says everything twice
    return event


_ABOUT: Sequence[Processor] = (
    structlog.contextvars.merge_contextvars,
    _with_node,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def _formatter(settings: Settings, environment: Mapping[str, str], stream: TextIO) -> logging.Formatter:
    last: Processor = _as_json
    if not _is_json(settings, stream):
        last = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
        )
    masking = (_Masking(known_secrets(settings, environment)),) if settings.log_redact else ()
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_ABOUT],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _without_colours,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            *masking,
            last,
        ],
    )


def _is_json(settings: Settings, stream: TextIO) -> bool:
    """Whether lines on this stream are for machines."""
    return settings.log_format == "json" or (settings.log_format is None and not stream.isatty())


class _Masking:
    """Takes secrets and personal data out of everything in a line but our own ids."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        known = _OF_ANSWERS if event.get("logger") == ACCESS else _OURS
        # The names of fields are written in code, and stay.
        return {
            name: value if name in known else "[secret]" if names_secret(name, value) else masked(value, self._secrets)
            for name, value in event.items()
        }


def _as_json(_logger: object, _method: str, event: EventDict) -> str:
    line = {"timestamp": event.pop("timestamp"), "level": event.pop("level"), "event": event.pop("event"), **event}
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):  # lone surrogates, integers over 64 bits, values within themselves
        return json.dumps({name: str(value) for name, value in line.items()})


class _Seldom(logging.Filter):
    """Lets a logger's line through when there was none for a second."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._chatty = name
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        # While the database is away the pool reports every attempt, a hundred times a second.
        if record.name != self._chatty:
            return True
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + 1.0
        return True


def _is_news(record: logging.LogRecord) -> bool:
    # Breaking off a stream when the server closes is on purpose (`api/responses.py`).
    return record.name != "uvicorn.error" or record.getMessage() != UNFINISHED
