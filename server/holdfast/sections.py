"""The sections of a langgraph.json that change how a server behaves, as checked values.

The keys, their meaning and their defaults are those of LangGraph's own CLI. A section that is absent is its default. A
key that nobody knows is kept in `model_extra`, so that whoever loads the project can name it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from holdfast.rules.alert import MetricRule, Severity
from holdfast.rules.approval import Deadline, OnPending, Outcome, Policies, Policy
from holdfast.rules.thread import MOST_MINUTES

Minutes = Annotated[float, Field(gt=0, le=MOST_MINUTES)]
TtlStrategy = Literal["delete", "keep_latest"]


class Section(BaseModel):
    """A part of langgraph.json."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def unknown_keys(self, where: str) -> Iterator[str]:
        """`section.key` of every key that has no meaning here."""
        for key in self.model_extra or {}:
            yield f"{where}.{key}"
        for name in type(self).model_fields:
            value = getattr(self, name)
            for place, part in _parts(value):
                if isinstance(part, Section):
                    yield from part.unknown_keys(f"{where}.{name}" + (f".{place}" if place is not None else ""))


def _parts(value: object) -> Iterable[tuple[object, object]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else [(None, value)]


class ThreadTtl(Section):
    """`checkpointer.ttl`: when threads that nobody uses go. `delete` removes the thread, `keep_latest` its history.

    `include_interrupted` is ours: threads that wait for somebody, for an answer or to be taken up again, go as well.
    """

    strategy: TtlStrategy = "delete"
    default_ttl: Minutes | None = None
    sweep_interval_minutes: Minutes = 5.0
    sweep_limit: Annotated[int, Field(ge=1)] | None = None
    include_interrupted: bool = False


Storage = Literal["whole", "elements"]
Backend = Literal["postgres", "default", "sqlite", "memory", "redis", "mongo", "custom"]


class GraphStorage(Section):
    """`checkpointer.graphs.<graph>`."""

    storage: Storage


class Checkpointer(Section):
    """`checkpointer`. Checkpoints are kept in Holdfast's Postgres, or else in another of LangGraph's savers.

    `path` is the file of a SQLite database, relative to the project, or names a saver of the project's own
    (`path.py:object`). `url` is ours: where Redis or MongoDB is; HOLDFAST_CHECKPOINTER_URL wins over it.

    `storage` is ours: whether each version of a list is stored whole, as LangGraph does it, or long lists by element
    (`db/elements.py`). A graph that has one in `graphs` is kept that way.
    """

    ttl: ThreadTtl | None = None
    storage: Storage = "whole"
    graphs: dict[str, GraphStorage] = Field(default_factory=dict)
    backend: Backend | None = None
    path: str | None = None
    url: Annotated[str | None, Field(repr=False)] = None
    serde: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _backend_takes_what_is_given(self) -> Self:
        takes = {"sqlite": "path", "custom": "path", "redis": "url", "mongo": "url"}.get(self.kind)
        for key in ("path", "url"):
            if getattr(self, key) is not None and key != takes:
                raise ValueError(f"the backend {self.kind!r} takes no {key!r}")
        if self.kind == "custom" and self.path is None:
            raise ValueError("the backend 'custom' needs a 'path'")
        if self.kind != "postgres" and self.ttl is not None and self.ttl.strategy == "keep_latest":
            raise ValueError("ttl: the strategy 'keep_latest' needs the backend 'postgres'")
        return self

    @property
    def kind(self) -> Backend:
        """Where checkpoints are kept; never `default`."""
        if self.backend is None:
            return "custom" if self.path is not None else "postgres"
        return "postgres" if self.backend == "default" else self.backend

    def by_element(self, graph_id: str) -> bool:
        """Whether this graph's long lists are stored by element."""
        own = self.graphs.get(graph_id)
        return (own.storage if own else self.storage) == "elements"


class StoreTtl(Section):
    """`store.ttl`: when items go; a read prolongs an item's life unless `refresh_on_read` is off."""

    refresh_on_read: bool = True
    default_ttl: Minutes | None = None
    sweep_interval_minutes: Minutes = 5.0


class StoreIndex(Section):
    """`store.index`: what is found by meaning. `embed` is `provider:model`, or `path.py:function`."""

    dims: Annotated[int, Field(ge=1, le=16_000)]
    embed: str
    fields: list[str] | None = None


class StoreSection(Section):
    """`store`; `path` names a store of the project's own (`path.py:object`)."""

    path: str | None = None
    index: StoreIndex | None = None
    ttl: StoreTtl | None = None


class AuthSection(Section):
    """`auth`; `path` names the project's `langgraph_sdk.Auth` (`path.py:object`)."""

    path: str | None = None
    disable_studio_auth: bool = False
    allow_langsmith_api_keys: bool = False
    openapi: dict[str, Any] | None = None
    cache: dict[str, Any] | None = None


class Cors(Section):
    """`http.cors`."""

    allow_origins: list[str] = Field(default_factory=lambda: ["*"])
    allow_origin_regex: str | None = None
    allow_methods: list[str] = Field(default_factory=lambda: ["*"])
    allow_headers: list[str] = Field(default_factory=lambda: ["*"])
    allow_credentials: bool = False
    expose_headers: list[str] = Field(default_factory=list)
    max_age: Annotated[int, Field(ge=0)] = 600

    @model_validator(mode="after")
    def _credentials_have_named_origins(self) -> Self:
        if self.allow_credentials and "*" in self.allow_origins:
            raise ValueError("allow_credentials needs allow_origins to name them: with '*' any page could use them")
        return self


class HeaderPatterns(Section):
    """Header names, with `*` for anything; `excludes` win over `includes`."""

    includes: list[str] = Field(default_factory=list)
    excludes: list[str] = Field(default_factory=list)

    @field_validator("includes", "excludes", mode="before")
    @classmethod
    def _null_is_empty(cls, value: object) -> object:
        return [] if value is None else value


class HttpSection(Section):
    """`http`: the project's own application, which routes are there, and who may call from a browser."""

    app: str | None = None
    disable_assistants: bool = False
    disable_threads: bool = False
    disable_runs: bool = False
    disable_store: bool = False
    disable_mcp: bool = False
    disable_a2a: bool = False
    disable_meta: bool = False
    disable_ui: bool = False
    disable_webhooks: bool = False
    disable_event_streaming: bool = False
    cors: Cors | None = None
    configurable_headers: HeaderPatterns | None = None
    logging_headers: HeaderPatterns | None = None
    middleware_order: Literal["auth_first", "middleware_first"] = "middleware_first"
    enable_custom_route_auth: bool = False
    mount_prefix: str = ""


class WebhookUrls(Section):
    """`webhooks.url`: where deliveries may go."""

    require_https: bool = False
    allowed_domains: list[str] = Field(default_factory=list)
    allowed_ports: list[int] = Field(default_factory=list)
    max_url_length: Annotated[int, Field(ge=1)] = 2048
    disable_loopback: bool = True
    disable_private_ips: bool = False


class WebhooksSection(Section):
    """`webhooks`; header values may hold `${{ env.NAME }}` for names that start with `env_prefix`."""

    env_prefix: str = "LG_WEBHOOK_"
    url: WebhookUrls = Field(default_factory=WebhookUrls)
    headers: dict[str, str] = Field(default_factory=dict)
    allowed_fields: list[str] | None = None


class DeadlineSection(Section):
    """`approvals.deadline`: what happens when nobody answers a question in time."""

    after_seconds: Annotated[float, Field(gt=0, le=MOST_MINUTES * 60)]
    outcome: Outcome
    answer: Any = None
    webhook: str | None = None

    @model_validator(mode="after")
    def _outcome_can_come_about(self) -> Self:
        given = self.model_fields_set & {"answer", "webhook"}
        needed = {"answer": {"answer"}, "escalate": {"webhook"}}.get(self.outcome, set())
        if given != needed or (self.outcome == "escalate" and self.webhook is None):
            wants = f"needs {', '.join(needed)}" if needed else "needs neither answer nor webhook"
            raise ValueError(f"outcome {self.outcome!r} {wants}, and nothing else")
        return self

    @property
    def value(self) -> Deadline:
        return Deadline(self.after_seconds, self.outcome, self.answer, self.webhook)


class ApprovalPolicy(Section):
    """What becomes of new input while something is asked, and of questions that nobody answers, and who may answer."""

    on_pending_interrupt: OnPending = "discard"
    deadline: DeadlineSection | None = None
    by: tuple[Annotated[str, Field(pattern=r"^(another|permission:\S.*)$")], ...] = ()

    @field_validator("by", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @property
    def value(self) -> Policy:
        return Policy(self.on_pending_interrupt, self.deadline.value if self.deadline else None, self.by)


class ApprovalsSection(ApprovalPolicy):
    """`approvals`, a section of ours. A key that a graph has in `graphs` is used instead of the one here.

    Approvals are kept for ever, or `keep_days` after they were decided.
    """

    graphs: dict[str, ApprovalPolicy] = Field(default_factory=dict)
    keep_days: Annotated[float, Field(gt=0, le=36_500)] | None = None

    @property
    def policies(self) -> Policies:
        """The policy of every graph that has one, and of all others."""
        default = self.value
        own = {
            graph: Policy(
                given.on_pending_interrupt if "on_pending_interrupt" in given.model_fields_set else default.on_pending,
                given.value.deadline if "deadline" in given.model_fields_set else default.deadline,
                given.by if "by" in given.model_fields_set else default.by,
            )
            for graph, given in self.graphs.items()
        }
        return Policies(default, own)


class HealingSection(Section):
    """`healing`, which is ours: whether histories are repaired before new input (`worker/dangling.py`)."""

    dangling_tool_calls: bool = True


AlertShape = Literal["slack", "feishu", "dingtalk", "json"]
Seconds = Annotated[float, Field(gt=0, le=MOST_MINUTES * 60)]


class AlertWebhook(Section):
    """`alerts.webhooks[]`; `url` and `secret` may hold `${{ env.NAME }}` as `webhooks.headers` may.

    `secret` is what Feishu's and DingTalk's signatures are made with; for `json` it is a Standard Webhooks secret.
    """

    url: str = Field(repr=False)
    shape: AlertShape
    secret: str | None = Field(None, repr=False)


class AlertMetric(Section):
    """`alerts.metrics[]`: a rule on what the processes count (`rules/alert.py`)."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    metric: str
    labels: dict[str, str] = Field(default_factory=dict)
    above: float
    for_seconds: Annotated[float, Field(ge=0)] = 0.0
    severity: Severity = "warning"

    @property
    def value(self) -> MetricRule:
        return MetricRule(self.name, self.metric, self.above, self.labels, self.for_seconds, self.severity)


class AlertsSection(Section):
    """`alerts`, which is ours: who is told of what goes wrong, and from when on; null is never.

    `name` stands in every message, where several servers write to one channel.
    """

    name: str = ""
    webhooks: list[AlertWebhook] = Field(default_factory=list)
    stuck_run_seconds: Seconds | None = 900.0
    queue_wait_seconds: Seconds | None = 60.0
    approval_wait_seconds: Seconds | None = 14_400.0
    repeat_hours: Annotated[float, Field(gt=0, le=8_760)] = 4.0
    metrics: list[AlertMetric] = Field(default_factory=list)


class Sections(BaseModel):
    """All of them."""

    model_config = ConfigDict(frozen=True)

    checkpointer: Checkpointer = Field(default_factory=Checkpointer)
    store: StoreSection = Field(default_factory=StoreSection)
    auth: AuthSection = Field(default_factory=AuthSection)
    http: HttpSection = Field(default_factory=HttpSection)
    webhooks: WebhooksSection = Field(default_factory=WebhooksSection)
    approvals: ApprovalsSection = Field(default_factory=ApprovalsSection)
    healing: HealingSection = Field(default_factory=HealingSection)
    alerts: AlertsSection = Field(default_factory=AlertsSection)

    @field_validator("*", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        return {} if value is None else value

    def unknown_keys(self) -> list[str]:
        """`section.key` of every key that has no meaning here."""
        return [key for name in type(self).model_fields for key in getattr(self, name).unknown_keys(name)]
