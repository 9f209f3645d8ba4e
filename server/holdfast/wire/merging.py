"""How an assistant, a thread and a request become one run: what each layer says, the later one wins.

    config        assistant < request
    configurable  assistant < thread < request < the server's own (headers, request id; identity when the run starts)
    context       assistant < request
    metadata      assistant < thread < the request's config < request < the assistant's id

`config.configurable` and `context` are two names for the same values: a request that gives one gives the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.errors import BadRequest

Json = Mapping[str, Any]

RESERVED_CONFIGURABLE = frozenset(
    {
        "langgraph_auth_user",
        "langgraph_auth_user_id",
        "langgraph_auth_permissions",
        "langgraph_request_id",
        "__langsmith_project__",
        "__langsmith_example_id__",
        "__request_start_time_ms__",
        "__after_seconds__",
        "__dd_trace_headers__",
        "__context_provided__",
    }
)
RESERVED_METADATA = frozenset({"thread_id", "assistant_id", "run_id", "cron_id"})

_ADDRESS = frozenset({"thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map"})
"""Configurable keys that say where a run takes place, not how: no part of a context."""


_IDENTITY = frozenset({"run_id", "graph_id", "assistant_id", "user_id", "cron_id"})
"""Configurable keys that the server sets for every run."""


def unreserved(given: Json) -> dict[str, Any]:
    """Configurable values or a context, without the keys that only the server sets."""
    return {key: value for key, value in given.items() if not _is_reserved(key)}


def own_metadata(given: Json) -> dict[str, Any]:
    """Metadata without the ids that only the server sets."""
    return {key: value for key, value in given.items() if key not in RESERVED_METADATA}


def mirrored(configurable: Json | None, context: Json | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both, each filled from the other where it says nothing.

    Raises:
        BadRequest: both say something.
    """
    configurable, context = unreserved(configurable or {}), unreserved(context or {})
    settings = _without_address(configurable)
    if settings and context:
        raise BadRequest("Cannot specify both configurable and context. Prefer setting context alone.")
    return {**_without_address(context), **configurable}, context or settings


def settings_of(config: Json) -> dict[str, Any]:
    """What a run was told about how to work, so that another one can be told the same."""
    configurable = unreserved(config.get("configurable") or {})
    return {key: value for key, value in configurable.items() if key not in _ADDRESS and key not in _IDENTITY}


def merged_config(assistant: Json, thread: Json, request: Json, configurable: Json, server: Json) -> dict[str, Any]:
    """A run's config. `configurable` is the request's, `server` what no request may say."""
    preset = {**(assistant.get("configurable") or {}), **(thread.get("configurable") or {})}
    asked = {key: value for key, value in request.items() if value is not None}
    return {
        **assistant,
        **asked,
        "configurable": {**_without_address(unreserved(preset)), **configurable, **server},
    }


def merged_metadata(assistant_id: str, assistant: Json, thread: Json, config: Json, request: Json) -> dict[str, Any]:
    """A run's metadata. What a thread says of its last run (`graph_id` and the ids) is not true of the next one."""
    kept = {key: value for key, value in thread.items() if key != "graph_id"}
    return {**own_metadata({**assistant, **kept, **config, **request}), "assistant_id": assistant_id}


def _without_address(values: Json) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _ADDRESS}


def _is_reserved(key: str) -> bool:
    # langgraph's own keys steer its loop. A RemoteGraph node sends one of them that is safe, and needed: to ask again.
    is_internal = key.startswith("__pregel_") and key != "__pregel_resuming"
    return is_internal or key in RESERVED_CONFIGURABLE or (key.startswith("__otel_") and key.endswith("__"))
