"""Two ways to run one office: with handlers that filter by owner, and with none at all."""

from __future__ import annotations

from typing import Any

from langgraph_sdk import Auth

KEYS = {
    "key-a": {"identity": "ada", "permissions": ["write"], "team": "red", "token": "ada-upstream-secret"},
    "key-b": {"identity": "bob", "permissions": [], "team": "blue"},
    "key-admin": {"identity": "root", "permissions": ["admin"]},
}

HIDDEN = "4753eadf-4393-50a9-bd92-7c4e33a824a6"
"""The system assistant of the graph `hidden`."""

filtered = Auth()
bare = Auth()


@bare.authenticate
@filtered.authenticate
async def authenticate(headers: dict[bytes, bytes], authorization: str | None) -> dict[str, Any]:
    scheme, _, token = (authorization or "").partition(" ")
    key = headers.get(b"x-api-key", b"").decode("utf-8", "replace") or (token if scheme.lower() == "bearer" else "")
    if key not in KEYS:
        raise Auth.exceptions.HTTPException(401, "Who are you?", headers={"WWW-Authenticate": "Bearer"})
    return KEYS[key]


@filtered.on.threads
@filtered.on.crons
async def of_the_owner(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> Any:
    if "admin" in ctx.permissions:
        return True
    if ctx.action in ("create", "create_run"):
        value["metadata"]["owner"] = ctx.user.identity
    return {"owner": ctx.user.identity}


@filtered.on.assistants
async def of_the_team(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> Any:
    if ctx.action == "read" and str(value["assistant_id"]) == HIDDEN and "admin" not in ctx.permissions:
        return False
    return {"team": ctx.user["team"]} if "team" in ctx.user else None


@filtered.on.threads.delete
async def the_owner_deletes(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> Any:
    return True if "admin" in ctx.permissions else {"owner": {"$eq": ctx.user.identity}}


@filtered.on.store
async def of_the_namespace(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> None:
    value["namespace"] = (ctx.user.identity, *(value["namespace"] or ()))
