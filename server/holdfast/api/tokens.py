"""Tokens of an issuer (JWT, as OpenID Connect and OAuth 2.0 servers give them out), as a way in.

A token is good if a key of the issuer signed it with an asymmetric algorithm, it is for us (`aud`), and its time has
come and is not over. Everything else is nobody's; why is in the log, and not in the answer. A good one is remembered
for `KNOWN_SECONDS`, because verifying takes longer than all else that a gate does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import httpx
import jwt

from holdfast.api.issuer import ALGORITHMS, Issuer
from holdfast.api.newest import Newest
from holdfast.rules.caller import Caller, User
from holdfast.rules.scope import Scope, granted, permissions
from holdfast.settings import Settings

logger = logging.getLogger(__name__)

LEEWAY_SECONDS = 30
"""How far the issuer's clock may be off ours."""
KNOWN_SECONDS = 3.0
MOST_KNOWN = 4096
LONGEST_TOKEN = 16 * 1024
LONGEST_NAME = 256
REQUIRED = ["exp", "iss", "aud"]


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """What a token has to say, and what is read of it."""

    audience: str
    owner_claim: str = "sub"
    tenant_claim: str | None = None
    default_scopes: frozenset[str] = field(default_factory=frozenset)
    """Of tokens that name no scope of ours."""


def issuer_of(settings: Settings, client: httpx.AsyncClient) -> Issuer:
    assert settings.jwt_issuer is not None
    return Issuer(settings.jwt_issuer, settings.jwt_jwks_url, client)


def terms_of(settings: Settings) -> TokenTerms:
    assert settings.jwt_audience is not None
    return TokenTerms(
        audience=settings.jwt_audience,
        owner_claim=settings.jwt_owner_claim,
        tenant_claim=settings.jwt_tenant_claim,
        default_scopes=settings.jwt_default_scopes,
    )


class Tokens:
    """Tokens of one issuer."""

    def __init__(self, issuer: Issuer, terms: TokenTerms, *, clock: Callable[[], float] = time.time) -> None:
        self._issuer = issuer
        self._terms = terms
        self._clock = clock
        self._known: Newest[bytes, tuple[float, Caller]] = Newest(MOST_KNOWN)

    async def caller(self, credential: str) -> Caller | None:
        if credential.count(".") != 2 or len(credential) > LONGEST_TOKEN:
            return None
        digest, now = sha256(credential.encode()).digest(), self._clock()
        if (known := self._known.get(digest)) and now < known[0]:
            return known[1]
        found = await self._verified(credential)
        if found is None:
            return None
        claims, caller = found
        self._known.put(digest, (min(now + KNOWN_SECONDS, int(claims["exp"]) + LEEWAY_SECONDS), caller))
        return caller

    async def _verified(self, credential: str) -> tuple[Mapping[str, Any], Caller] | None:
        try:
            claims = await self._claims(credential)
            return (claims, _caller(claims, self._terms)) if claims is not None else None
        # The last three: numbers and nesting that the library does not expect.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # Not its text, which may repeat what was sent.
            logger.info("a token was refused: %s", type(error).__name__)
            return None

    async def _claims(self, token: str) -> Mapping[str, Any] | None:
        header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError
        key = await self._issuer.key(kid, algorithm)
        if key is None:
            logger.info("a token was refused: the issuer has no such key")
            return None
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=sorted(key.algorithms),
            audience=self._terms.audience,
            issuer=self._issuer.name,
            leeway=LEEWAY_SECONDS,
            options={"require": REQUIRED},
        )
        return claims


def _caller(claims: Mapping[str, Any], terms: TokenTerms) -> Caller:
    """Whose token it is.

    Raises:
        ValueError: it says that in no usable way.
    """
    owner = _name(claims, terms.owner_claim)
    if terms.tenant_claim is not None:
        # Quoted, a tenant has no slash: no two pairs make the same owner.
        owner = f"{quote(_name(claims, terms.tenant_claim), safe='')}/{owner}"
    names = frozenset(_scope_names(claims))
    scopes = granted(names) or granted(terms.default_scopes)
    may = permissions(names)
    user = User(identity=owner, display_name=_display_name(claims, owner), is_authenticated=True, permissions=list(may))
    return Caller(owner, user=user, permissions=may, scopes=scopes, alone=Scope.ADMIN in scopes)


def _name(claims: Mapping[str, Any], claim: str) -> str:
    value = claims.get(claim)
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= LONGEST_NAME:
        raise ValueError(f"the claim {claim!r} is no name")
    return value


def _display_name(claims: Mapping[str, Any], owner: str) -> str:
    known = (claims.get(claim) for claim in ("name", "preferred_username"))
    return next((name for name in known if isinstance(name, str) and name), owner)


def _scope_names(claims: Mapping[str, Any]) -> Iterator[str]:
    """The names in `scope` (text), `scp` (text or a list) and `permissions` (a list)."""
    for claim in ("scope", "scp", "permissions"):
        value = claims.get(claim)
        names = value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
        yield from (name for name in names if isinstance(name, str))
