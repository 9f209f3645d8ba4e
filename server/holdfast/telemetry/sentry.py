"""Sentry, where SENTRY_DSN says so: runs that failed and requests that met a bug, with the ids they belong to.

What is told is what the log tells: a handler beside the one that writes lines. So interrupts and clients' mistakes,
which are no errors there, are none here. A client of its own, without integrations: nothing is patched, no variable of
a frame is looked at, and what a project does with Sentry itself is left alone. Events are masked as lines are, and go
out from a thread with a bounded queue; a Sentry that does not answer costs events.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from structlog.contextvars import get_contextvars

from holdfast import __version__
from holdfast.errors import HoldfastError, SettingsError
from holdfast.settings import Settings
from holdfast.telemetry.logs import IDS
from holdfast.telemetry.masking import known_secrets, masked

if TYPE_CHECKING:
    from sentry_sdk import Client

LAST_SECONDS = 2.0
"""What events under way get when the process ends."""

RUNS = "holdfast.worker.execute"
"""Whose warnings with a traceback are runs that failed."""


@contextmanager
def reporting(settings: Settings, environment: Mapping[str, str]) -> Iterator[None]:
    """Report to Sentry meanwhile; without SENTRY_DSN nothing at all.

    SENTRY_ENVIRONMENT and SENTRY_RELEASE are as Sentry's SDK has them.

    Raises:
        SettingsError: the SDK is not installed, or the DSN is none.
    """
    if not (dsn := environment.get("SENTRY_DSN")):
        yield
        return
    client = _client(dsn, environment, known_secrets(settings, environment))
    handler = _Reports(client)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        client.close(timeout=LAST_SECONDS)


def _client(dsn: str, environment: Mapping[str, str], secrets: tuple[str, ...]) -> Client:
    try:
        from sentry_sdk import Client
        from sentry_sdk.utils import BadDsn
    except ImportError:
        raise SettingsError("SENTRY_DSN is set, and its SDK is not installed: pip install 'holdfast[sentry]'") from None
    try:
        return Client(
            dsn=dsn,
            environment=environment.get("SENTRY_ENVIRONMENT"),
            release=environment.get("SENTRY_RELEASE") or f"holdfast@{__version__}",
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            send_default_pii=False,
            max_breadcrumbs=0,
            before_send=lambda event, _: masked(event, secrets),
        )
    except BadDsn:
        # Not what it is: a DSN is a credential.
        raise SettingsError("SENTRY_DSN is no DSN of Sentry") from None


class _Reports(logging.Handler):
    """Hands on what went wrong."""

    def __init__(self, client: Client) -> None:
        super().__init__(logging.WARNING)
        self._client = client

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR and not _is_failed_run(record):
            return
        try:
            self._client.capture_event(self._event(record))
        except Exception:  # noqa: BLE001 - as every handler does: who logs is not to blame
            self.handleError(record)

    def _event(self, record: logging.LogRecord) -> Any:
        from sentry_sdk.utils import event_from_exception

        event: Any = {}
        if record.exc_info and record.exc_info[1] is not None:
            event, _ = event_from_exception(record.exc_info, client_options=self._client.options)
        known = {**get_contextvars(), **record.__dict__}
        return {
            **event,
            "level": "error",
            "logger": record.name,
            "logentry": {"formatted": record.getMessage()},
            "tags": {name: str(known[name]) for name in IDS if known.get(name) and name != "user"},
            "server_name": os.uname().nodename,
        }


def _is_failed_run(record: logging.LogRecord) -> bool:
    failure = record.exc_info[1] if record.exc_info else None
    return record.name == RUNS and failure is not None and not isinstance(failure, HoldfastError)
