"""The public keys of a token issuer (JWKS), fetched and kept.

Theory of operation. `watch` fetches the keys at the start and again every few minutes, so that a request waits for a
fetch only if its token names a key that is not known yet: the issuer has changed to a new one, or the token is made up.
Then they are fetched once more, at most once in `AGAIN_SECONDS`, however many such tokens come. Keys stay as they are
while the issuer does not answer; what it does not list any more when it does, is gone.

A fetch is bounded in time and size and follows no redirect: whoever can answer in the issuer's place decides who comes
in.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm

from holdfast.errors import IssuerAway
from holdfast.settings import is_private

logger = logging.getLogger(__name__)

FETCH_SECONDS = 5.0
AGAIN_SECONDS = 5.0
FRESH_SECONDS = 300.0
RETRY_SECONDS = 15.0
MOST_BYTES = 256 * 1024
MOST_KEYS = 100
MIN_RSA_BITS = 2048

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_BY_CURVE = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
ALGORITHMS = _RSA | frozenset(_BY_CURVE.values())
"""Asymmetric ones alone: with a shared secret (HS256), who can verify can also sign, and public keys are public."""

_PLAIN = {"accept": "application/json", "accept-encoding": "identity"}
"""What is packed may be larger than it looks."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key, and the algorithms that it may verify: its kind's, or the one that its issuer says."""

    kid: str | None
    key: Any
    algorithms: frozenset[str]


class _Unusable(Exception):
    """What the issuer answered cannot be used; says why."""


class Issuer:
    """Where tokens come from."""

    def __init__(
        self,
        name: str,
        jwks_url: str | None,
        client: httpx.AsyncClient,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` is the issuer as its tokens have it, a URL; its metadata is there unless `jwks_url` is given."""
        self.name = name
        self._jwks_url = jwks_url
        self._client = client
        self._clock = clock
        self._keys: Sequence[SigningKey] | None = None
        self._asked = float("-inf")
        self._fetching = asyncio.Lock()

    async def watch(self) -> None:
        """Keep the keys fresh, for ever."""
        while True:
            async with self._fetching:
                fetched = await self._fetch()
            await asyncio.sleep(FRESH_SECONDS if fetched else RETRY_SECONDS)

    async def key(self, kid: str | None, algorithm: str) -> SigningKey | None:
        """The key of this name, if it verifies this algorithm; without a name the only one that does.

        Raises:
            IssuerAway: there are no keys at all, because the issuer has not answered yet.
        """
        found = self._among(kid, algorithm)
        if found is None and self._may_ask():
            async with self._fetching:
                if self._may_ask():
                    await self._fetch()
            found = self._among(kid, algorithm)
        if found is None and self._keys is None:
            raise IssuerAway("Tokens cannot be judged right now: their issuer does not answer.")
        return found

    def _may_ask(self) -> bool:
        return self._clock() - self._asked >= AGAIN_SECONDS

    def _among(self, kid: str | None, algorithm: str) -> SigningKey | None:
        fitting = [key for key in self._keys or () if algorithm in key.algorithms and (kid is None or key.kid == kid)]
        return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None

    async def _fetch(self) -> bool:
        """Fetch the keys; whether that worked. If not, they stay as they were."""
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                url = self._jwks_url or await self._discovered()
                self._keys = _usable(await self._document(url))
        except (_Unusable, httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            logger.warning("the keys of the token issuer could not be fetched: %s", error or type(error).__name__)
            return False
        finally:
            self._asked = self._clock()
        return True

    async def _discovered(self) -> str:
        """Where the issuer says that its keys are (OpenID Connect Discovery 1.0)."""
        found = await self._document(f"{self.name.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self.name:
            raise _Unusable("its metadata is of another issuer: HOLDFAST_JWT_ISSUER must be written as it is there")
        url = found.get("jwks_uri")
        if not isinstance(url, str) or not is_private(url):
            raise _Unusable("its metadata names no https URL as jwks_uri")
        return url

    async def _document(self, url: str) -> Mapping[str, Any]:
        received = bytearray()
        async with self._client.stream("GET", url, headers=_PLAIN) as answer:
            if answer.status_code != 200:
                raise _Unusable(f"{url} answered {answer.status_code}")
            async for chunk in answer.aiter_raw():
                received += chunk
                if len(received) > MOST_BYTES:
                    raise _Unusable(f"{url} answered more than {MOST_BYTES} bytes")
        try:
            document = orjson.loads(received)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            raise _Unusable(f"{url} answered no JSON object")
        return document


def _usable(document: Mapping[str, Any]) -> Sequence[SigningKey]:
    """The keys that verify signatures of a kind that we accept; what else an issuer lists is left out."""
    listed = document.get("keys")
    if not isinstance(listed, list):
        raise _Unusable("its key set has no keys")
    found = [key for listed_key in listed[:MOST_KEYS] if (key := _signing_key(listed_key)) is not None]
    if not found:
        raise _Unusable("its key set has no key that could verify a token")
    return found


def _signing_key(jwk: Any) -> SigningKey | None:
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or jwk.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    kind = _RSA if jwk["kty"] == "RSA" else frozenset({_BY_CURVE.get(str(jwk.get("crv")), "")}) - {""}
    algorithms = kind & {jwk["alg"]} if isinstance(jwk.get("alg"), str) else kind
    if not algorithms:
        return None
    kid = jwk.get("kid")
    try:
        # A name is enough to make the key; which of `algorithms` verifies is said with each token.
        key = jwt.PyJWK(jwk, min(algorithms)).key
    except (jwt.PyJWTError, UnsupportedAlgorithm):
        return None
    if kind is _RSA and key.key_size < MIN_RSA_BITS:
        return None
    public = key.public_key() if hasattr(key, "private_numbers") or hasattr(key, "private_bytes") else key
    return SigningKey(kid if isinstance(kid, str) else None, public, algorithms)
