"""The watch: looks every few seconds whether something is wrong, and takes up what the project's code raises.

Theory of operation. Every process looks at its own metrics and writes down what is above its limit; one of them,
whoever comes first, also asks the database and takes the steps that follow (`db/alerts.py`), so there is no leader, and
two replicas send one message. The messages lie in the outbox then, and couriers send them.

User code raises an alert by logging it, so that it need not know who serves it:

    logger.warning("over budget", extra={"alert": {"kind": "budget", "subject": thread_id}})
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping

from prometheus_client import REGISTRY

from holdfast.db.alerts import Alerts
from holdfast.errors import DatabaseError, Invalid
from holdfast.rules.alert import BREAKER_OPEN, Sample, Severity, Sighting, above, raised
from holdfast.rules.webhook import UrlPolicy
from holdfast.wire.alerts import AlertPlan, Channel
from holdfast.worker.clock import PAUSE_AFTER_ERROR
from holdfast.worker.webhooks import Courier

logger = logging.getLogger(__name__)

ROUND_SECONDS = 15.0
"""Between two rounds of all processes together."""

LOOK_SECONDS = 5.0
"""Between two looks of one process at its own metrics, and at whether a round is due."""

MOST_RAISED = 1000
"""Alerts that wait to be written down; the oldest go first."""


class Watch:
    """Looks, from one process."""

    def __init__(self, alerts: Alerts, plan: AlertPlan, courier: Courier) -> None:
        self._alerts = alerts
        self._plan = plan
        self._courier = courier
        self._rules = [BREAKER_OPEN, *plan.rules]
        self._receivers = {name: channel.receiver for name, channel in plan.channels.items()}

    async def look(self) -> float:
        """One round, if it is time for one; the seconds until another look."""
        seen = above(self._rules, await asyncio.to_thread(_samples, {rule.metric for rule in self._rules}))
        if await self._alerts.round(self._plan.thresholds, self._receivers, every=ROUND_SECONDS, seen=seen):
            self._courier.wake()
        return LOOK_SECONDS


class Raised(logging.Handler):
    """Takes up the alerts among the log records of this process, from any thread."""

    def __init__(self, alerts: Alerts, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(logging.INFO)
        self._alerts = alerts
        self._loop = loop
        self._waiting: deque[Sighting] = deque(maxlen=MOST_RAISED)
        self._wake = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        given = getattr(record, "alert", None)
        if given is None:
            return
        try:
            severity: Severity = "critical" if record.levelno >= logging.ERROR else "warning"
            seen = raised(given, record.getMessage(), severity)
        except (TypeError, ValueError, KeyError):
            # A message that does not fit its arguments is reported, as other handlers do, not raised at who logs.
            self.handleError(record)
            return
        if seen is not None:
            self._waiting.append(seen)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Write down what is raised, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.keep():
                await asyncio.sleep(PAUSE_AFTER_ERROR)
                self._wake.set()

    async def keep(self) -> bool:
        """Write down what waits; whether it was possible."""
        seen = list(self._waiting)
        if not seen:
            return True
        try:
            await self._alerts.see(seen)
        except DatabaseError as error:
            logger.warning("alerts have to wait: %s", error)
            return False
        for one in seen:
            if self._waiting and self._waiting[0] is one:
                self._waiting.popleft()
        return True


def check_channels(channels: Mapping[str, Channel], policy: UrlPolicy) -> None:
    """Whether alerts may go where they are to go.

    Raises:
        Invalid: one may not; it names the host at most.
    """
    for channel in channels.values():
        if policy.checked(channel.url) != channel.url:
            raise Invalid("an alert webhook must be a whole URL")


def _samples(metrics: set[str]) -> list[Sample]:
    return [
        (sample.name, sample.labels, sample.value)
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name in metrics
    ]
