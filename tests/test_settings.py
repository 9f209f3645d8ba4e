"""The environment becomes one Settings object, or one line that says what is wrong with it."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import SettingsError
from holdfast.settings import Settings, load_settings

SECRET = "s3cr3t-do-not-print"

OLD_KEY, NEW_KEY = b64encode(b"o" * 24).decode(), b64encode(b"n" * 24).decode()

NAMES = [
    ("HOLDFAST_CONFIG", "a.json", "config", Path("a.json")),
    ("HOST", "::1", "host", "::1"),
    ("PORT", "0", "port", 0),
    ("HOLDFAST_HEALTH_PORT", "2025", "health_port", 2025),
    ("HOLDFAST_DATA_DIR", "/data", "data_dir", Path("/data")),
    ("HOLDFAST_CHECKPOINTER_URL", "redis://here", "checkpointer_url", "redis://here"),
    ("MOUNT_PREFIX", "/agents", "mount_prefix", "/agents"),
    ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
    ("LOG_LEVELS", "httpx=info, holdfast.worker=debug", "log_levels", {"httpx": "INFO", "holdfast.worker": "DEBUG"}),
    ("LOG_FORMAT", "json", "log_format", "json"),
    ("LOG_ACCESS", "0", "log_access", False),
    ("LOG_REDACT", "0", "log_redact", False),
    ("LOOP_LAG_SECONDS", "0", "loop_lag_seconds", 0.0),
    ("DATABASE_URL", "postgresql://a", "database_url", "postgresql://a"),
    ("DATABASE_URI", "postgresql://b", "database_url", "postgresql://b"),
    ("POSTGRES_URI", "postgresql://c", "database_url", "postgresql://c"),
    ("DATABASE_DIRECT_URL", "postgresql://d", "database_direct_url", "postgresql://d"),
    ("DATABASE_READ_URL", "postgresql://replica", "database_read_url", "postgresql://replica"),
    ("FANOUT_URL", "redis://between", "fanout_url", "redis://between"),
    ("HOLDFAST_READ_WAIT_SECONDS", "0.2", "read_wait_seconds", 0.2),
    ("HOLDFAST_PROCESSES", "2", "processes", 2),
    ("HOLDFAST_POOLER", "transaction", "pooler", "transaction"),
    ("HOLDFAST_POOL_SIZE", "7", "pool_size", 7),
    ("HOLDFAST_SLOTS", "3", "slots", 3),
    ("N_JOBS_PER_WORKER", "4", "slots", 4),
    ("HOLDFAST_LEASE_SECONDS", "2.5", "lease_seconds", 2.5),
    ("HOLDFAST_CRASH_BUDGET", "1", "crash_budget", 1),
    ("HOLDFAST_DRAIN_SECONDS", "0", "drain_seconds", 0.0),
    ("BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS", "9", "drain_seconds", 9.0),
    ("HOLDFAST_RUN_TIMEOUT_SECONDS", "60", "run_timeout_seconds", 60.0),
    ("BG_JOB_TIMEOUT_SECS", "61", "run_timeout_seconds", 61.0),
    ("HOLDFAST_EVENT_TTL_SECONDS", "60", "event_ttl_seconds", 60.0),
    ("HOLDFAST_RATE_LIMIT", "10/second", "rate_limit", "10/second"),
    ("HOLDFAST_LIMITS_URL", "redis://here", "limits_url", "redis://here"),
    ("HOLDFAST_MAX_RUNS_PER_OWNER", "3", "max_runs_per_owner", 3),
    ("HOLDFAST_MAX_STREAMS_PER_OWNER", "4", "max_streams_per_owner", 4),
    ("HOLDFAST_UNREAD_SECONDS", "5", "unread_seconds", 5.0),
    ("HOLDFAST_HEAD_SECONDS", "2", "head_seconds", 2.0),
    ("HOLDFAST_BODY_SECONDS", "3", "body_seconds", 3.0),
    ("HOLDFAST_MAX_HEAD_BYTES", "2048", "max_head_bytes", 2048),
    ("HOLDFAST_MAX_BODY_BYTES", "1024", "max_body_bytes", 1024),
    ("HOLDFAST_API_KEYS", f"ann:{SECRET}", "api_keys", {SECRET: "ann"}),
    ("HOLDFAST_ALLOWED_HOSTS", "A.example, *.b.example", "allowed_hosts", ("a.example", "*.b.example")),
    ("HOLDFAST_ALLOWED_ORIGINS", "https://a.example/,", "allowed_origins", ("https://a.example",)),
    ("HOLDFAST_AUTH", "keys", "auth", "keys"),
    ("HOLDFAST_JWT_ISSUER", "https://id.example.org/", "jwt_issuer", "https://id.example.org/"),
    ("HOLDFAST_JWT_AUDIENCE", "holdfast", "jwt_audience", "holdfast"),
    ("HOLDFAST_JWT_JWKS_URL", "https://keys.example.org/k", "jwt_jwks_url", "https://keys.example.org/k"),
    ("HOLDFAST_JWT_OWNER_CLAIM", "email", "jwt_owner_claim", "email"),
    ("HOLDFAST_JWT_TENANT_CLAIM", "org", "jwt_tenant_claim", "org"),
    ("HOLDFAST_JWT_DEFAULT_SCOPES", "read, run", "jwt_default_scopes", frozenset({"read", "run"})),
    ("HOLDFAST_ALLOW_OPEN_NETWORK", "1", "allow_open_network", True),
    ("HOLDFAST_WEBHOOK_SECRET", f"whsec_{OLD_KEY}, {NEW_KEY}", "webhook_secrets", (b"o" * 24, b"n" * 24)),
    ("HOLDFAST_ALERT_WEBHOOK", "slack+https://a", "alert_webhook", "slack+https://a"),
    ("HOLDFAST_ALERT_STUCK_RUN_SECONDS", "60", "alert_stuck_run_seconds", 60.0),
    ("HOLDFAST_ALERT_QUEUE_WAIT_SECONDS", "61", "alert_queue_wait_seconds", 61.0),
    ("HOLDFAST_ALERT_APPROVAL_WAIT_SECONDS", "62", "alert_approval_wait_seconds", 62.0),
    ("HOLDFAST_ALERT_REPEAT_HOURS", "2", "alert_repeat_hours", 2.0),
]


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No .env and none of the names in the environment, whatever the machine has."""
    monkeypatch.chdir(tmp_path)
    for name, *_ in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("name", "text", "field", "value"), NAMES)
def test_a_setting_is_read_from_its_environment_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, field: str, value: Any
) -> None:
    monkeypatch.setenv(name, text)
    assert getattr(load_settings(), field) == value


def test_every_setting_has_a_name_in_the_environment() -> None:
    assert {field for _, _, field, _ in NAMES} == set(Settings.model_fields)


@pytest.mark.parametrize(
    ("first", "second"),
    [("DATABASE_URL", "DATABASE_URI"), ("DATABASE_URI", "POSTGRES_URI")],
)
def test_the_first_of_several_names_wins(monkeypatch: pytest.MonkeyPatch, first: str, second: str) -> None:
    monkeypatch.setenv(second, "postgresql://second")
    monkeypatch.setenv(first, "postgresql://first")
    assert load_settings().database_url == "postgresql://first"


def test_a_dotenv_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=1234\nHOLDFAST_API_KEYS=ann:k1\nOPENAI_API_KEY=unrelated\n")
    settings = load_settings()
    assert (settings.port, settings.api_keys) == (1234, {"k1": "ann"})


def test_the_environment_wins_over_dotenv_and_the_command_line_over_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("PORT=1\n")
    monkeypatch.setenv("PORT", "2")
    assert load_settings().port == 2
    assert load_settings(port=3).port == 3
    assert load_settings(port=None).port == 2


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


def test_without_any_environment_the_door_is_closed_and_the_database_embedded() -> None:
    settings = load_settings()
    assert (settings.host, settings.database_url, settings.api_keys) == ("127.0.0.1", None, {})


def test_keys_are_pairs_of_name_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_API_KEYS", " ann:k1 , bob:k2:with:colons ,, ann:k3 ")
    assert load_settings().api_keys == {"k1": "ann", "k2:with:colons": "bob", "k3": "ann"}


@pytest.mark.parametrize("pairs", [SECRET, f":{SECRET}", "ann:", f"ann:{SECRET},{SECRET}"])
def test_a_malformed_key_pair_is_refused_without_printing_it(monkeypatch: pytest.MonkeyPatch, pairs: str) -> None:
    monkeypatch.setenv("HOLDFAST_API_KEYS", pairs)
    with pytest.raises(SettingsError, match="name:key pairs") as refused:
        load_settings()
    _one_line_without(SECRET, refused.value)


def test_a_key_for_two_names_is_refused_without_printing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_API_KEYS", f"ann:{SECRET},bob:{SECRET}")
    with pytest.raises(SettingsError, match="same key twice") as refused:
        load_settings()
    _one_line_without(SECRET, refused.value)


def test_keys_are_not_part_of_the_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_API_KEYS", f"ann:{SECRET}")
    assert SECRET not in repr(load_settings())


def test_the_password_of_the_database_is_not_part_of_the_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{SECRET}@host/db")
    monkeypatch.setenv("DATABASE_DIRECT_URL", f"postgresql://me:{SECRET}@direct/db")
    assert SECRET not in repr(load_settings())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_an_open_network_is_refused_without_authentication(host: str) -> None:
    with pytest.raises(SettingsError, match=r"without authentication.*HOLDFAST_API_KEYS.*auth\.path") as refused:
        load_settings(host=host).check_door(has_custom_auth=False)
    _one_line_without(SECRET, refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_the_loopback_needs_no_keys(host: str) -> None:
    load_settings(host=host).check_door(has_custom_auth=False)


def test_an_open_network_is_allowed_with_keys_or_custom_authentication_or_by_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    load_settings().check_door(has_custom_auth=True)
    monkeypatch.setenv("HOLDFAST_ALLOW_OPEN_NETWORK", "true")
    load_settings().check_door(has_custom_auth=False)
    monkeypatch.delenv("HOLDFAST_ALLOW_OPEN_NETWORK")
    monkeypatch.setenv("HOLDFAST_API_KEYS", "ann:k")
    load_settings().check_door(has_custom_auth=False)


def test_keys_that_are_set_but_empty_do_not_open_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("HOLDFAST_API_KEYS", " , ")
    with pytest.raises(SettingsError, match="without authentication"):
        load_settings().check_door(has_custom_auth=False)


@pytest.mark.parametrize(
    "given",
    [
        {"HOLDFAST_AUTH": "keys"},
        {"HOLDFAST_JWT_ISSUER": "https://id.example.org", "HOLDFAST_JWT_AUDIENCE": "holdfast"},
    ],
)
def test_every_way_in_opens_the_network_and_contradicts_custom_authentication(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    load_settings().check_door(has_custom_auth=False)
    with pytest.raises(SettingsError, match=rf"{next(iter(given))}.*auth\.path"):
        load_settings().check_door(has_custom_auth=True)


@pytest.mark.parametrize("names", [("ISSUER",), ("AUDIENCE",), ("JWKS_URL",), ("ISSUER", "JWKS_URL")])
def test_tokens_need_to_be_of_somebody_and_for_somebody(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    for name in names:
        monkeypatch.setenv(f"HOLDFAST_JWT_{name}", "https://id.example.org")
    with pytest.raises(SettingsError, match="belong together"):
        load_settings().check_door(has_custom_auth=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example.org",
        "http://127.0.0.1.example.org",
        "ftp://id.example.org",
        "id.example.org",
        "https://",
        "https://me:pass@id.example.org",
        "https://id.example.org/#x",
        "https://[",
    ],
)
def test_an_issuers_keys_are_not_fetched_where_others_could_change_them(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    for name in ("HOLDFAST_JWT_ISSUER", "HOLDFAST_JWT_JWKS_URL"):
        with monkeypatch.context() as patch:
            patch.setenv(name, url)
            with pytest.raises(SettingsError, match="https URL"):
                load_settings()


def test_keys_and_custom_authentication_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_API_KEYS", f"ann:{SECRET}")
    with pytest.raises(SettingsError, match=r"HOLDFAST_API_KEYS.*auth\.path") as refused:
        load_settings().check_door(has_custom_auth=True)
    _one_line_without(SECRET, refused.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", SECRET),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("HOLDFAST_POOLER", SECRET),
        ("HOLDFAST_POOL_SIZE", "3"),
        ("HOLDFAST_SLOTS", "0"),
        ("HOLDFAST_LEASE_SECONDS", "0.5"),
        ("HOLDFAST_CRASH_BUDGET", "0"),
        ("HOLDFAST_DRAIN_SECONDS", "-1"),
        ("HOLDFAST_RUN_TIMEOUT_SECONDS", "0"),
        ("HOLDFAST_EVENT_TTL_SECONDS", "59"),
        ("HOLDFAST_MAX_BODY_BYTES", "1"),
        ("HOLDFAST_ALLOW_OPEN_NETWORK", SECRET),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_variable_and_not_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError, match=name) as refused:
        load_settings()
    _one_line_without(SECRET, refused.value)


def test_two_bad_values_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("HOLDFAST_SLOTS", "y")
    with pytest.raises(SettingsError, match=r"PORT.*; .*HOLDFAST_SLOTS") as refused:
        load_settings()
    _one_line_without(SECRET, refused.value)


@pytest.mark.parametrize(
    ("given", "listens_at"),
    [
        ({}, None),
        ({"database_url": "u"}, "u"),
        ({"database_url": "u", "database_direct_url": "d"}, "d"),
        ({"database_url": "u", "pooler": "transaction"}, None),
        ({"database_url": "u", "pooler": "transaction", "database_direct_url": "d"}, "d"),
    ],
)
def test_sessions_are_looked_for_where_they_work(given: dict[str, str], listens_at: str | None) -> None:
    assert load_settings(**given).listen_url == listens_at


def _one_line_without(secret: str, error: SettingsError) -> None:
    assert "\n" not in str(error)
    assert secret not in str(error)
    assert error.__cause__ is None


@pytest.mark.parametrize("text", ["", "whsec_", SECRET, "whsec_c2hvcnQ=", f"whsec_{OLD_KEY},", f"{OLD_KEY};{NEW_KEY}"])
def test_a_webhook_secret_that_receivers_could_not_use_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("HOLDFAST_WEBHOOK_SECRET", text)
    with pytest.raises(SettingsError, match=r"HOLDFAST_WEBHOOK_SECRET.*base64") as raised:
        load_settings()
    assert SECRET not in str(raised.value)
