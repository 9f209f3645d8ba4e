"""What a process remembers of keys: for how long, how much of it, and what it asks the database for."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
from psycopg.rows import DictRow

from holdfast.api.apikeys import KNOWN_SECONDS, LOOKUPS_AT_ONCE, MOST_UNKNOWN, StoredKeys
from holdfast.db.apikeys import ApiKeys
from holdfast.db.pool import Database
from holdfast.errors import DatabaseError
from holdfast.keys import new_key
from holdfast.rules.apikey import ID_BYTES, SECRET_BYTES, written
from tests.support.keys import id_of

pytestmark = pytest.mark.anyio

MOMENT = 0.01


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Counted(ApiKeys):
    """The repository, and how often it was asked, and by how many at once."""

    finds = 0
    under_way = 0
    most_under_way = 0

    async def find(self, key_id: str) -> DictRow | None:
        self.finds += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await super().find(key_id)
        finally:
            self.under_way -= 1


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, size=8)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def keys(database: Database) -> Counted:
    return Counted(database)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def way(keys: Counted, clock: Clock) -> StoredKeys:
    return StoredKeys(keys, clock=clock)


def made_up() -> str:
    return written(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))


async def test_a_key_is_remembered_for_some_seconds_and_not_longer(
    way: StoredKeys, keys: Counted, clock: Clock
) -> None:
    key = await new_key(keys, "ada", (), None)
    for _ in range(20):
        assert await way.caller(key)
    assert keys.finds == 1
    await keys.revoke(id_of(key))
    clock.now += KNOWN_SECONDS - MOMENT
    assert await way.caller(key)
    clock.now += 2 * MOMENT
    assert await way.caller(key) is None
    assert keys.finds == 2


async def test_that_there_is_no_such_key_is_remembered_as_long(way: StoredKeys, keys: Counted, clock: Clock) -> None:
    key = made_up()
    for _ in range(20):
        assert await way.caller(key) is None
    assert keys.finds == 1
    clock.now += KNOWN_SECONDS
    assert await way.caller(key) is None
    assert keys.finds == 2


async def test_a_key_ends_on_time_though_it_is_remembered(way: StoredKeys, keys: Counted, clock: Clock) -> None:
    key = await new_key(keys, "ada", (), 2)
    assert await way.caller(key)
    clock.now += 2
    assert await way.caller(key) is None
    assert keys.finds == 1


async def test_a_wrong_secret_is_refused_from_memory(way: StoredKeys, keys: Counted) -> None:
    key = await new_key(keys, "ada", (), None)
    for _ in range(20):
        wrong = f"hf_{id_of(key)}_{secrets.token_hex(SECRET_BYTES)}"
        assert await way.caller(wrong) is None
    assert keys.finds == 1


async def test_made_up_keys_push_no_real_one_out_and_take_few_connections(way: StoredKeys, keys: Counted) -> None:
    key = await new_key(keys, "ada", (), None)
    assert await way.caller(key)
    answers = await asyncio.gather(*(way.caller(made_up()) for _ in range(MOST_UNKNOWN + 100)))
    assert set(answers) == {None}
    assert keys.most_under_way <= LOOKUPS_AT_ONCE
    before = keys.finds
    assert await way.caller(key)
    assert keys.finds == before


async def test_a_key_in_much_use_is_looked_up_by_few_when_it_is_stale(
    way: StoredKeys, keys: Counted, clock: Clock
) -> None:
    key = await new_key(keys, "ada", (), None)
    assert await way.caller(key)
    clock.now += KNOWN_SECONDS
    assert None not in await asyncio.gather(*(way.caller(key) for _ in range(200)))
    assert keys.finds <= 1 + LOOKUPS_AT_ONCE


async def test_while_the_database_is_away_only_what_is_remembered_comes_in(
    way: StoredKeys, keys: Counted, clock: Clock, database: Database
) -> None:
    key = await new_key(keys, "ada", (), None)
    assert await way.caller(key)
    await database.close()
    assert await way.caller(key)
    with pytest.raises(DatabaseError):
        await way.caller(made_up())
    clock.now += KNOWN_SECONDS
    with pytest.raises(DatabaseError):
        await way.caller(key)
