"""Times on the wire: ISO-8601, UTC, microseconds."""

from __future__ import annotations

from datetime import UTC, datetime


def time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


YEARS = range(1970, 9000)
"""Beyond them a time may not survive a change of time zone."""


def moment(value: object) -> object:
    """A time as text; without an offset it is UTC. A validator of pydantic's.

    Raises:
        ValueError: it is no such text.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("must be an ISO-8601 time")
    found = datetime.fromisoformat(value)
    if found.year not in YEARS:
        raise ValueError("must be an ISO-8601 time of this age")
    return found if found.tzinfo else found.replace(tzinfo=UTC)
