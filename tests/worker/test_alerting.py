"""From something wrong to a message at a real receiver: the watch, what user code raises, the courier."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import Gauge

from graph.metrics import BREAKER_STATE
from holdfast.db.alerts import Alerts
from holdfast.db.webhooks import Deliveries
from holdfast.rules.alert import BREAKER_OPEN, MetricRule, Sighting, Thresholds
from holdfast.rules.webhook import UrlPolicy
from holdfast.sections import AlertWebhook
from holdfast.wire.alerts import AlertPlan, channels
from holdfast.worker.alerting import Raised, Watch
from holdfast.worker.webhooks import Courier, Post
from tests.db.stage import Stage, opened, until
from tests.support.receiver import Receiver

pytestmark = pytest.mark.anyio
OFF = Thresholds({"stuck_run": None, "queue_wait": None, "approval_wait": None})
SLOW = Sighting("slow", "", "Slow", "it is slow")
TOKEN = "T0KEN"


@pytest.fixture(autouse=True)
def no_open_breaker() -> None:
    """Whatever tests of the agent left in this process."""
    BREAKER_STATE.clear()


@pytest.fixture
async def stage(database_url: str) -> AsyncIterator[Stage]:
    async with opened(database_url) as stage:
        await stage.register(uuid4())
        yield stage


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def planned(receiver: Receiver, shape: str, *rules: MetricRule) -> AlertPlan:
    webhook = AlertWebhook.model_validate({"url": f"{receiver.url}/hook?access_token={TOKEN}", "shape": shape})
    return AlertPlan(channels([webhook], ()), OFF, rules, "prod")


@asynccontextmanager
async def courier(stage: Stage, plan: AlertPlan, policy: UrlPolicy | None = None) -> AsyncIterator[Courier]:
    """One at work without a worker; run webhooks' headers are none of an alert's business."""
    post = Post(policy or UrlPolicy(disable_loopback=False), {"x-secret": "for runs"}, alerts=plan)
    working = Courier(None, Deliveries(stage.database), post, stage.database.metrics)
    task = asyncio.create_task(working.run())
    try:
        yield working
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def outbox(stage: Stage, state: str) -> dict[str, Any]:
    """The one delivery there is, once it is so."""

    async def found() -> dict[str, Any] | None:
        [row] = await stage.sql("SELECT * FROM holdfast.deliveries")
        return row if row["state"] == state or (state == "postponed" and row["last_error"]) else None

    row: dict[str, Any] = await until(found)
    return row


async def raise_one(stage: Stage, plan: AlertPlan) -> None:
    receivers = {name: channel.receiver for name, channel in plan.channels.items()}
    assert await Alerts(stage.database).round(OFF, receivers, every=0, seen=[SLOW]) == 1


# --- sending ---


@pytest.mark.parametrize(
    ("shape", "answer"),
    [("slack", b"ok"), ("feishu", b'{"code":0}'), ("dingtalk", b'{"errcode":0}'), ("json", b"")],
)
async def test_an_alert_is_delivered_once_in_its_shape(
    stage: Stage, receiver: Receiver, shape: str, answer: bytes
) -> None:
    receiver.answer = lambda _: answer
    plan = planned(receiver, shape)
    await raise_one(stage, plan)
    async with courier(stage, plan):
        row = await outbox(stage, "delivered")
    [call] = receiver.calls
    assert "[Holdfast prod] warning: Slow" in call.body.decode()
    assert call.path == f"/hook?access_token={TOKEN}"
    assert "x-secret" not in call.headers
    assert TOKEN not in str(row)


@pytest.mark.parametrize(
    ("shape", "answer", "state"),
    [
        ("feishu", b'{"code":19021,"msg":"sign match fail"}', "failed"),
        ("feishu", b'{"code":11232,"msg":"frequency limited"}', "postponed"),
        ("dingtalk", b'{"errcode":310000}', "failed"),
        ("dingtalk", b'{"errcode":130101}', "postponed"),
        ("feishu", b"x" * 100_000, "failed"),
    ],
)
async def test_a_refusal_in_an_answer_of_200_is_one(
    stage: Stage, receiver: Receiver, shape: str, answer: bytes, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answer = lambda _: answer
    plan = planned(receiver, shape)
    await raise_one(stage, plan)
    async with courier(stage, plan):
        row = await outbox(stage, state)
    assert row["attempt"] == 1
    assert TOKEN not in caplog.text
    assert (state == "failed") is (row["url"] in caplog.text)


async def test_a_receiver_that_is_away_is_tried_again_and_its_address_stays_secret(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver() as gone:
        plan = planned(gone, "slack")
    await raise_one(stage, plan)
    async with courier(stage, plan):
        row = await outbox(stage, "postponed")
    assert (row["state"], row["last_error"]) == ("waiting", "ConnectError")
    assert TOKEN not in caplog.text + str(row)


async def test_alerts_go_nowhere_that_the_policy_forbids(stage: Stage, receiver: Receiver) -> None:
    plan = planned(receiver, "slack")
    await raise_one(stage, plan)
    async with courier(stage, plan, UrlPolicy()):
        row = await outbox(stage, "failed")
    assert receiver.calls == []
    assert "127.0.0.1 is this machine itself" in row["last_error"]


# --- watching ---


async def test_a_breaker_that_is_open_is_told(stage: Stage, receiver: Receiver) -> None:
    gauge = Gauge("agent_breaker_state_of_this_test", "0 closed, 1 half open, 2 open", ["endpoint"])
    rule = MetricRule("own_breaker", "agent_breaker_state_of_this_test", BREAKER_OPEN.above, severity="critical")
    plan = planned(receiver, "json", rule)
    gauge.labels("main").set(1)
    gauge.labels("other").set(2)
    async with courier(stage, plan) as working:
        await Watch(Alerts(stage.database), plan, working).look()
        [call] = await asyncio.to_thread(receiver.wait)
    assert (call.told["kind"], call.told["severity"], call.told["count"]) == ("own_breaker", "critical", 1)
    assert call.told["items"][0]["subject"] == "endpoint=other"


async def test_one_watch_of_many_makes_the_round(stage: Stage, receiver: Receiver) -> None:
    plan = planned(receiver, "json")
    await Alerts(stage.database).see([SLOW])
    async with courier(stage, plan) as working:
        watches = [Watch(Alerts(stage.database), plan, working) for _ in range(4)]
        assert await asyncio.gather(*(watch.look() for watch in watches)) == [5.0] * 4
        await asyncio.to_thread(receiver.wait)
        await outbox(stage, "delivered")
    assert len(receiver.calls) == 1


# --- raising ---


@asynccontextmanager
async def taking_up(stage: Stage) -> AsyncIterator[logging.Logger]:
    """A logger of user code, of a process that takes up alerts."""
    handler = Raised(Alerts(stage.database), asyncio.get_running_loop())
    logger = logging.getLogger("tests.user_code")
    logger.addHandler(handler)
    task = asyncio.create_task(handler.run())
    try:
        yield logger
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await handler.keep()
        logger.removeHandler(handler)


async def seen(stage: Stage) -> list[tuple[Any, ...]]:
    rows = await stage.sql("SELECT kind, subject, severity, text, times FROM holdfast.alerts ORDER BY kind, subject")
    return [tuple(row.values()) for row in rows]


async def test_a_log_record_with_an_alert_raises_it(stage: Stage) -> None:
    async with taking_up(stage) as logger:
        logger.warning("spent %d", 5, extra={"alert": {"kind": "budget", "subject": "t1"}})
        thread = threading.Thread(target=lambda: logger.error("no entry", extra={"alert": {"kind": "auth"}}))
        thread.start()
        await asyncio.to_thread(thread.join)

        async def both() -> bool:
            return len(await seen(stage)) == 2

        await until(both)
        logger.warning("an ordinary line")
        logger.warning("no alert", extra={"alert": "budget"})
    assert await seen(stage) == [("auth", "", "critical", "no entry", 1), ("budget", "t1", "warning", "spent 5", 1)]


async def test_what_is_raised_just_before_the_end_is_kept(stage: Stage) -> None:
    async with taking_up(stage) as logger:
        logger.warning("last words", extra={"alert": {"kind": "budget"}})
    assert await seen(stage) == [("budget", "", "warning", "last words", 1)]


async def test_a_record_that_cannot_be_read_harms_nobody(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    async with taking_up(stage) as logger:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "%d", ("no number",), None)
        record.alert = {"kind": "budget"}  # type: ignore[attr-defined]
        for handler in logger.handlers:
            handler.handle(record)
        logger.warning("later", extra={"alert": {"kind": "later"}})
    assert [kind for kind, *_ in await seen(stage)] == ["later"]
    assert "a real number is required" in capsys.readouterr().err


async def test_alerts_outlive_a_database_that_is_away(stage: Stage) -> None:
    async with taking_up(stage) as logger:
        await stage.cut_all_connections()
        logger.warning("spent", extra={"alert": {"kind": "budget"}})

        async with stage.outside() as conn:

            async def found() -> bool:
                cursor = await conn.execute("SELECT times FROM holdfast.alerts WHERE kind = 'budget'")
                return await cursor.fetchall() == [{"times": 1}]

            await until(found)
