"""What an authorization handler is shown of a request, and what its changes do to the request.

A handler gets a dict of the shape that `langgraph_sdk.auth.types` describes for its resource and action, made from
body, path and query. It may change it: what it writes into the metadata of a new row is what the route works with. So
that gate and route can never read a request differently, a request that a handler may change is always rewritten from
the dict, whether it was changed or not. Items of the store are no rows; `api/store.py` shows them in the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuids
from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection

from holdfast.api.auth import Action, Gate, Resource
from holdfast.api.reading import ASKED, body_of, json_of
from holdfast.db.assistants import system_assistant_id
from holdfast.errors import Forbidden, Invalid
from holdfast.rules.caller import Caller
from holdfast.wire import codec

Value = dict[str, Any]

IDS = frozenset({"thread_id", "run_id", "assistant_id", "cron_id"})

# A run's body is nested into `kwargs` and a cron's into `payload`, but for these fields.
_RUN_FIELDS = frozenset({"assistant_id", "metadata", "multitask_strategy", "if_not_exists", "after_seconds"})
_CRON_FIELDS = frozenset({"schedule", "timezone", "end_time", "enabled", "on_run_completed", "metadata"})
_NESTED: Mapping[tuple[Resource, Action], tuple[str, frozenset[str]]] = {
    ("threads", "create_run"): ("kwargs", _RUN_FIELDS),
    ("crons", "create"): ("payload", _CRON_FIELDS),
    ("crons", "update"): ("payload", _CRON_FIELDS),
}


@dataclass(frozen=True, slots=True)
class Asking:
    """A caller who wants to do something to rows of a resource, whatever door they come by."""

    gate: Gate
    caller: Caller
    resource: Resource
    action: Action
    graph_ids: Collection[str]

    async def request(self, request: HTTPConnection, limit: int) -> Caller:
        """The caller with what they may see; the request becomes what the gate made of it.

        Args:
            limit: of the body, in bytes.

        Raises:
            Forbidden: they may not do this.
            Invalid, TooLarge: the request's own fault.
        """
        body = await json_of(request, limit) if await body_of(request, limit) else None
        told = {name: text for name, text in request.path_params.items() if name in IDS}
        if (self.resource, self.action) == ("threads", "update"):
            # Not `request.query_params`, which would keep for the route what it read.
            told |= {"action": wanted} if (wanted := QueryParams(request.scope["query_string"]).get("action")) else {}
        if not isinstance(body, list) or not body:
            caller, left = await self.rows(body, told)
            if isinstance(body, dict):
                request.scope[ASKED] = left
            return caller
        # A batch is as many questions; one caller carries it, so the answers have to agree.
        answers = [await self.rows(part, told) for part in body]
        if any(caller != answers[0][0] for caller, _ in answers):
            raise Forbidden("The parts of this request would see different things: send them one by one.")
        request.scope[ASKED] = [left for _, left in answers]
        return answers[0][0]

    async def rows(self, body: Any, told: Mapping[str, Any]) -> tuple[Caller, Any]:
        """The caller with what they may see, and the body as the handler left it.

        Args:
            told: what handlers know besides the body; their changes to it change nothing.
        """
        given: Value = body if isinstance(body, dict) and self.action != "read" else {}
        if not isinstance(given.get("metadata") or {}, dict):
            raise Invalid("metadata must be an object")
        nested, own = _NESTED.get((self.resource, self.action), (None, frozenset(given)))
        value: Value = {name: self._shown(name, item) for name, item in given.items() if name in own}
        if nested is not None:
            value[nested] = {name: item for name, item in given.items() if name not in own}
        value["metadata"] = dict(given.get("metadata") or {})
        self._name_new_row(value)
        value |= {name: self._shown(name, item) for name, item in told.items()}
        if (self.resource, self.action) == ("crons", "create"):
            value["user_id"] = self.caller.owner
        caller = await self.gate.allow(self.caller, self.resource, self.action, value)
        if not isinstance(body, dict) or self.action == "read":
            return caller, body
        inner = value.pop(nested, None) if nested is not None else None
        left = dict(inner) if isinstance(inner, dict) else {}
        left |= {name: _plain(name, item) for name, item in value.items() if name not in (*told, "user_id")}
        if not left.get("metadata") and "metadata" not in given:
            left.pop("metadata", None)
        return caller, left

    def _name_new_row(self, value: Value) -> None:
        """Handlers see the id of what is to be created, whoever chose it."""
        if self.action == "create" and self.resource == "threads" and value.get("thread_id") is None:
            value["thread_id"] = uuids.uuid7()
        if self.action == "create" and self.resource == "assistants" and value.get("assistant_id") is None:
            value["assistant_id"] = uuids.uuid4()

    def _shown(self, name: str, item: Any) -> Any:
        if name == "ids" and isinstance(item, list):
            return [_uuid(part) for part in item]
        if name == "assistant_id" and item in self.graph_ids:
            return system_assistant_id(item)
        return _uuid(item) if name in IDS else item


def _uuid(text: Any) -> Any:
    """A UUID as such; a mistake as it is, for the route to judge."""
    try:
        return UUID(text) if isinstance(text, str) else text
    except ValueError:
        return text


def _plain(name: str, item: Any) -> Any:
    """What a handler left, as JSON data again."""
    if name == "metadata":
        return codec.loads(codec.dumps_exact(item))
    if name == "ids" and isinstance(item, list | tuple):
        return [str(part) if isinstance(part, UUID) else part for part in item]
    return str(item) if isinstance(item, UUID) else item
