"""The environment, read once into one frozen object.

Source: process environment first, then `.env` in the working directory. Names are those of the official server where it
has one (`DATABASE_URI`, `N_JOBS_PER_WORKER`, `BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS`), so that its deployments move over.
"""

from __future__ import annotations

import logging
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from holdfast.errors import SettingsError

MIN_SECRET_BYTES = 24
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def _env(*names: str) -> AliasChoices:
    return AliasChoices(*names)


class Settings(BaseSettings):
    """All knobs. Durations are seconds, sizes are bytes unless the name says otherwise."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, populate_by_name=True)

    config: Path = Field(Path("langgraph.json"), validation_alias=_env("HOLDFAST_CONFIG"))
    host: str = Field("127.0.0.1", validation_alias=_env("HOST"))
    port: int = Field(2024, validation_alias=_env("PORT"), ge=0, le=65535)
    health_port: int | None = Field(None, validation_alias=_env("HOLDFAST_HEALTH_PORT"), ge=0, le=65535)
    mount_prefix: str = Field("", validation_alias=_env("MOUNT_PREFIX"))
    processes: int = Field(1, validation_alias=_env("HOLDFAST_PROCESSES"), ge=1)
    data_dir: Path = Field(Path(".holdfast"), validation_alias=_env("HOLDFAST_DATA_DIR"))
    log_level: str = Field("INFO", validation_alias=_env("LOG_LEVEL"))
    log_levels: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict, validation_alias=_env("LOG_LEVELS"))
    log_format: Literal["json", "console"] | None = Field(None, validation_alias=_env("LOG_FORMAT"))
    log_access: bool = Field(True, validation_alias=_env("LOG_ACCESS"))
    log_redact: bool = Field(True, validation_alias=_env("LOG_REDACT"))
    loop_lag_seconds: float = Field(0.25, validation_alias=_env("LOOP_LAG_SECONDS"), ge=0)

    database_url: str | None = Field(
        None, validation_alias=_env("DATABASE_URL", "DATABASE_URI", "POSTGRES_URI"), repr=False
    )
    database_direct_url: str | None = Field(None, validation_alias=_env("DATABASE_DIRECT_URL"), repr=False)
    pooler: Literal["none", "transaction"] = Field("none", validation_alias=_env("HOLDFAST_POOLER"))
    database_read_url: str | None = Field(None, validation_alias=_env("DATABASE_READ_URL"), repr=False)
    read_wait_seconds: float = Field(0.05, validation_alias=_env("HOLDFAST_READ_WAIT_SECONDS"), ge=0)
    fanout_url: str | None = Field(None, validation_alias=_env("FANOUT_URL"), repr=False)
    pool_size: int = Field(16, validation_alias=_env("HOLDFAST_POOL_SIZE"), ge=4)

    checkpointer_url: str | None = Field(None, validation_alias=_env("HOLDFAST_CHECKPOINTER_URL"), repr=False)

    slots: int = Field(128, validation_alias=_env("HOLDFAST_SLOTS", "N_JOBS_PER_WORKER"), ge=1)
    lease_seconds: float = Field(5.0, validation_alias=_env("HOLDFAST_LEASE_SECONDS"), ge=1.0)
    crash_budget: int = Field(5, validation_alias=_env("HOLDFAST_CRASH_BUDGET"), ge=1)
    drain_seconds: float = Field(
        180.0, validation_alias=_env("HOLDFAST_DRAIN_SECONDS", "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS"), ge=0
    )
    run_timeout_seconds: float = Field(
        86_400.0, validation_alias=_env("HOLDFAST_RUN_TIMEOUT_SECONDS", "BG_JOB_TIMEOUT_SECS"), gt=0
    )
    event_ttl_seconds: float = Field(3_600.0, validation_alias=_env("HOLDFAST_EVENT_TTL_SECONDS"), ge=60)
    rate_limit: str | None = Field(None, validation_alias=_env("HOLDFAST_RATE_LIMIT"))
    limits_url: str | None = Field(None, validation_alias=_env("HOLDFAST_LIMITS_URL"), repr=False)
    max_runs_per_owner: int | None = Field(None, validation_alias=_env("HOLDFAST_MAX_RUNS_PER_OWNER"), ge=1)
    max_streams_per_owner: int | None = Field(None, validation_alias=_env("HOLDFAST_MAX_STREAMS_PER_OWNER"), ge=1)
    unread_seconds: float = Field(60.0, validation_alias=_env("HOLDFAST_UNREAD_SECONDS"), gt=0)
    head_seconds: float = Field(10.0, validation_alias=_env("HOLDFAST_HEAD_SECONDS"), gt=0)
    body_seconds: float = Field(30.0, validation_alias=_env("HOLDFAST_BODY_SECONDS"), gt=0)
    max_head_bytes: int = Field(64 * 1024, validation_alias=_env("HOLDFAST_MAX_HEAD_BYTES"), ge=1024)
    max_body_bytes: int = Field(16 * 2**20, validation_alias=_env("HOLDFAST_MAX_BODY_BYTES"), ge=1024)

    api_keys: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, validation_alias=_env("HOLDFAST_API_KEYS"), repr=False
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field((), validation_alias=_env("HOLDFAST_ALLOWED_HOSTS"))
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field((), validation_alias=_env("HOLDFAST_ALLOWED_ORIGINS"))
    auth: Literal["keys"] | None = Field(None, validation_alias=_env("HOLDFAST_AUTH"))
    jwt_issuer: str | None = Field(None, validation_alias=_env("HOLDFAST_JWT_ISSUER"))
    jwt_audience: str | None = Field(None, validation_alias=_env("HOLDFAST_JWT_AUDIENCE"))
    jwt_jwks_url: str | None = Field(None, validation_alias=_env("HOLDFAST_JWT_JWKS_URL"))
    jwt_owner_claim: str = Field("sub", validation_alias=_env("HOLDFAST_JWT_OWNER_CLAIM"), min_length=1)
    jwt_tenant_claim: str | None = Field(None, validation_alias=_env("HOLDFAST_JWT_TENANT_CLAIM"), min_length=1)
    jwt_default_scopes: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(), validation_alias=_env("HOLDFAST_JWT_DEFAULT_SCOPES")
    )
    allow_open_network: bool = Field(False, validation_alias=_env("HOLDFAST_ALLOW_OPEN_NETWORK"))
    webhook_secrets: Annotated[tuple[bytes, ...], NoDecode] = Field(
        (), validation_alias=_env("HOLDFAST_WEBHOOK_SECRET"), repr=False
    )

    alert_webhook: str = Field("", validation_alias=_env("HOLDFAST_ALERT_WEBHOOK"), repr=False)
    alert_stuck_run_seconds: float | None = Field(None, validation_alias=_env("HOLDFAST_ALERT_STUCK_RUN_SECONDS"), gt=0)
    alert_queue_wait_seconds: float | None = Field(
        None, validation_alias=_env("HOLDFAST_ALERT_QUEUE_WAIT_SECONDS"), gt=0
    )
    alert_approval_wait_seconds: float | None = Field(
        None, validation_alias=_env("HOLDFAST_ALERT_APPROVAL_WAIT_SECONDS"), gt=0
    )
    alert_repeat_hours: float | None = Field(None, validation_alias=_env("HOLDFAST_ALERT_REPEAT_HOURS"), gt=0)

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        return _level(value)

    @field_validator("log_levels", mode="before")
    @classmethod
    def _level_by_logger(cls, value: object) -> object:
        """`logger=level,logger=level` -> {logger: LEVEL}."""
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if not all(name.strip() for name, _, _ in pairs):
            raise ValueError("must be comma-separated logger=level pairs")
        return {name.strip(): _level(level) for name, _, level in pairs}

    @field_validator("api_keys", mode="before")
    @classmethod
    def _name_key_pairs(cls, value: object) -> object:
        """`name:key,name:key` -> {key: name}; the key is what arrives, the name is the owner."""
        if not isinstance(value, str):
            return value
        pairs = [pair.strip() for pair in value.split(",") if pair.strip()]
        if any(not name or not key for name, _, key in (pair.partition(":") for pair in pairs)):
            raise ValueError("must be comma-separated name:key pairs")
        keys = {key: name for name, _, key in (pair.partition(":") for pair in pairs)}
        if len(keys) != len(pairs):
            raise ValueError("names the same key twice")
        return keys

    @field_validator("allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _with_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip().lower().rstrip("/") for part in value.split(",") if part.strip())

    @field_validator("auth", "jwt_issuer", "jwt_audience", "jwt_jwks_url", "jwt_tenant_claim", mode="before")
    @classmethod
    def _unset_if_empty(cls, value: object) -> object:
        return value or None

    @field_validator("jwt_default_scopes", mode="before")
    @classmethod
    def _scope_names(cls, value: object) -> object:
        """`read write`, with commas too."""
        return frozenset(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("jwt_issuer", "jwt_jwks_url")
    @classmethod
    def _fetched_safely(cls, value: str | None) -> str | None:
        """Who can change what is fetched there can let anybody in."""
        if value is not None and not is_private(value):
            raise ValueError("must be an https URL (http on this machine alone), without a password or a fragment")
        return value

    @field_validator("webhook_secrets", mode="before")
    @classmethod
    def _decoded_secrets(cls, value: object) -> object:
        """`whsec_<base64>,whsec_<base64>` -> the keys; every one of them signs, so that receivers can change over."""
        return signing_keys(value) if isinstance(value, str) else value

    def check_door(self, *, has_custom_auth: bool) -> None:
        """Whether it is clear who may come in, from where we listen.

        Raises:
            SettingsError: anybody on the network could, or two ways to authenticate contradict each other.
        """
        if has_custom_auth and self.authenticates:
            raise SettingsError(
                f"{self._ways_in[0]} is set and langgraph.json has an 'auth.path': only one can say who callers are"
            )
        has_token_terms = self.jwt_issuer or self.jwt_audience or self.jwt_jwks_url
        if has_token_terms and not (self.jwt_issuer and self.jwt_audience):
            raise SettingsError("HOLDFAST_JWT_ISSUER and HOLDFAST_JWT_AUDIENCE belong together")
        if self.host not in LOOPBACK and not (self.authenticates or has_custom_auth or self.allow_open_network):
            raise SettingsError(
                f"refusing to listen on {self.host} without authentication: set HOLDFAST_AUTH=keys, "
                "HOLDFAST_API_KEYS=name:key or HOLDFAST_JWT_ISSUER, "
                "give langgraph.json an 'auth.path', or set HOLDFAST_ALLOW_OPEN_NETWORK=1 if something in front of "
                "Holdfast authenticates"
            )

    @property
    def authenticates(self) -> bool:
        """Whether callers have to say who they are, in a way of ours."""
        return bool(self._ways_in)

    @property
    def _ways_in(self) -> list[str]:
        ways = {
            "HOLDFAST_AUTH": self.auth,
            "HOLDFAST_API_KEYS": self.api_keys,
            "HOLDFAST_JWT_ISSUER": self.jwt_issuer or self.jwt_audience or self.jwt_jwks_url,
        }
        return [name for name, given in ways.items() if given]

    @property
    def listen_url(self) -> str | None:
        """Where session features (LISTEN, advisory locks) work, or None behind a transaction pooler."""
        if self.database_direct_url:
            return self.database_direct_url
        return None if self.pooler == "transaction" else self.database_url


def is_private(url: str) -> bool:
    """Whether nobody between us and this URL can change what it answers."""
    try:
        parts = urlsplit(url)
        known = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        return known and bool(parts.hostname) and not (parts.password or parts.username or parts.fragment)
    except ValueError:
        return False


def signing_keys(text: str) -> tuple[bytes, ...]:
    """The keys of `whsec_<base64>`, of several with commas.

    Raises:
        ValueError: says what a key has to be; not what is there.
    """
    try:
        keys = [b64decode(part.strip().removeprefix("whsec_"), validate=True) for part in text.split(",")]
    except ValueError:
        keys = [b""]
    if any(len(key) < MIN_SECRET_BYTES for key in keys):
        raise ValueError(
            f"must be base64 of at least {MIN_SECRET_BYTES} random bytes, as in whsec_$(openssl rand -base64 32)"
        )
    return tuple(keys)


def _level(name: str) -> str:
    level = name.strip().upper()
    if level not in logging.getLevelNamesMapping():
        raise ValueError(f"{name.strip()!r} is no level: must be debug, info, warning, error or critical")
    return level


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, with the command line's words (None = not given) on top."""
    from pydantic import ValidationError

    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as invalid:
        raise SettingsError("; ".join(_problem(error) for error in invalid.errors(include_url=False))) from None


def _problem(error: object) -> str:
    assert isinstance(error, dict)
    where = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
