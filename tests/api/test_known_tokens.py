"""What a process remembers of tokens: for a moment, and never longer than they live."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import httpx
import pytest

from holdfast.api.issuer import AGAIN_SECONDS, SigningKey
from holdfast.api.issuer import Issuer as Keys
from holdfast.api.tokens import KNOWN_SECONDS, LEEWAY_SECONDS, Tokens, TokenTerms
from tests.support.issuer import AUDIENCE, Issuer

pytestmark = pytest.mark.anyio


class Clock:
    """Time that passes when it is told to, from now on."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    issuer.add("one")
    with issuer:
        yield issuer


class Counted(Keys):
    """The issuer's keys, and how often one was asked for."""

    asked = 0

    async def key(self, kid: str | None, algorithm: str) -> SigningKey | None:
        self.asked += 1
        return await super().key(kid, algorithm)


@pytest.fixture
async def keys(issuer: Issuer, clock: Clock) -> AsyncIterator[Counted]:
    async with httpx.AsyncClient() as client:
        yield Counted(issuer.url, None, client, clock=clock)


@pytest.fixture
def tokens(keys: Counted, clock: Clock) -> Tokens:
    return Tokens(keys, TokenTerms(AUDIENCE), clock=clock)


async def test_a_token_whose_key_is_gone_is_worth_nothing_after_some_seconds(
    tokens: Tokens, issuer: Issuer, clock: Clock
) -> None:
    token = issuer.token()
    assert await tokens.caller(token)
    issuer.add("two")
    del issuer.listed["one"]
    clock.now += AGAIN_SECONDS
    assert await tokens.caller(issuer.token("two"))
    assert await tokens.caller(token) is None


async def test_a_token_is_verified_once_in_a_while_and_when_it_ends(
    tokens: Tokens, keys: Counted, issuer: Issuer, clock: Clock
) -> None:
    token, ending = issuer.token(), issuer.token(exp=int(clock.now) + 2 - LEEWAY_SECONDS)
    for _ in range(20):
        assert await tokens.caller(token)
        assert await tokens.caller(ending)
    assert keys.asked == 2
    clock.now += 2
    await tokens.caller(ending)
    assert keys.asked == 3
    assert await tokens.caller(token)
    assert keys.asked == 3
    clock.now += KNOWN_SECONDS
    assert await tokens.caller(token)
    assert keys.asked == 4


async def test_a_remembered_token_lends_nothing_to_one_that_is_like_it(tokens: Tokens, issuer: Issuer) -> None:
    token = issuer.token()
    assert await tokens.caller(token)
    head, body, signature = token.split(".")
    other = issuer.token(sub="bob").split(".")[1]
    for forged in (f"{head}.{other}.{signature}", f"{head}.{body}.", f"{head}.{body}.{signature}A"):
        assert await tokens.caller(forged) is None
