"""Webhooks on the wire: the body, its headers and its signature.

The signature follows the Standard Webhooks specification (https://www.standardwebhooks.com), so that a receiver checks
it with a library it has already: HMAC-SHA256 over `id.timestamp.body`. `webhook-id` is the same for every try of a
delivery.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from holdfast import __version__
from holdfast.errors import ProjectError
from holdfast.rules.run import FAILED
from holdfast.sections import WebhooksSection
from holdfast.wire import codec
from holdfast.wire.runs import run_view
from holdfast.wire.times import time

CONFIDENTIAL = frozenset({"kwargs"})
"""The run's whole input and config: told only where `webhooks.allowed_fields` names it."""

OUR_HEADERS = frozenset(
    {"webhook-id", "webhook-timestamp", "webhook-signature", "content-type", "content-length", "host", "connection"}
    | {"transfer-encoding"}
)

_VARIABLE = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_ENV = re.compile(r"env\.(\w+)")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


def delivery_body(row: Mapping[str, Any], *, sent_at: datetime, allowed: Sequence[str] | None) -> bytes:
    """The run as it ended, when, and what came of it: `values`, or `error` if it failed; or what else is to be told.

    Args:
        allowed: names of the fields to tell; None is all but the confidential ones.
    """
    if row["body"] is not None:
        return codec.dumps({key: value for key, value in codec.loads(row["body"]).items() if _may(key, allowed)})
    told: dict[str, Any] = run_view({**row, "kwargs": row["kwargs"] or b"null", "updated_at": row["ended_at"]})
    told["run_started_at"] = time(row["started_at"]) if row["started_at"] else None
    told["run_ended_at"] = time(row["ended_at"])
    told["webhook_sent_at"] = time(sent_at)
    if row["status"] in FAILED:
        told["error"] = row["error"]
    parts = [codec.dumps(key) + b":" + codec.dumps(value) for key, value in told.items() if _may(key, allowed)]
    if _may("values", allowed):
        parts.append(b'"values":' + (row["values"] or b"null"))
    return b"{" + b",".join(parts) + b"}"


def delivery_headers(
    delivery_id: object, body: bytes, *, sent_at: datetime, secrets: Sequence[bytes]
) -> dict[str, str]:
    """What goes with a body; signed with every secret, so that they can be rotated, and unsigned without one."""
    timestamp = str(int(sent_at.timestamp()))
    headers = {
        "content-type": "application/json",
        "user-agent": f"holdfast/{__version__}",
        "webhook-id": str(delivery_id),
        "webhook-timestamp": timestamp,
    }
    if secrets:
        signed = f"{delivery_id}.{timestamp}.".encode() + body
        headers["webhook-signature"] = " ".join(_signature(secret, signed) for secret in secrets)
    return headers


def custom_headers(section: WebhooksSection, environment: Mapping[str, str]) -> dict[str, str]:
    """`webhooks.headers` with its `${{ env.NAME }}` filled in.

    Raises:
        ProjectError: a variable that is not set, or whose name does not start with `env_prefix`; a header that is ours.
    """

    filled: dict[str, str] = {}
    for name, text in section.headers.items():
        if name.lower() in OUR_HEADERS or not _HEADER_NAME.fullmatch(name):
            raise ProjectError(f"webhooks.headers: {name!r} cannot be set")
        filled[name] = filled_in(text, "webhooks.headers", section.env_prefix, environment)
        if not _HEADER_VALUE.fullmatch(filled[name]):
            raise ProjectError(f"webhooks.headers: the value of {name!r} cannot be sent")
    return filled


def filled_in(text: str, where: str, env_prefix: str, environment: Mapping[str, str]) -> str:
    """The text with its `${{ env.NAME }}` filled in.

    Raises:
        ProjectError: a variable that is not set, or whose name does not start with `env_prefix`; it names `where`.
    """

    def value_of(match: re.Match[str]) -> str:
        variable = _ENV.fullmatch(match[1])
        if variable is None:
            raise ProjectError(f"{where}: {match[0]} is not of the form ${{{{ env.NAME }}}}")
        name = variable[1]
        if not name.startswith(env_prefix):
            raise ProjectError(f"{where}: {name} does not start with {env_prefix} (webhooks.env_prefix)")
        if name not in environment:
            raise ProjectError(f"{where}: {name} is not set in the environment")
        return environment[name]

    return _VARIABLE.sub(value_of, text)


def retry_after(value: str | None, *, now: datetime) -> float | None:
    """Seconds that a `Retry-After` header asks for, in either of its forms."""
    if value is None:
        return None
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    wait = moment - now if moment.tzinfo else timedelta(0)
    return max(0.0, wait.total_seconds())


def _may(field: str, allowed: Sequence[str] | None) -> bool:
    return field not in CONFIDENTIAL if allowed is None else field in allowed


def _signature(secret: bytes, signed: bytes) -> str:
    return "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
