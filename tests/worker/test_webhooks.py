"""The courier and real receivers: slow ones, failing ones, absent ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest

from holdfast.db.runs import RunEnd
from holdfast.db.webhooks import Deliveries
from holdfast.rules.run import RunStatus
from holdfast.rules.webhook import MOST_ATTEMPTS, UrlPolicy
from holdfast.worker.webhooks import PER_RECEIVER, Courier, Post
from tests.db.stage import Stage, opened, outcome, until
from tests.support.receiver import Call, Receiver
from tests.support.server import free_port

pytestmark = pytest.mark.anyio
OPEN = UrlPolicy(disable_loopback=False)


@pytest.fixture
async def stage(database_url: str) -> AsyncIterator[Stage]:
    async with opened(database_url) as stage:
        yield stage


@asynccontextmanager
async def courier(stage: Stage, post: Post | None = None) -> AsyncIterator[Courier]:
    """A courier at work, for a worker that is gone when it is."""
    await stage.register(worker_id := uuid4())
    working = Courier(worker_id, Deliveries(stage.database), post or Post(OPEN), stage.database.metrics)
    task = asyncio.create_task(working.run())
    try:
        yield working
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()
        await stage.queue.requeue_dead([worker_id])


async def ended(stage: Stage, url: str) -> UUID:
    claim = await stage.started(webhook=url)
    await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome(), values=b'{"x":1}'))
    return claim.run_id


async def deliveries(stage: Stage) -> list[dict[str, Any]]:
    return await stage.sql("SELECT * FROM holdfast.deliveries ORDER BY ended_at")


async def settled(stage: Stage, state: str) -> list[dict[str, Any]]:
    async def found() -> Any:
        rows = await deliveries(stage)
        return rows if rows and all(row["state"] == state for row in rows) else None

    rows: list[dict[str, Any]] = await until(found)
    return rows


async def hurry(stage: Stage) -> None:
    """Make the next try due now."""
    await stage.sql("UPDATE holdfast.deliveries SET due_at = holdfast.now() WHERE state = 'waiting' AND sender IS NULL")


def by_turns(*statuses: int) -> Callable[[Call], int]:
    left = list(statuses)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


async def test_an_end_is_told_once_where_the_receiver_takes_it(stage: Stage) -> None:
    with Receiver() as receiver:
        run_id = await ended(stage, f"{receiver.url}/done")
        post = Post(OPEN, {"Authorization": "Bearer t"}, [b"k" * 24], ["run_id", "values"])
        async with courier(stage, post):
            [row] = await settled(stage, "delivered")
        [call] = receiver.calls
    assert call.told == {"run_id": str(run_id), "values": {"x": 1}}
    assert (call.path, call.id, call.headers["authorization"]) == ("/done", str(row["delivery_id"]), "Bearer t")
    assert call.headers["webhook-signature"].startswith("v1,")
    assert row["attempt"] == 1


@pytest.mark.requirement("webhooks.retried")
@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_a_receiver_that_cannot_now_is_asked_again_with_the_same_id(stage: Stage, status: int) -> None:
    with Receiver(status=by_turns(status, status, 204)) as receiver:
        await ended(stage, receiver.url)
        async with courier(stage):
            for count in (1, 2):
                await until(lambda count=count: len(receiver.calls) == count)  # type: ignore[misc]
                await until(lambda: _postponed(stage))
                await hurry(stage)
            [row] = await settled(stage, "delivered")
    assert row["attempt"] == 3
    assert len({call.id for call in receiver.calls}) == 1
    sent = [call.told["webhook_sent_at"] for call in receiver.calls]
    assert sent == sorted(set(sent))


async def _postponed(stage: Stage) -> bool:
    [row] = await deliveries(stage)
    return row["sender"] is None and row["last_error"] is not None


async def test_the_next_try_waits_by_itself_for_its_pause(stage: Stage) -> None:
    with Receiver(status=by_turns(500, 200)) as receiver:
        await ended(stage, receiver.url)
        async with courier(stage):
            [row] = await settled(stage, "delivered")
    first, second = (call.headers["webhook-timestamp"] for call in receiver.calls)
    assert int(second) - int(first) >= 1
    assert row["attempt"] == 2


async def test_a_receiver_that_asks_for_a_pause_gets_it(stage: Stage) -> None:
    with Receiver(status=by_turns(503, 200), headers={"retry-after": "1800"}) as receiver:
        await ended(stage, receiver.url)
        async with courier(stage):
            await until(lambda: _postponed(stage))
    [row] = await stage.sql(
        "SELECT extract(epoch FROM due_at - holdfast.now())::float AS wait FROM holdfast.deliveries"
    )
    assert 1700 < row["wait"] <= 1800


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 410, 422])
async def test_a_receiver_that_does_not_want_it_is_not_asked_again(stage: Stage, status: int) -> None:
    with Receiver(status=lambda _: status) as elsewhere, Receiver(status=lambda _: status) as receiver:
        receiver.headers = {"location": elsewhere.url}
        await ended(stage, receiver.url)
        async with courier(stage):
            [row] = await settled(stage, "failed")
        assert (row["attempt"], row["last_error"]) == (1, str(status))
        assert (len(receiver.calls), elsewhere.calls) == (1, [])


async def test_an_absent_receiver_is_told_when_it_is_there(stage: Stage) -> None:
    port = free_port()
    run_id = await ended(stage, f"http://127.0.0.1:{port}/")
    async with courier(stage):
        await until(lambda: _postponed(stage))
        with Receiver(port=port) as receiver:
            await hurry(stage)
            await settled(stage, "delivered")
            assert [call.told["run_id"] for call in receiver.calls] == [str(run_id)]


async def test_a_delivery_that_nobody_ever_takes_is_given_up_and_kept(stage: Stage) -> None:
    await ended(stage, f"http://127.0.0.1:{free_port()}/")
    await stage.sql("UPDATE holdfast.deliveries SET attempt = %s", MOST_ATTEMPTS - 1)
    async with courier(stage):
        [row] = await settled(stage, "failed")
    assert row["attempt"] == MOST_ATTEMPTS
    assert "ConnectError" in row["last_error"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://169.254.169.254/latest", "ftp://a/", "http://[::1"])
async def test_an_address_that_is_not_allowed_any_more_is_not_asked(stage: Stage, url: str) -> None:
    await ended(stage, url)
    async with courier(stage, Post(UrlPolicy())):
        [row] = await settled(stage, "failed")
    assert row["last_error"].startswith("Invalid webhook")


async def test_a_slow_receiver_holds_up_nobody_else(stage: Stage) -> None:
    with Receiver() as slow, Receiver() as quick:
        slow.gate.clear()
        for _ in range(3 * PER_RECEIVER):
            await ended(stage, slow.url)
        for _ in range(3):
            await ended(stage, quick.url)
        async with courier(stage):
            await until(lambda: len(quick.calls) == 3)
            assert PER_RECEIVER <= len(slow.calls) < 2 * PER_RECEIVER
            slow.gate.set()
            await settled(stage, "delivered")
        assert len({call.id for call in slow.calls}) == len(slow.calls) == 3 * PER_RECEIVER


async def test_what_was_under_way_when_its_courier_stopped_is_sent_again(stage: Stage) -> None:
    with Receiver() as receiver:
        receiver.gate.clear()
        await ended(stage, receiver.url)
        async with courier(stage):
            await until(lambda: len(receiver.calls) == 1)
        receiver.gate.set()
        async with courier(stage):
            [row] = await settled(stage, "delivered")
        assert [call.id for call in receiver.calls] == [str(row["delivery_id"])] * 2


async def test_a_receiver_that_answers_without_end_is_not_listened_to(stage: Stage) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    async with server:
        await ended(stage, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        async with courier(stage):
            await settled(stage, "delivered")
