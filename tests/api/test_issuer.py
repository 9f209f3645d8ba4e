"""The keys of an issuer: fetched when they are needed and not more often, and kept when the issuer answers nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from holdfast.api.issuer import AGAIN_SECONDS, MOST_BYTES
from holdfast.api.issuer import Issuer as Known
from holdfast.errors import IssuerAway
from tests.support.issuer import Issuer, new_key
from tests.support.talk import eventually

pytestmark = pytest.mark.anyio


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    issuer.add("one")
    with issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def known(issuer: Issuer, clock: Clock) -> AsyncIterator[Known]:
    async with httpx.AsyncClient() as client:
        yield Known(issuer.url, None, client, clock=clock)


async def test_keys_are_fetched_once_however_many_ask(issuer: Issuer, known: Known) -> None:
    keys = await asyncio.gather(*(known.key("one", "ES256") for _ in range(50)))
    assert None not in keys
    assert issuer.paths == ["/.well-known/openid-configuration", "/keys"]


async def test_an_unknown_name_is_asked_for_once_in_a_while(issuer: Issuer, known: Known, clock: Clock) -> None:
    assert await known.key("one", "ES256")
    for _ in range(3):
        before = len(issuer.paths)
        clock.now += AGAIN_SECONDS
        found = await asyncio.gather(*(known.key(f"made up {number}", "ES256") for number in range(50)))
        assert set(found) == {None}
        assert len(issuer.paths) == before + 2
    issuer.add("two")
    assert await known.key("two", "ES256") is None
    clock.now += AGAIN_SECONDS
    assert await known.key("two", "ES256")


async def test_a_key_verifies_its_own_algorithms_alone(issuer: Issuer, known: Known, clock: Clock) -> None:
    issuer.add("rsa", "RS256")
    for algorithm, names in {
        "ES256": {"one"},
        "RS256": {"rsa"},
        "PS512": {"rsa"},
        "ES384": set(),
        "HS256": set(),
    }.items():
        clock.now += AGAIN_SECONDS
        assert {name for name in ("one", "rsa") if await known.key(name, algorithm)} == names


async def test_a_token_without_a_name_is_the_only_keys_or_nobodys(issuer: Issuer, known: Known, clock: Clock) -> None:
    assert await known.key(None, "ES256")
    issuer.add("two")
    clock.now += AGAIN_SECONDS
    assert await known.key("two", "ES256")
    assert await known.key(None, "ES256") is None


BROKEN: list[tuple[int, dict[str, str], bytes]] = [
    (500, {}, b"{}"),
    (200, {}, b"not json"),
    (200, {}, b"[]"),
    (200, {}, b'{"issuer": "https://another.example.org", "jwks_uri": "https://another.example.org"}'),
    (200, {}, b"{" + b" " * MOST_BYTES + b"}"),
    (200, {"content-encoding": "gzip"}, b"\x1f\x8b"),
    (302, {"location": "http://169.254.169.254/latest"}, b""),
]


@pytest.mark.parametrize("broken", BROKEN)
async def test_keys_stay_while_the_issuer_answers_nonsense(
    issuer: Issuer, known: Known, clock: Clock, broken: tuple[int, dict[str, str], bytes]
) -> None:
    assert await known.key("one", "ES256")
    issuer.broken = broken
    clock.now += AGAIN_SECONDS
    assert await known.key("two", "ES256") is None
    assert await known.key("one", "ES256")


@pytest.mark.parametrize("broken", BROKEN)
async def test_an_issuer_that_never_answered_is_not_the_tokens_fault(
    issuer: Issuer, known: Known, clock: Clock, broken: tuple[int, dict[str, str], bytes]
) -> None:
    issuer.broken = broken
    with pytest.raises(IssuerAway):
        await known.key("one", "ES256")
    issuer.broken = None
    with pytest.raises(IssuerAway):
        await known.key("one", "ES256")
    clock.now += AGAIN_SECONDS
    assert await known.key("one", "ES256")


@pytest.mark.parametrize("uri", ["http://id.example.org/keys", "file:///etc/passwd", "", None, 5, "https://"])
async def test_metadata_that_sends_us_to_an_open_place_is_refused(issuer: Issuer, known: Known, uri: Any) -> None:
    issuer.broken = (200, {}, json.dumps({"issuer": issuer.url, "jwks_uri": uri}).encode())
    with pytest.raises(IssuerAway):
        await known.key("one", "ES256")
    assert issuer.paths == ["/.well-known/openid-configuration"]


def jwk(algorithm: str, **fields: Any) -> dict[str, Any]:
    [made] = Issuer(listed={"key": (algorithm, new_key(algorithm))}).jwks()["keys"]
    return {**made, **fields}


WEAK = Issuer(listed={"key": ("RS256", rsa.generate_private_key(65537, 1024))}).jwks()["keys"][0]


@pytest.mark.parametrize(
    "odd",
    [
        5,
        {},
        {"kty": ["RSA"]},
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "key"},
        jwk("RS256", use="enc"),
        jwk("RS256", alg="HS256"),
        jwk("RS256", alg="none"),
        jwk("ES256", alg="RS256"),
        jwk("ES256", crv="secp256k1"),
        jwk("ES256", crv=["P-256"]),
        jwk("ES256", x="!"),
        jwk("ES256", x=5),
        jwk("EdDSA", crv="X25519"),
        jwk("RS256", n=""),
        jwk("RS256", n=None),
        WEAK,
    ],
)
async def test_a_key_that_cannot_verify_is_left_out_and_the_others_are_not(
    issuer: Issuer, clock: Clock, odd: Any
) -> None:
    [good] = issuer.jwks()["keys"]
    issuer.broken = (200, {}, json.dumps({"keys": [odd, good]}).encode())
    async with httpx.AsyncClient() as client:
        known = Known(issuer.url, f"{issuer.url}/keys", client, clock=clock)
        assert await known.key("one", "ES256")
        for algorithm in ("RS256", "ES256", "EdDSA", "HS256", "none"):
            assert await known.key("key", algorithm) is None


async def test_the_keys_are_kept_fresh_without_any_request(issuer: Issuer, known: Known) -> None:
    watching = asyncio.create_task(known.watch())

    async def was_asked() -> bool:
        return len(issuer.paths) == 2

    await eventually(was_asked, "both documents are fetched")
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
