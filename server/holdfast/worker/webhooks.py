"""The courier: tells receivers that runs have ended, and operators what is wrong (`worker/alerting.py`).

Theory of operation. Deliveries lie in the outbox, put there by the transactions that ended their runs. The courier
takes what is due, each under a lease, and sends it in a task of its own; the answer settles the delivery, postpones it
with growing pauses, or ends it (`rules/webhook.py`). A delivery whose process dies on the way belongs to nobody once
its worker's row is gone, or when its lease runs out, and is taken again: receivers may see it twice, with the same
`webhook-id`. Order is not promised.

A receiver that is slow keeps a few tasks busy and is then left out until one of them ends, so that it holds up neither
other receivers nor runs, which know nothing of all this.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx

from holdfast.db.webhooks import Deliveries
from holdfast.errors import DatabaseError, Invalid
from holdfast.rules.webhook import UrlPolicy, retry_pause, worth_retrying
from holdfast.telemetry.metrics import Metrics
from holdfast.wire.alerts import MOST_ANSWER_BYTES, AlertPlan, Channel, Request, alert_request, refusal
from holdfast.wire.webhooks import delivery_body, delivery_headers, retry_after
from holdfast.worker.egress import GuardedTransport

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
PAUSE_AFTER_ERROR = 0.5
IN_FLIGHT = 32
PER_RECEIVER = 4
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
TRY_SECONDS = 45.0
LEASE_SECONDS = 60.0
"""Longer than any try."""


@dataclass(frozen=True, slots=True)
class Post:
    """How webhooks are sent. `secrets` sign them, `headers` go with them, `allowed_fields` is what they may tell.

    The alerts among them go by `alerts` alone, and by the policy.
    """

    policy: UrlPolicy
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Sequence[bytes] = field(default=(), repr=False)
    allowed_fields: Sequence[str] | None = None
    alerts: AlertPlan | None = None


class Courier:
    """Sends what is due, from one process; without a worker to send for only alerts, under leases that nobody cuts
    short."""

    def __init__(self, sender: UUID | None, deliveries: Deliveries, post: Post, metrics: Metrics) -> None:
        self._sender = sender
        self._channels = post.alerts.channels if post.alerts else {}
        self._deliveries = deliveries
        self._post = post
        self._tries = metrics.webhook_tries
        self._under_way: Counter[str] = Counter()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled; what is under way then comes up again elsewhere."""
        async with (
            httpx.AsyncClient(
                transport=GuardedTransport(self._post.policy),
                timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
                follow_redirects=False,
                trust_env=False,
            ) as client,
            asyncio.TaskGroup() as sending,
        ):
            while True:
                self._wake.clear()
                try:
                    taken = await self._take()
                except DatabaseError as error:
                    logger.warning("webhooks have to wait: %s", error)
                    await asyncio.sleep(PAUSE_AFTER_ERROR)
                    continue
                for delivery in taken:
                    self._under_way[delivery["receiver"]] += 1
                    sending.create_task(self._send(client, delivery), name=f"webhook-{delivery['delivery_id']}")
                if not taken:
                    await self._sleep()

    async def _take(self) -> Sequence[Mapping[str, Any]]:
        free = IN_FLIGHT - self._under_way.total()
        if free < 1:
            return []
        self._under_way = +self._under_way
        busy = [receiver for receiver, count in self._under_way.items() if count >= PER_RECEIVER]
        limit = min(free, PER_RECEIVER)
        taken = await self._deliveries.take(
            self._sender, limit=limit, lease=LEASE_SECONDS, busy=busy, channels=list(self._channels)
        )
        if not taken:
            await self._deliveries.release()
        return taken

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _send(self, client: httpx.AsyncClient, delivery: Mapping[str, Any]) -> None:
        try:
            await self._settle(delivery, await self._try(client, delivery))
        except DatabaseError as error:
            # Its lease runs out, and it is sent again.
            logger.warning("webhook %s: the outcome is not recorded: %s", delivery["delivery_id"], error)
        finally:
            self._under_way.subtract([delivery["receiver"]])
            self.wake()

    async def _try(self, client: httpx.AsyncClient, delivery: Mapping[str, Any]) -> _Answer:
        sent_at, channel = delivery["sent_at"], self._channels.get(delivery["url"])
        try:
            request = self._request(delivery, channel)
            self._post.policy.checked(request.url)
            async with (
                asyncio.timeout(TRY_SECONDS),
                client.stream("POST", request.url, content=request.body, headers=request.headers) as answer,
            ):
                asked = retry_after(answer.headers.get("retry-after"), now=sent_at)
                # Of a run's receiver only the status counts; the body is not read.
                if channel and answer.is_success and (refused := refusal(channel.shape, await _beginning(answer))):
                    problem, again = refused
                    return _Answer(False, again, problem, asked)
                return _Answer(answer.is_success, worth_retrying(answer.status_code), f"{answer.status_code}", asked)
        except (Invalid, httpx.InvalidURL) as refused_url:
            return _Answer(False, False, str(refused_url))
        except (httpx.TransportError, TimeoutError) as error:
            # An alert's address is a credential, and libraries may quote it.
            problem = type(error).__name__
            return _Answer(False, True, problem if channel else f"{problem}: {error}")

    def _request(self, delivery: Mapping[str, Any], channel: Channel | None) -> Request:
        sent_at, delivery_id = delivery["sent_at"], delivery["delivery_id"]
        if channel is not None and self._post.alerts is not None:
            return alert_request(
                channel,
                json.loads(delivery["body"]),
                server=self._post.alerts.server,
                delivery_id=delivery_id,
                sent_at=sent_at,
            )
        body = delivery_body(delivery, sent_at=sent_at, allowed=self._post.allowed_fields)
        ours = delivery_headers(delivery_id, body, sent_at=sent_at, secrets=self._post.secrets)
        return Request(delivery["url"], body, {**self._post.headers, **ours})

    async def _settle(self, delivery: Mapping[str, Any], answer: _Answer) -> None:
        delivery_id, attempt = delivery["delivery_id"], delivery["attempt"]
        kind = "alert" if delivery["url"] in self._channels else "webhook"
        if answer.taken:
            self._tries.labels(kind, "delivered").inc()
            await self._deliveries.deliver(delivery_id)
            return
        pause = None
        if answer.again:
            pause = retry_pause(attempt, retry_after=answer.retry_after, jitter=random.random())  # noqa: S311
        self._tries.labels(kind, "given_up" if pause is None else "postponed").inc()
        if pause is None:
            logger.warning(
                "webhook %s of %s to %s is given up after %d tries: %s",
                delivery_id,
                f"run {delivery['run_id']}" if delivery["run_id"] else delivery["url"],
                delivery["receiver"],
                attempt,
                answer.problem,
            )
            await self._deliveries.give_up(delivery_id, attempt, error=answer.problem)
        else:
            await self._deliveries.postpone(delivery_id, attempt, pause=pause, error=answer.problem)


async def _beginning(answer: httpx.Response) -> bytes:
    """What a service answered; the rest of what is no such answer is not read."""
    read = b""
    async for part in answer.aiter_bytes():
        read += part
        if len(read) > MOST_ANSWER_BYTES:
            break
    return read


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came of a try: whether it was taken, and if not, whether to come again, and when at the earliest."""

    taken: bool
    again: bool
    problem: str
    retry_after: float | None = None
