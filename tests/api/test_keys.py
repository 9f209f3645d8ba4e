"""API keys in the database: what the operator's command line does, and what a server then makes of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from holdfast.api.apikeys import KNOWN_SECONDS
from tests.conftest import PROJECT
from tests.support.keys import Keys, id_of
from tests.support.postgres import Cluster
from tests.support.server import Server, refusal_to_start
from tests.support.talk import refused, until, wait

OPEN_SECONDS = KNOWN_SECONDS + 2.0
"""A key is refused at the latest so long after it was revoked."""
MADE_UP = f"hf_{'0' * 16}_{'0' * 64}"


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as url:
        yield url


@pytest.fixture(scope="module")
def keys(database: str) -> Keys:
    return Keys(database)


@pytest.fixture(scope="module")
def server(database: str) -> Iterator[Server]:
    """Keys of the database and one of the environment; it may listen on the network."""
    around = {"HOLDFAST_AUTH": "keys", "HOLDFAST_API_KEYS": "carl:key-c", "HOST": "0.0.0.0"}
    with Server(database_url=database, config=PROJECT, **around) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.http(timeout=30) as client:
        yield client


def asked(http: httpx.Client, key: str) -> httpx.Response:
    return http.post("/threads/search", json={}, headers={"x-api-key": key})


def test_without_any_key_a_server_that_wants_keys_lets_nobody_in(cluster: Cluster) -> None:
    with (
        cluster.database() as url,
        Server(database_url=url, config=PROJECT, HOLDFAST_AUTH="keys") as running,
        running.http(timeout=30) as client,
    ):
        for headers in ({}, {"x-api-key": ""}, {"x-api-key": MADE_UP}, {"x-auth-scheme": "langsmith"}):
            refused(client.post("/threads", json={}, headers=headers), 401)
        assert client.get("/ok").status_code == 200
        key = Keys(url).valid()
        assert client.post("/threads", json={}, headers={"x-api-key": key}).status_code == 200


def test_a_key_names_an_owner_and_two_keys_of_one_owner_see_the_same(http: httpx.Client, keys: Keys) -> None:
    first, second, bobs = keys.valid("ada"), keys.valid("ada"), keys.valid("bob")
    thread = http.post("/threads", json={}, headers={"x-api-key": first}).json()["thread_id"]
    assert http.get(f"/threads/{thread}", headers={"authorization": f"Bearer {second}"}).status_code == 200
    refused(http.get(f"/threads/{thread}", headers={"x-api-key": bobs}), 404)


def test_keys_of_the_environment_work_beside_those_of_the_database(http: httpx.Client) -> None:
    assert asked(http, "key-c").status_code == 200
    refused(asked(http, "key-d"), 401)


def test_a_key_is_stored_as_a_hash_and_shown_once(keys: Keys, database: str) -> None:
    key = keys.said("create", "ada", "--expires", "8w").strip()
    assert key.startswith(f"hf_{id_of(key)}_")
    assert len(bytes.fromhex(key.split("_")[2])) * 8 >= 256
    with psycopg.connect(database) as conn:
        rows = conn.execute("SELECT to_jsonb(k) FROM holdfast.api_keys k").fetchall()
    assert id_of(key) in str(rows)
    for seen in (str(rows), keys.said("list")):
        assert key.split("_")[2] not in seen


def test_an_expired_key_is_refused_and_one_in_use_when_its_time_is_over(http: httpx.Client, keys: Keys) -> None:
    refused(asked(http, keys.expired()), 401)
    short = keys.valid("ada", expires_in=3)
    ended = time.monotonic() + 3.0
    asked(http, short)
    until(lambda: asked(http, short).status_code == 401, "a key ends with its time", seconds=20)
    assert time.monotonic() < ended + OPEN_SECONDS


def test_a_key_in_use_is_refused_within_seconds_after_it_was_revoked(http: httpx.Client, keys: Keys) -> None:
    key = keys.valid()
    assert asked(http, key).status_code == 200
    keys.said("revoke", id_of(key))
    revoked = time.monotonic()
    until(lambda: asked(http, key).status_code == 401, "a revoked key is refused", seconds=20)
    assert time.monotonic() - revoked < OPEN_SECONDS
    assert "no key" in keys.run("revoke", id_of(key)).stderr
    assert "no key" in keys.run("rotate", id_of(key)).stderr


def test_a_revoked_key_is_refused_by_all_processes_of_a_server(cluster: Cluster) -> None:
    with (
        cluster.database() as url,
        Server(database_url=url, config=PROJECT, processes=2, HOLDFAST_AUTH="keys") as running,
    ):
        key = Keys(url).valid()

        def by_many_connections() -> set[int]:
            statuses = set()
            for _ in range(20):
                with running.http(timeout=30) as client:
                    statuses.add(asked(client, key).status_code)
            return statuses

        assert by_many_connections() == {200}
        Keys(url).said("revoke", id_of(key))
        revoked = time.monotonic()
        until(lambda: time.monotonic() > revoked + KNOWN_SECONDS, "a process remembers it no longer than this")
        assert by_many_connections() == {401}


def test_a_rotated_key_lives_on_for_its_grace_and_without_one_ends_at_once(http: httpx.Client, keys: Keys) -> None:
    old = keys.valid()
    assert asked(http, old).status_code == 200
    new = keys.said("rotate", id_of(old), "--grace", "1h").strip()
    assert id_of(new) == id_of(old)
    until(lambda: asked(http, new).status_code == 200, "the new secret is known")
    assert asked(http, old).status_code == 200
    newest = keys.said("rotate", id_of(old)).strip()
    until(lambda: asked(http, newest).status_code == 200, "the newest secret is known")
    refused(asked(http, old), 401)
    refused(asked(http, new), 401)


def test_a_former_secret_ends_when_its_grace_does(http: httpx.Client, keys: Keys, database: str) -> None:
    old = keys.valid()
    new = keys.said("rotate", id_of(old), "--grace", "1h").strip()
    assert asked(http, old).status_code == 200
    with psycopg.connect(database) as conn:
        conn.execute("UPDATE holdfast.api_keys SET old_until = now() WHERE key_id = %s", [id_of(old)])
    until(lambda: asked(http, old).status_code == 401, "the grace is over")
    assert asked(http, new).status_code == 200


def test_that_a_key_is_used_is_written_down_once_a_minute(http: httpx.Client, keys: Keys, database: str) -> None:
    key = keys.valid()
    with psycopg.connect(database, autocommit=True) as conn:

        def last_used() -> str:
            row = conn.execute("SELECT last_used_at FROM holdfast.api_keys WHERE key_id = %s", [id_of(key)]).fetchone()
            assert row is not None
            return str(row[0])

        assert last_used() == "None"
        asked(http, key)
        first = last_used()
        assert first != "None"
        began = time.monotonic()
        until(lambda: asked(http, key) and time.monotonic() > began + KNOWN_SECONDS, "it is looked up again")
        assert last_used() == first
        assert "-" not in [line.split()[-1] for line in keys.said("list").splitlines() if id_of(key) in line]


def test_a_key_in_use_costs_no_query(http: httpx.Client, keys: Keys, database: str) -> None:
    key = keys.valid()
    asked(http, key)

    def lookups() -> int:
        with psycopg.connect(database, autocommit=True) as conn:
            row = conn.execute(
                "SELECT coalesce(idx_scan, 0) + seq_scan FROM pg_stat_user_tables WHERE relname = 'api_keys'"
            ).fetchone()
        assert row is not None
        return int(row[0])

    before, began = lookups(), time.monotonic()
    for _ in range(100):
        assert http.get("/mcp/", headers={"x-api-key": key}).status_code == 405
    stale = (time.monotonic() - began) / KNOWN_SECONDS
    assert lookups() - before <= 2 + stale * 2


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "wrong", "authorization": "Bearer {key}"},
        {"x-api-key": MADE_UP, "authorization": "Bearer {key}"},
        {"authorization": "Basic {key}"},
        {"authorization": "{key}"},
        {"x-api-key": "{key}x"},
        {"x-api-key": "{key},{key}"},
        {"x-auth-scheme": "langsmith"},
        {"x-auth-scheme": "langsmith", "x-api-key": "lsv2_pt_whatever"},
        {"x-auth-scheme": "langsmith", "authorization": "Bearer eyJhbGciOiJub25lIn0.e30."},
    ],
)
def test_a_header_that_is_wrong_is_not_made_up_for_by_another(
    http: httpx.Client, valid: str, headers: dict[str, str]
) -> None:
    given = {name: text.format(key=valid) for name, text in headers.items()}
    text = refused(http.post("/threads/search", json={}, headers=given), 401)
    assert valid not in text
    assert "wrong" not in text


def test_of_two_different_keys_x_api_key_wins(http: httpx.Client, keys: Keys, valid: str) -> None:
    bobs = keys.valid("bob")
    headers = {"x-api-key": bobs, "authorization": f"Bearer {valid}"}
    thread = http.post("/threads", json={}, headers=headers).json()["thread_id"]
    assert http.get(f"/threads/{thread}", headers={"x-api-key": bobs}).status_code == 200
    refused(http.get(f"/threads/{thread}", headers={"x-api-key": valid}), 404)


def test_two_different_keys_under_one_name_are_no_key(http: httpx.Client, keys: Keys, valid: str) -> None:
    for name, form in (("x-api-key", "{}"), ("authorization", "Bearer {}")):
        two = [(name, form.format(key)) for key in (valid, keys.valid("bob"))]
        refused(http.post("/threads/search", json={}, headers=two), 401)
        assert http.post("/threads/search", json={}, headers=[two[0], two[0]]).status_code == 200


def test_whatever_is_wrong_with_a_key_the_answer_is_the_same_and_takes_as_long(
    http: httpx.Client, keys: Keys, valid: str
) -> None:
    wrong = {
        "unknown id": MADE_UP,
        "wrong secret": valid[:-4] + ("0000" if not valid.endswith("0000") else "1111"),
        "revoked": keys.revoked(),
        "expired": keys.expired(),
        "other form": "x" * len(valid),
    }
    taken: dict[str, list[float]] = {what: [] for what in wrong}
    answers = {asked(http, key).text for key in wrong.values()}
    assert len(answers) == 1
    for _ in range(60):
        for what, key in wrong.items():
            began = time.perf_counter()
            refused(asked(http, key), 401)
            taken[what].append(time.perf_counter() - began)
    typical = {what: statistics.median(times) for what, times in taken.items()}
    assert max(typical.values()) < 3 * min(typical.values()), typical


def test_a_key_is_in_no_log_and_no_error(server: Server, http: httpx.Client, keys: Keys) -> None:
    key, revoked = keys.valid(), keys.revoked()
    thread = new_thread_of(http, key)
    with server.http(headers={"x-api-key": key}, timeout=30) as mine:
        wait(mine, thread, "steps", input={"count": 1})
        seen = [mine.get(f"/threads/{thread}/state").text, mine.get(f"/threads/{thread}/runs").text]
    seen += [refused(asked(http, revoked), 401), server.log]
    for secret in (key.split("_")[2], revoked.split("_")[2]):
        assert not [text for text in seen if secret in text]


def new_thread_of(http: httpx.Client, key: str) -> str:
    return str(http.post("/threads", json={}, headers={"x-api-key": key}).json()["thread_id"])


@pytest.fixture(scope="module")
def valid(keys: Keys) -> str:
    return keys.valid()


# --- the command line ---


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("create", ""), "owner"),
        (("create", "holdfast"), "owner"),
        (("create", "a\nb"), "owner"),
        (("create", "ada", "--scope", "reed"), "reed"),
        (("create", "ada", "--scope", "permission:"), "permission:"),
        (("create", "ada", "--expires", "soon"), "soon"),
        (("create", "ada", "--expires", "0"), "--expires"),
        (("rotate", "0" * 16), "no key"),
        (("rotate", "0" * 16, "--grace", "1y"), "1y"),
        (("revoke", "nonsense"), "no key's id"),
    ],
)
def test_what_makes_no_sense_is_one_line(keys: Keys, words: tuple[str, ...], why: str) -> None:
    ended = keys.run(*words)
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = ended.stderr.strip().splitlines()
    assert line.startswith("holdfast: ")
    assert why in line


def test_a_whole_key_in_the_place_of_an_id_is_not_repeated(keys: Keys, valid: str) -> None:
    for verb in ("rotate", "revoke"):
        assert valid.split("_")[2] not in keys.run(verb, valid).stderr


def test_a_database_that_is_not_up_to_date_is_no_place_for_keys(empty_database_url: str) -> None:
    assert "holdfast migrate" in Keys(empty_database_url).run("list").stderr


def test_the_list_shows_what_became_of_keys(keys: Keys) -> None:
    made = {
        "valid": keys.valid("lena", "read", "permission:finance"),
        "revoked": keys.revoked("lena"),
        "expired": keys.expired("lena"),
        "rotating": keys.valid("lena"),
    }
    keys.said("rotate", id_of(made["rotating"]), "--grace", "1h")
    lines = {line.split()[0]: line for line in keys.said("list").splitlines()}
    for state, key in made.items():
        assert lines[id_of(key)].split()[1:3] == ["lena", state]
    assert "permission:finance read" in lines[id_of(made["valid"])]


def test_what_was_made_before_there_were_keys_is_the_key_named_locals(cluster: Cluster) -> None:
    with cluster.database() as url:
        with Server(database_url=url, config=PROJECT) as running, running.http(timeout=30) as client:
            thread = client.post("/threads", json={}).json()["thread_id"]
        with Server(database_url=url, config=PROJECT, HOLDFAST_AUTH="keys") as running, running.http() as client:
            local = {"x-api-key": Keys(url).valid("local")}
            assert client.get(f"/threads/{thread}", headers=local).status_code == 200
            refused(client.get(f"/threads/{thread}", headers={"x-api-key": Keys(url).valid("ada")}), 404)


def test_no_key_of_the_environment_is_the_servers_own(database: str) -> None:
    line = refusal_to_start(PROJECT, database, HOLDFAST_API_KEYS="holdfast:s3cret-key")
    assert "'holdfast'" in line
    assert "s3cret" not in line


def test_keys_beside_custom_authentication_are_refused_at_the_start(database: str) -> None:
    bare = PROJECT.parents[1] / "auth" / "bare.json"
    assert "only one can say who callers are" in refusal_to_start(bare, database, HOLDFAST_AUTH="keys")
