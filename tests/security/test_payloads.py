"""Planted payloads never run, wherever they lie: what is stored is read as data or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.conftest import PROJECT
from tests.security.payloads import data, stored
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import join, new_thread, start, wait

SECRET = "the-value-of-a-variable"
NAMES = [name for name, _, _ in stored(Path("/nowhere"))]


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as url:
        yield url


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with Server(database_url=url, config=PROJECT, PLANTED_SECRET=SECRET) as running, running.http(timeout=30) as client:
        yield client


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A file that nobody makes."""
    trap = tmp_path / "executed"
    yield trap
    assert not trap.exists()


def plant(url: str, table: str, thread: str, kind: str, blob: bytes) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        changed = conn.execute(f"UPDATE {table} SET type = %s, blob = %s WHERE thread_id = %s", [kind, blob, thread])
        assert changed.rowcount


def read_everything(http: httpx.Client, thread: str) -> list[httpx.Response]:
    """All roads to what a thread's checkpoints hold."""
    path = f"/threads/{thread}"
    return [
        http.get(path),
        http.get(f"{path}/state", params={"subgraphs": "true"}),
        http.get(f"{path}/history"),
        http.post(f"{path}/state", json={"values": {"log": ["more"]}}),
        http.post(f"{path}/copy"),
        http.post(f"{path}/repair", json={}),
        http.post("/threads/search", json={"ids": [thread]}),
        http.post(f"{path}/runs/wait", json={"assistant_id": "steps", "input": {"count": 1}}),
        http.post("/threads/prune", json={"thread_ids": [thread], "strategy": "keep_latest"}),
    ]


def test_the_traps_work(tmp_path: Path) -> None:
    """What a careless reader would do with them."""
    import pickle

    trap = tmp_path / "executed"
    [blob] = [blob for name, _, blob in stored(trap) if name == "pickle"]
    pickle.loads(blob)
    assert trap.exists()


@pytest.mark.parametrize("name", NAMES)
def test_what_a_checkpoint_holds_is_not_executed(http: httpx.Client, url: str, trap: Path, name: str) -> None:
    [(kind, blob)] = [(kind, blob) for known, kind, blob in stored(trap) if known == name]
    thread = new_thread(http)
    wait(http, thread, "steps", input={"count": 1, "log": ["x"]})
    plant(url, "checkpoint_blobs", thread, kind, blob)
    answers = read_everything(http, thread)
    assert max(answer.status_code for answer in answers) < 500
    assert SECRET not in "".join(answer.text for answer in answers)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_checkpoints_writes_hold_is_not_executed(http: httpx.Client, url: str, trap: Path, name: str) -> None:
    [(kind, blob)] = [(kind, blob) for known, kind, blob in stored(trap) if known == name]
    thread = new_thread(http)
    join(http, thread, start(http, thread, "approve", input={"log": ["x"]}))
    plant(url, "checkpoint_writes", thread, kind, blob)
    answers = read_everything(http, thread)
    answers.append(
        http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "approve", "command": {"resume": "yes"}})
    )
    assert max(answer.status_code for answer in answers) < 500


@pytest.mark.parametrize("name", [name for name, _ in data(Path("/nowhere"))])
def test_what_a_client_says_stays_data(http: httpx.Client, url: str, trap: Path, name: str) -> None:
    [said] = [said for known, said in data(trap) if known == name]
    thread = new_thread(http, metadata={"m": said})
    body: dict[str, Any] = {"input": {"count": 1, "log": [said]}, "metadata": {"m": said}, "context": {"c": said}}
    assert wait(http, thread, "steps", **body)["log"][0] == said
    assert http.post(f"/threads/{thread}/state", json={"values": {"log": [said]}}).status_code == 200
    assert http.get(f"/threads/{thread}/state").json()["values"]["log"][-1] == said
    item = {"namespace": ["n"], "key": name, "value": said}
    assert http.put("/store/items", json=item).status_code == 204
    assert http.get("/store/items", params={"namespace": "n", "key": name}).json()["value"] == said
    made = http.post(
        "/assistants", json={"graph_id": "steps", "metadata": said, "config": {"configurable": {"c": said}}}
    )
    assert made.json()["metadata"] == said
    cron = {"assistant_id": "steps", "schedule": "0 0 1 1 *", "input": {"log": [said]}, "metadata": said}
    assert http.post("/runs/crons", json=cron).json()["payload"]["input"]["log"] == [said]
    message = {"role": "user", "content": [{"type": "text", "text": "hello"}], "additional_kwargs": said}
    answer = http.post("/runs/wait", json={"assistant_id": "echo", "input": {"messages": [message]}})
    assert answer.status_code == 200
    seen = [answer.text, *(one.text for one in read_everything(http, thread))]
    assert SECRET not in "".join(seen)


def test_what_lies_in_the_store_and_in_a_waiting_run_stays_data(http: httpx.Client, url: str, trap: Path) -> None:
    said = [said for _, said in data(trap)]
    thread = new_thread(http)
    run = start(http, thread, "steps", input={"count": 1, "log": ["x"]}, after_seconds=3600)
    http.put("/store/items", json={"namespace": ["planted"], "key": "k", "value": {"a": 1}})
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("UPDATE store SET value = %s WHERE key = 'k'", [json.dumps({"a": said})])
        row = conn.execute("SELECT kwargs FROM holdfast.runs WHERE run_id = %s", [run]).fetchone()
        assert row is not None
        asked = json.loads(bytes(row[0]))
        asked["input"]["log"] = said
        changes = [json.dumps(asked).encode(), run]
        conn.execute("UPDATE holdfast.runs SET kwargs = %s, available_at = now() WHERE run_id = %s", changes)
    assert join(http, thread, run)["log"][: len(said)] == said
    assert http.get("/store/items", params={"namespace": "planted", "key": "k"}).json()["value"] == {"a": said}
    assert os.environ.get("PLANTED_SECRET") is None
