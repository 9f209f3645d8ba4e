"""Alerts of real servers: two replicas send one message, and a killed one loses none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.receiver import Receiver
from tests.support.server import Server, with_sections
from tests.support.talk import join, new_thread, start, until

TOKEN = "T0KEN"
SECRET = "SECfeishu"
LOCAL = {"url": {"disable_loopback": False}}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(answer=lambda _: b'{"code":0}') as receiver:
        yield receiver


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as url:
        yield url


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return with_sections(
        PROJECT,
        tmp_path,
        webhooks=LOCAL,
        alerts={
            "name": "test",
            "webhooks": [
                {"url": "${{ env.LG_WEBHOOK_ALERTS }}", "shape": "feishu", "secret": "${{ env.LG_WEBHOOK_KEY }}"}
            ],
            "approval_wait_seconds": 0.001,
        },
    )


@pytest.fixture
def server(config: Path, database: str, receiver: Receiver) -> Callable[..., Server]:
    def make(part: str = "serve", **environment: str) -> Server:
        given = {"LG_WEBHOOK_ALERTS": f"{receiver.url}/{TOKEN}", "LG_WEBHOOK_KEY": SECRET, **environment}
        return Server(part=part, config=config, database_url=database, **given)

    return make


def rows(database: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database, autocommit=True) as conn:
        return conn.execute(query).fetchall()  # type: ignore[arg-type]


def a_round_passes(database: str) -> None:
    """Make the next round due, and wait until somebody has made it."""
    rows(database, "UPDATE holdfast.alert_rounds SET looked_at = '-infinity' RETURNING 1")
    until(lambda: rows(database, "SELECT 1 FROM holdfast.alert_rounds WHERE looked_at > '-infinity'"), "a round")


def test_two_replicas_tell_of_a_question_once_and_of_its_end_once(
    server: Callable[..., Server], database: str, receiver: Receiver
) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(server()) for _ in range(2)]
        with servers[0].http(timeout=30) as talk:
            thread = new_thread(talk)
            run = start(talk, thread, "approve", input={})
            join(talk, thread, run)
            a_round_passes(database)
            [call] = receiver.wait()
            said = call.told["content"]["text"]
            assert said.startswith("[Holdfast test] warning: Questions wait for an answer")
            assert thread in said
            assert set(call.told) == {"timestamp", "sign", "msg_type", "content"}
            a_round_passes(database)
            assert len(receiver.calls) == 1
            join(talk, thread, start(talk, thread, "approve", command={"resume": "yes"}))
        rows(database, "UPDATE holdfast.alerts SET seen_at = seen_at - interval '1 h' RETURNING 1")
        a_round_passes(database)
        over = receiver.wait(2)[1]
        assert over.told["content"]["text"].startswith("[Holdfast test] over: Questions wait")
        a_round_passes(database)
        assert len(receiver.calls) == 2
        logs = "".join(one.log for one in servers)
    assert TOKEN not in logs
    assert SECRET not in logs


def test_an_alert_outlives_a_server_that_is_killed_before_it_is_delivered(
    server: Callable[..., Server], database: str, receiver: Receiver
) -> None:
    receiver.gate.clear()
    with server() as first:
        with first.http(timeout=30) as talk:
            thread = new_thread(talk)
            join(talk, thread, start(talk, thread, "approve", input={}))
        a_round_passes(database)
        receiver.wait()
        os.kill(first.pid, signal.SIGKILL)
        assert rows(database, "SELECT state FROM holdfast.deliveries") == [("waiting",)]
    receiver.gate.set()
    with server():
        receiver.wait(2)
        until(
            lambda: rows(database, "SELECT state, attempt FROM holdfast.deliveries") == [("delivered", 2)],
            "the delivery",
        )
    assert len({call.body.partition(b"content")[2] for call in receiver.calls}) == 1


def test_an_api_process_tells_that_no_worker_is_alive(
    server: Callable[..., Server], database: str, receiver: Receiver
) -> None:
    with server("api") as api:
        until(lambda: rows(database, "SELECT 1 FROM holdfast.alerts WHERE kind = 'no_worker'"), "the sighting")
        rows(database, "UPDATE holdfast.alerts SET since = since - interval '1 h' RETURNING 1")
        a_round_passes(database)
        [call] = receiver.wait()
        with api.http(timeout=30) as talk:
            assert 'holdfast_alerts_firing{kind="no_worker"} 1.0' in talk.get("/metrics").text
            assert talk.get("/metrics", params={"format": "json"}).json()["alerts"]["no_worker"] == 1
    assert "critical: No worker is alive" in call.told["content"]["text"]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HOLDFAST_ALERT_WEBHOOK": f"teams+https://a/{TOKEN}"}, "HOLDFAST_ALERT_WEBHOOK must be URLs"),
        ({"HOLDFAST_ALERT_WEBHOOK": f"slack+http://169.254.169.254/{TOKEN}"}, "169.254.169.254 is not allowed"),
        ({"LG_WEBHOOK_ALERTS": ""}, "must start with http"),
        ({"LG_WEBHOOK_ALERTS": f"/{TOKEN}"}, "must be a whole URL"),
    ],
)
def test_a_webhook_that_cannot_be_used_ends_the_start_without_being_quoted(
    server: Callable[..., Server], environment: dict[str, str], said: str
) -> None:
    with pytest.raises(AssertionError, match="did not start") as failed, server(**environment):
        pass
    assert said in str(failed.value)
    assert TOKEN not in str(failed.value)
