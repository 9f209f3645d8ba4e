"""A state that cannot be read is said to be so, by whoever meets it; its bytes stay what they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from langgraph_sdk.errors import ConflictError

from tests.healing.test_dangling import human
from tests.support.server import Server
from tests.support.talk import get_thread, join, new_thread, refused, start, wait

DAMAGES = {
    "cut off": "SET blob = substring(blob FROM 1 FOR length(blob) - 4)",
    "no msgpack": "SET blob = '\\xc1c1c1'",
    "of an unknown kind": "SET type = 'parquet'",
    "a pickle of a class that is gone": "SET type = 'pickle', blob = '\\x80049516000000'",
    "an extension that nobody knows": "SET blob = '\\xc70109ff'",
    "a message with damaged fields": "SET blob = '\\x91c70405ffffffff'",
}


def damage(url: str, thread: str, how: str) -> None:
    """Change the newest bytes of the conversation."""
    with psycopg.connect(url, autocommit=True) as conn:
        changed = conn.execute(
            f"UPDATE checkpoint_blobs {DAMAGES[how]} WHERE thread_id = %s AND channel = 'messages'", [thread]
        )
        assert changed.rowcount


def stored(url: str, thread: str) -> list[Any]:
    with psycopg.connect(url) as conn:
        return [
            conn.execute(f"SELECT * FROM {table} WHERE thread_id = %s ORDER BY 1, 2, 3, 4", [thread]).fetchall()
            for table in ("checkpoints", "checkpoint_blobs")
        ]


@pytest.fixture
def damaged(http: httpx.Client, strict_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A thread whose conversation has been damaged; nothing of it may change."""
    thread = new_thread(http)
    wait(http, thread, "added", input=human("hello"))
    damage(strict_url, thread, getattr(request, "param", "cut off"))
    before = stored(strict_url, thread)
    yield thread
    assert stored(strict_url, thread) == before


@pytest.mark.requirement("healing.unreadable_state")
@pytest.mark.parametrize("damaged", DAMAGES, indirect=True)
def test_readers_are_told_which_channel_of_which_checkpoint(http: httpx.Client, damaged: str) -> None:
    for answer in (
        http.get(f"/threads/{damaged}/state"),
        http.get(f"/threads/{damaged}/history"),
        http.post(f"/threads/{damaged}/state", json={"values": human("more"), "as_node": "agent"}),
    ):
        detail = refused(answer, 409)
        assert "channel 'messages'" in detail
        assert "checkpoint 1" in detail


@pytest.mark.anyio
async def test_the_sdk_raises(damaged: str, strict: Server) -> None:
    async with strict.client() as client:
        with pytest.raises(ConflictError):
            await client.threads.get_state(damaged)
        with pytest.raises(ConflictError):
            await client.threads.get_history(damaged)


@pytest.mark.requirement("healing.unreadable_run")
@pytest.mark.parametrize("damaged", ["cut off", "a message with damaged fields"], indirect=True)
def test_a_run_fails_and_the_thread_says_why(http: httpx.Client, damaged: str) -> None:
    before = get_thread(http, damaged)
    run = start(http, damaged, "added", input=human("more"))
    error = join(http, damaged, run)["__error__"]
    assert error["error"] == "Unreadable"
    assert "channel 'messages'" in error["message"]
    after = get_thread(http, damaged)
    assert after["status"] == "error"
    assert after["error"] == error
    assert after["values"] == before["values"]


def test_a_repair_marks_the_thread_once(http: httpx.Client, damaged: str) -> None:
    first = http.post(f"/threads/{damaged}/repair", json={}).json()
    assert [finding["kind"] for finding in first["findings"]] == ["unreadable_state"]
    assert first["repaired"] == ["unreadable_state"]
    assert get_thread(http, damaged)["status"] == "error"
    second = http.post(f"/threads/{damaged}/repair", json={}).json()
    assert (second["findings"], second["repaired"]) == (first["findings"], [])


def test_a_damaged_write_of_a_delta_channel_is_found_too(http: httpx.Client, thread: str, strict_url: str) -> None:
    wait(http, thread, "delta", input=human("hello"))
    with psycopg.connect(strict_url, autocommit=True) as conn:
        conn.execute(
            "UPDATE checkpoint_writes SET blob = '\\xc1' WHERE thread_id = %s AND channel = 'messages'", [thread]
        )
    assert "'messages'" in refused(http.get(f"/threads/{thread}/state"), 409)
    run = start(http, thread, "delta", input=human("more"))
    assert join(http, thread, run)["__error__"]["error"] == "Unreadable"
    assert get_thread(http, thread)["status"] == "error"
