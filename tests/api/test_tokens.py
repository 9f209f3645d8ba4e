"""Tokens of an issuer on a real server: which open the door, as whom, for what, and what never does."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import PROJECT
from tests.support.issuer import AUDIENCE, Issuer, new_key, public_pem, unsigned
from tests.support.postgres import Cluster
from tests.support.server import Server, refusal_to_start
from tests.support.talk import refused, until

ASYMMETRIC = ("RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA")
YEARS = 10**9


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    issuer.add("one")
    for algorithm in ASYMMETRIC:
        issuer.add(algorithm, algorithm)
    with issuer:
        yield issuer


def configured(issuer: Issuer, **more: str) -> dict[str, str]:
    return {"HOLDFAST_JWT_ISSUER": issuer.url, "HOLDFAST_JWT_AUDIENCE": AUDIENCE, **more}


@pytest.fixture(scope="module")
def server(cluster: Cluster, issuer: Issuer) -> Iterator[Server]:
    with cluster.database() as url, Server(database_url=url, config=PROJECT, **configured(issuer)) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.http(timeout=30) as client:
        yield client


def asked(http: httpx.Client, token: str) -> httpx.Response:
    return http.post("/threads/search", json={}, headers={"authorization": f"Bearer {token}"})


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_token_signed_by_the_issuer_opens_the_door(http: httpx.Client, issuer: Issuer, algorithm: str) -> None:
    assert asked(http, issuer.token(algorithm)).status_code == 200
    assert http.post("/threads/search", json={}, headers={"x-api-key": issuer.token(algorithm)}).status_code == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "never"},
        {"exp": float("inf")},
        {"nbf": YEARS * 4},
        {"iat": YEARS * 4},
        {"aud": None},
        {"aud": "another"},
        {"aud": ["another", "others"]},
        {"aud": {"holdfast": True}},
        {"iss": None},
        {"iss": "https://another.example.org"},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\0b"},
        {"sub": "x" * 300},
        {"sub": "holdfast"},
    ],
)
def test_a_token_that_is_not_for_us_or_not_for_now_is_refused(
    http: httpx.Client, issuer: Issuer, claims: dict[str, Any]
) -> None:
    refused(asked(http, issuer.token(**claims)), 401)


def test_a_clock_that_is_a_few_seconds_off_does_not_matter(http: httpx.Client, issuer: Issuer) -> None:
    now = int(time.time())
    assert asked(http, issuer.token(exp=now - 5)).status_code == 200
    assert asked(http, issuer.token(nbf=now + 10, iat=now + 10)).status_code == 200
    refused(asked(http, issuer.token(exp=now - 60)), 401)
    refused(asked(http, issuer.token(nbf=now + 120)), 401)


def test_a_token_without_a_signature_is_refused(http: httpx.Client, issuer: Issuer) -> None:
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ada", "exp": YEARS * 4, "scope": "admin"}
    for name in ("none", "None", "NONE", "nOnE", "", None, 5, ["ES256"]):
        for header in ({"alg": name}, {"alg": name, "kid": "one"}, {"alg": name, "kid": "one", "typ": "JWT"}):
            refused(asked(http, unsigned(claims, header)), 401)
            refused(asked(http, unsigned(claims, header, b"signed")), 401)
    whole = issuer.token()
    refused(asked(http, whole.rpartition(".")[0] + "."), 401)


@pytest.mark.parametrize("kid", ["RS256", "one"])
@pytest.mark.parametrize("algorithm", ["HS256", "HS512"])
def test_a_public_key_is_no_secret_to_sign_with(http: httpx.Client, issuer: Issuer, kid: str, algorithm: str) -> None:
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ada", "exp": YEARS * 4, "scope": "admin"}
    secret = public_pem(issuer.listed[kid][1])
    signed = unsigned(claims, {"alg": algorithm, "kid": kid, "typ": "JWT"}).rpartition(".")[0]
    digest = {"HS256": hashlib.sha256, "HS512": hashlib.sha512}[algorithm]
    signature = hmac.new(secret, signed.encode(), digest).digest()
    refused(asked(http, f"{signed}.{unsigned({}, {}, signature).rpartition('.')[2]}"), 401)


def test_another_key_under_a_known_name_is_refused(http: httpx.Client, issuer: Issuer) -> None:
    for algorithm in ASYMMETRIC:
        refused(asked(http, issuer.token(algorithm, key=new_key(algorithm))), 401)
    refused(asked(http, issuer.token("ES256", key=new_key("RS256"), algorithm="RS256")), 401)


def test_a_key_that_the_token_brings_along_means_nothing(http: httpx.Client, issuer: Issuer) -> None:
    own = new_key("ES256")
    from_elsewhere = Issuer(listed={"mine": ("ES256", own)})
    [jwk] = from_elsewhere.jwks()["keys"]
    for header in ({"jwk": jwk}, {"jku": f"{issuer.url}/mine"}, {"x5u": f"{issuer.url}/mine"}):
        for kid in ("mine", "one"):
            refused(asked(http, issuer.token(key=own, algorithm="ES256", headers={**header, "kid": kid})), 401)
    assert "/mine" not in issuer.paths


@pytest.mark.parametrize(
    "token",
    [
        "..",
        "a.b.c",
        "eyJhbGciOiJFUzI1NiJ9..",
        "eyJhbGciOiJFUzI1NiJ9.e30.",
        "e30.e30.e30",
        "W10.W10.W10",
        "bnVsbA.bnVsbA.bnVsbA",
        f"{'A' * 20_000}.e30.e30",
        f"{'W1tb' * 3_000}.e30.e30",
        "eyJhbGciOiJFUzI1NiIsImtpZCI6e319.e30.e30",
        "é.é.é",
    ],
)
def test_what_is_no_token_is_refused(server: Server, http: httpx.Client, token: str) -> None:
    before = server.log.count("Traceback")
    refused(http.post("/threads/search", json={}, headers={"x-api-key": token.encode()}), 401)
    assert server.log.count("Traceback") == before


def test_made_up_key_names_make_no_flood_of_requests_at_the_issuer(http: httpx.Client, issuer: Issuer) -> None:
    before, began = len(issuer.paths), time.monotonic()
    for number in range(100):
        refused(asked(http, issuer.token(headers={"kid": f"made up {number}"})), 401)
    allowed = 1 + (time.monotonic() - began) / 5.0
    assert len(issuer.paths) - before <= 2 * allowed + 2, "two documents each time"


def test_the_issuer_may_change_its_key_and_the_old_one_is_worth_nothing_then(
    http: httpx.Client, issuer: Issuer
) -> None:
    issuer.add("leaving")
    until(lambda: asked(http, issuer.token("leaving")).status_code == 200, "a new key is found", seconds=20)
    left = issuer.token("leaving")
    del issuer.listed["leaving"]
    issuer.add("coming")
    until(lambda: asked(http, issuer.token("coming")).status_code == 200, "the next key is found", seconds=20)
    refused(asked(http, left), 401)
    assert asked(http, issuer.token("one")).status_code == 200


def test_while_the_issuer_is_away_its_tokens_are_still_known(http: httpx.Client, issuer: Issuer) -> None:
    issuer.broken = (500, {}, b"")
    try:
        refused(asked(http, issuer.token(headers={"kid": "unheard of"})), 401)
        assert asked(http, issuer.token()).status_code == 200
    finally:
        issuer.broken = None


def test_a_server_starts_without_its_issuer_and_says_so_until_it_comes(cluster: Cluster) -> None:
    issuer = Issuer()
    issuer.add("one")
    with (
        cluster.database() as url,
        Server(database_url=url, config=PROJECT, HOLDFAST_API_KEYS="carl:key-c", **configured(issuer)) as running,
        running.http(timeout=30) as client,
    ):
        answer = asked(client, issuer.token())
        refused(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        refused(asked(client, "wrong"), 401)
        assert asked(client, "key-c").status_code == 200
        with issuer:
            until(lambda: asked(client, issuer.token()).status_code == 200, "the issuer has come", seconds=30)


# --- who they are, and what they may ---


def test_the_subject_is_the_owner(http: httpx.Client, issuer: Issuer) -> None:
    mine = {"authorization": f"Bearer {issuer.token(sub='ada')}"}
    thread = http.post("/threads", json={}, headers=mine).json()["thread_id"]
    again = {"authorization": f"Bearer {issuer.token('RS256', sub='ada')}"}
    assert http.get(f"/threads/{thread}", headers=again).status_code == 200
    refused(http.get(f"/threads/{thread}", headers={"authorization": f"Bearer {issuer.token(sub='bob')}"}), 404)


@pytest.mark.parametrize(
    ("claims", "may_read", "may_write"),
    [
        ({"scope": "read"}, True, False),
        ({"scope": "openid write profile"}, False, True),
        ({"scope": None, "scp": "read"}, True, False),
        ({"scope": None, "scp": ["read", "write"]}, True, True),
        ({"scope": None, "permissions": ["write"]}, False, True),
        ({"scope": "read", "permissions": ["write"]}, True, True),
        ({"scope": "admin"}, True, True),
        ({"scope": "openid email"}, False, False),
        ({"scope": None}, False, False),
        ({"scope": 5, "scp": {"read": 1}, "permissions": [["read"], None]}, False, False),
        ({"scope": "READ reads"}, False, False),
    ],
)
def test_a_tokens_scopes_are_all_that_it_may(
    http: httpx.Client, issuer: Issuer, claims: dict[str, Any], may_read: bool, may_write: bool
) -> None:
    token = issuer.token(**claims)
    assert asked(http, token).status_code == (200 if may_read else 403)
    made = http.post("/threads", json={}, headers={"authorization": f"Bearer {token}"})
    assert made.status_code == (200 if may_write else 403)
    if not may_write:
        assert "'write'" in refused(made, 403)


def test_the_operator_may_say_what_tokens_without_scopes_are_good_for_and_whose_they_are(
    cluster: Cluster, issuer: Issuer
) -> None:
    around = {
        "HOLDFAST_JWT_JWKS_URL": f"{issuer.url}/keys",
        "HOLDFAST_JWT_DEFAULT_SCOPES": "read write",
        "HOLDFAST_JWT_OWNER_CLAIM": "email",
        "HOLDFAST_JWT_TENANT_CLAIM": "org",
    }

    def headers(**claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {issuer.token(scope='openid', **claims)}"}

    with (
        cluster.database() as url,
        Server(database_url=url, config=PROJECT, **configured(issuer, **around)) as running,
        running.http(timeout=30) as client,
    ):
        hers = headers(email="ada@x", org="one")
        thread = client.post("/threads", json={}, headers=hers).json()["thread_id"]
        assert client.get(f"/threads/{thread}", headers=hers).status_code == 200
        for other in (
            headers(email="ada@x", org="two"),
            headers(email="x", org="one/ada@"),
            headers(email="e", org="o"),
        ):
            refused(client.get(f"/threads/{thread}", headers=other), 404)
        for nobody in (headers(email="ada@x"), headers(org="one"), headers(email="ada@x", org=1)):
            refused(client.get(f"/threads/{thread}", headers=nobody), 401)
        refused(client.post("/runs/wait", json={"assistant_id": "steps"}, headers=hers), 403)


def test_default_scopes_that_there_are_not_are_refused_at_the_start(cluster: Cluster, issuer: Issuer) -> None:
    with cluster.database() as url:
        line = refusal_to_start(PROJECT, url, **configured(issuer, HOLDFAST_JWT_DEFAULT_SCOPES="reed"))
    assert "HOLDFAST_JWT_DEFAULT_SCOPES" in line
    assert "reed" in line


def test_a_token_is_in_no_log_and_no_error(server: Server, http: httpx.Client, issuer: Issuer) -> None:
    good, bad = issuer.token(), issuer.token(aud="another")
    assert asked(http, good).status_code == 200
    said = refused(asked(http, bad), 401)
    for token in (good, bad):
        assert token not in server.log + said
        assert token.rpartition(".")[2] not in server.log + said
    assert "InvalidAudienceError" in server.log
