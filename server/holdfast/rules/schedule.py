"""When a cron is due.

Five fields, read as Debian's cron reads them, in a time zone of the IANA database (UTC without one). Where clocks are
put forward, a job at a fixed time that does not exist runs right after the gap; where they are put back, it runs once.

Due times that pass while no worker runs are folded into one: the cron fires once, late, and then waits for the next due
time after that moment. Nothing is due at `end` or later, and once `end` has passed a late firing is dropped as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from holdfast.errors import Invalid

FIELDS = 5
MAX_LENGTH = 200
ADVICE = (
    "expected five fields: minute (0-59), hour (0-23), day of month (1-31), month (1-12), day of week (0-7), "
    "for example '*/15 9-17 * * MON-FRI'"
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression, where its clock hangs, and when it is over.

    Raises:
        Invalid: no cron expression, or no time zone.
    """

    expression: str
    timezone: str | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        if len(self.expression) > MAX_LENGTH or len(self.expression.split()) != FIELDS:
            raise Invalid(f"Invalid cron schedule: {ADVICE}")
        self._from(datetime(2000, 1, 1, tzinfo=UTC))

    def next_after(self, moment: datetime) -> datetime | None:
        """The first due time after `moment`, in UTC; None if there is none."""
        for local in self._from(moment):
            due = local.astimezone(UTC)
            if self.ended(due):
                return None
            # In the hour that clocks repeat, the iterator may look back at its first pass.
            if due > moment:
                return due
        return None

    def ended(self, moment: datetime) -> bool:
        return self.end is not None and moment >= self.end

    def _from(self, moment: datetime) -> CronSim:
        try:
            return CronSim(self.expression, moment.astimezone(self._zone()))
        except CronSimError as error:
            raise Invalid(f"Invalid cron schedule: {error}; {ADVICE}") from None

    def _zone(self) -> tzinfo:
        if self.timezone is None:
            return UTC
        try:
            return ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError):
            raise Invalid(
                f"Invalid timezone: {self.timezone[:64]!r}; expected an IANA name such as 'Europe/Berlin'"
            ) from None
