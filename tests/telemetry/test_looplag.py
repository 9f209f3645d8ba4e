"""What blocks the event loop is named, once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import pytest
import uvloop

from holdfast.telemetry.looplag import watching
from holdfast.telemetry.metrics import Metrics
from tests.db.stage import until

LATE = 0.1
BLOCKED = 6 * LATE
WAIT_SECONDS = 30.0


def block() -> None:
    time.sleep(BLOCKED)


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "event loop" in record.getMessage()]


def late(metrics: Metrics) -> float:
    [metric] = metrics.lag_seconds.collect()
    counts = {sample.labels.get("le"): sample.value for sample in metric.samples if sample.name.endswith("_bucket")}
    return counts["+Inf"] - counts["0.25"]


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
@pytest.mark.parametrize("by", ["task", "callback"])
def test_who_blocks_the_loop_is_named_once(
    caplog: pytest.LogCaptureFixture, new_loop: Callable[[], asyncio.AbstractEventLoop], by: str
) -> None:
    async def blocking() -> None:
        block()

    async def watched() -> None:
        metrics = Metrics()
        with watching(LATE, metrics.lag_seconds):
            if by == "task":
                await asyncio.create_task(blocking())
            else:
                asyncio.get_running_loop().call_soon(block)
            await until(lambda: late(metrics) >= 1)  # which it counts after it has told
            [record] = told(caplog)
        assert "blocked the event loop" in record.getMessage()
        assert f"in block ({__file__}" in record.getMessage()
        assert "time.sleep(BLOCKED)" in record.__dict__["stack"]
        assert record.__dict__["blocked_seconds"] >= LATE

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(watched())


def test_many_who_take_a_moment_each_are_nobodys_fault(caplog: pytest.LogCaptureFixture) -> None:
    async def busy() -> None:
        time.sleep(LATE / 20)  # noqa: ASYNC251 - that is what is tried

    async def watched() -> None:
        metrics = Metrics()
        with watching(LATE, metrics.lag_seconds):
            while late(metrics) < 1:
                await asyncio.gather(*(busy() for _ in range(100)))

    asyncio.run(watched())
    assert not told(caplog)


def test_watching_ends_while_the_loop_is_blocked() -> None:
    async def watched() -> None:
        with watching(LATE, Metrics().lag_seconds):
            block()

    asyncio.run(asyncio.wait_for(watched(), WAIT_SECONDS))


def test_it_can_be_switched_off() -> None:
    async def watched() -> None:
        metrics = Metrics()
        with watching(0, metrics.lag_seconds):
            await asyncio.to_thread(time.sleep, LATE)
        [metric] = metrics.lag_seconds.collect()
        assert not any(sample.value for sample in metric.samples if sample.name.endswith("_count"))

    asyncio.run(watched())
