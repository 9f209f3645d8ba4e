"""Times on the wire: ISO-8601, UTC, microseconds."""

from __future__ import annotations

from datetime import UTC, datetime


def time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
