"""The gate of a project's own `langgraph_sdk.Auth`: who comes in, and what its handlers' answers mean."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from langgraph_sdk import Auth
from pydantic import BaseModel
from starlette.authentication import AuthenticationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from holdfast.api.auth import Action, Resource
from holdfast.api.customauth import CustomGate
from holdfast.errors import Forbidden, ProjectError, TooLarge, Unauthenticated
from holdfast.rules.caller import Caller, Sight, User

pytestmark = pytest.mark.anyio

ADA = Caller("ada", user=User(identity="ada"))


def request(
    method: str = "POST", path: str = "/threads/1", body: bytes = b'{"a": 1}', headers: dict[str, str] | None = None
) -> Request:
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return sent.pop()

    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"x=1&x=2",
        "headers": raw,
        "path_params": {"thread_id": "1"},
    }
    return Request(scope, receive)


def gate(
    authenticate: Callable[..., Any] = lambda: "ada", *, auth: Auth | None = None, limit: int = 1000
) -> CustomGate:
    auth = auth or Auth()
    auth.authenticate(authenticate)  # type: ignore[type-var]
    return CustomGate(auth, "auth.py:1", max_body_bytes=limit)


async def answered(answer: Any, resource: Resource = "threads", action: Action = "read", **value: Any) -> Caller:
    """What the answer of a handler makes of a caller."""
    auth = Auth()

    @auth.on
    async def handler(ctx: Any, value: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return await gate(auth=auth).allow(ADA, resource, action, value)


# --- who comes in ---


class Model(BaseModel):
    identity: str
    org: int

    def can(self, what: str) -> bool:
        return what == "fly"


@dataclass
class Plain:
    identity: str = "ada"
    permissions: tuple[str, ...] = ("p",)
    _secret: str = "s"


class Slotted:
    __slots__ = ()
    identity = "ada"
    display_name = "Ada L."


@pytest.mark.parametrize(
    ("result", "user"),
    [
        ("ada", {"display_name": "ada", "permissions": []}),
        ({"identity": "ada", "permissions": ("p", "q"), "n": 1}, {"permissions": ["p", "q"], "n": 1}),
        ({"identity": "ada", "when": UUID(int=1), "_private": 1}, {"when": str(UUID(int=1)), "permissions": []}),
        (Model(identity="ada", org=7), {"org": 7}),
        (Plain(), {"permissions": ["p"]}),
        (Slotted(), {"display_name": "Ada L."}),
    ],
)
async def test_a_user_is_a_name_a_dict_or_an_object(result: Any, user: dict[str, Any]) -> None:
    caller = await gate(lambda: result).admit(request())
    assert caller.owner == "ada"
    assert caller.user is not None
    expected = {"identity": "ada", "display_name": "ada", "is_authenticated": True, "permissions": [], **user}
    assert dict(caller.user) == expected
    assert caller.permissions == tuple(expected["permissions"])
    assert caller.sight is Sight.OWN


async def test_handlers_find_the_users_own_object_behind_its_data() -> None:
    auth, seen = Auth(), []

    @auth.on
    async def handler(ctx: Auth.types.AuthContext, value: Any) -> None:
        seen.append((ctx.user.can("fly"), ctx.user["org"], "org" in ctx.user, ctx.user.identity))  # type: ignore[attr-defined]

    door = gate(lambda: Model(identity="ada", org=7), auth=auth)
    await door.allow(await door.admit(request()), "threads", "read", {})
    assert seen == [(True, 7, True, "ada")]


@pytest.mark.parametrize("identity", [12, UUID(int=5)])
async def test_an_identity_may_be_a_number_or_a_uuid(identity: Any) -> None:
    assert (await gate(lambda: {"identity": identity}).admit(request())).owner == str(identity)


@pytest.mark.parametrize("result", [None, {"identity": "ada", "is_authenticated": False}])
async def test_nobody_is_refused(result: Any) -> None:
    with pytest.raises(Unauthenticated):
        await gate(lambda: result).admit(request())


@pytest.mark.parametrize(
    "result",
    ["", {}, {"identity": ""}, {"identity": None}, {"identity": True}, 5, {"identity": "a", "permissions": "p"}],
)
async def test_a_user_that_is_none_is_refused_and_logged(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(HTTPException) as refused:
        await gate(lambda: result).admit(request())
    assert refused.value.status_code == 500
    assert "authenticate failed, so the request was refused" in caplog.text


@pytest.mark.parametrize(
    ("error", "kind", "status", "detail"),
    [
        (Auth.exceptions.HTTPException(), HTTPException, 401, "Unauthorized"),
        (Auth.exceptions.HTTPException(402, "pay", headers={"X-Pay": "now"}), HTTPException, 402, "pay"),
        (Auth.exceptions.HTTPException(200, "come in"), HTTPException, 403, "come in"),
        (HTTPException(429, "slow down"), HTTPException, 429, "slow down"),
        (AuthenticationError("no"), Forbidden, 403, "no"),
        (AssertionError(), Forbidden, 403, "Forbidden"),
        (KeyError("secret-key"), HTTPException, 500, "Authentication failed: the server's log has the details."),
    ],
)
async def test_what_user_code_raises_refuses_the_request(error: Exception, kind: Any, status: int, detail: str) -> None:
    async def authenticate() -> str:
        raise error

    with pytest.raises(kind) as refused:
        await gate(authenticate).admit(request())
    caught: Any = refused.value
    assert getattr(caught, "status_code", 403) == status
    assert getattr(caught, "detail", str(caught)) == detail
    with pytest.raises(kind):
        await answered(error)
    if status == 402:
        assert caught.headers == {"X-Pay": "now"}


async def test_the_function_gets_what_it_asks_for_by_name() -> None:
    seen: dict[str, Any] = {}

    async def authenticate(
        request: Any, body: Any, user: Any, path: str, method: str, scopes: Any, path_params: Any, query_params: Any,
        headers: Any, authorization: Any, scope: Any, other: int = 5,
    ) -> str:  # fmt: skip
        seen.update(
            body=body, user=user, path=path, method=method, scopes=scopes, path_params=path_params,
            query_params=query_params, headers=headers, authorization=authorization, scope=scope, other=other,
            read=await request.json(),
        )  # fmt: skip
        return "ada"

    asked = request(headers={"Authorization": "Bearer t", "X-Org": "o"})
    await gate(authenticate).admit(asked)
    assert {name: seen[name] for name in seen.keys() - {"scope"}} == {
        "body": {"a": 1},
        "user": None,
        "path": "/threads/1",
        "method": "POST",
        "scopes": [],
        "path_params": {"thread_id": "1"},
        "query_params": {"x": "2"},
        "headers": {b"authorization": b"Bearer t", b"x-org": b"o"},
        "authorization": "Bearer t",
        "other": 5,
        "read": {"a": 1},
    }
    assert seen["scope"]["path"] == "/threads/1"


async def test_a_body_that_is_no_json_is_none() -> None:
    def authenticate(body: Any) -> str:
        return "ada" if body is None else "bob"

    assert (await gate(authenticate).admit(request(body=b"{"))).owner == "ada"


async def test_a_body_over_the_limit_is_not_read_for_anybody() -> None:
    with pytest.raises(TooLarge):
        await gate(_asks_for_the_request, limit=3).admit(request())


def _asks_for_the_request(request: Any) -> str:
    return "ada"


def _asks_for_a_database(database: Any) -> str:
    return "ada"


async def test_a_synchronous_function_runs_beside_the_loop() -> None:
    loop_thread = threading.get_ident()
    assert (await gate(lambda: str(threading.get_ident())).admit(request())).owner != str(loop_thread)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: CustomGate("auth", "auth.py:7", max_body_bytes=1), "auth.py:7: must be a langgraph_sdk.Auth, not str"),
        (lambda: CustomGate(Auth(), "auth.py:7", max_body_bytes=1), "auth.py:7: has no @auth.authenticate function"),
        (lambda: gate(_asks_for_a_database), "asks for 'database'; it may ask for authorization, body"),
    ],
)
async def test_an_auth_that_could_let_nobody_in_is_refused(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(ProjectError, match=problem):
        make()


# --- what answers mean ---


@pytest.mark.parametrize("answer", [None, True])
async def test_a_plain_yes_shows_everything_but_creates_only_ones_own(answer: Any) -> None:
    assert (await answered(answer)).sight is Sight.ALL
    assert (await answered(answer, action="create_run")).sight is Sight.ALL
    assert (await answered(answer, "store", "put")).sight is Sight.ALL
    assert (await answered(answer, action="create", metadata={})).sight is Sight.OWN


@pytest.mark.parametrize(
    ("answer", "terms"),
    [
        ({"owner": "ada"}, {"owner": "ada"}),
        ({"owner": {"$eq": "ada"}}, {"owner": "ada"}),
        ({"n": 5, "flag": False}, {"n": 5, "flag": False}),
        ({"owner": UUID(int=1)}, {"owner": str(UUID(int=1))}),
        ({"members": {"$contains": "ada"}}, {"members": ["ada"]}),
        ({"members": {"$contains": ["ada", "bob"]}}, {"members": ["ada", "bob"]}),
        ({"owner": "ada", "members": {"$contains": "bob"}}, {"owner": "ada", "members": ["bob"]}),
    ],
)
async def test_a_filter_is_what_the_metadata_must_contain(answer: Any, terms: dict[str, Any]) -> None:
    caller = await answered(answer)
    assert (caller.sight, caller.filters) == (Sight.MATCHING, (terms,))


@pytest.mark.parametrize("resource", ["threads", "store"])
async def test_no_is_forbidden(resource: Resource) -> None:
    with pytest.raises(Forbidden, match=r"^Forbidden$"):
        await answered(False, resource)


@pytest.mark.parametrize(
    ("answer", "resource"),
    [
        ({}, "threads"),
        ({"owner": None}, "threads"),
        ({"owner": {"id": 1}}, "threads"),
        ({"owner": ["ada"]}, "threads"),
        ({"owner": {"$in": ["ada"]}}, "threads"),
        ({"owner": {"$eq": "a", "$contains": "b"}}, "threads"),
        ({"owner": {"$eq": {"a": 1}}}, "threads"),
        ({"members": {"$contains": []}}, "threads"),
        ({"members": {"$contains": [["ada"]]}}, "threads"),
        ({"$or": [{"owner": "ada"}]}, "threads"),
        ({5: "ada"}, "threads"),
        ("yes", "threads"),
        (1, "threads"),
        (0, "threads"),
        ({"owner": "ada"}, "store"),
    ],
)
async def test_an_answer_that_means_nothing_is_a_no_that_is_logged(
    answer: Any, resource: Resource, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(HTTPException) as refused:
        await answered(answer, resource)
    assert refused.value.status_code == 500
    assert f"the handler of {resource}.read failed" in caplog.text


async def test_without_a_handler_callers_see_their_own_rows_and_no_store() -> None:
    matching = Caller("ada", Sight.MATCHING, ({"owner": "ada"},))
    for resource in ("threads", "assistants", "crons"):
        assert await gate().allow(matching, resource, "search", {}) == Caller("ada")
    for action in ("put", "get", "delete", "search", "list_namespaces"):
        with pytest.raises(Forbidden):
            await gate().allow(ADA, "store", action, {"namespace": ("x",)})


async def test_the_most_specific_handler_is_asked() -> None:
    auth, asked = Auth(), []

    def says(name: str) -> Any:
        async def handler(ctx: Any, value: Any) -> None:
            asked.append(name)

        return handler

    auth.on(says("any"))
    auth.on(actions="search")(says("any search"))
    auth.on.threads(says("threads"))
    auth.on.threads.read(says("threads read"))
    auth.on(resources=["crons"], actions=["delete", "update"])(says("crons delete or update"))
    door = gate(auth=auth)
    expected: list[tuple[Resource, Action, str]] = [
        ("threads", "read", "threads read"),
        ("threads", "search", "threads"),
        ("threads", "create_run", "threads"),
        ("crons", "update", "crons delete or update"),
        ("crons", "search", "any search"),
        ("assistants", "read", "any"),
        ("store", "put", "any"),
    ]
    for resource, action, _ in expected:
        await door.allow(ADA, resource, action, {})
    assert asked == [name for *_, name in expected]


async def test_handlers_are_told_who_wants_what() -> None:
    auth, seen = Auth(), []

    @auth.on
    async def handler(ctx: Auth.types.AuthContext, value: Any) -> None:
        seen.append((ctx.user.identity, list(ctx.permissions), ctx.resource, ctx.action, value))

    caller = Caller("ada", user=User(identity="ada"), permissions=("p",))
    await gate(auth=auth).allow(caller, "threads", "delete", {"thread_id": 1})
    assert seen == [("ada", ["p"], "threads", "delete", {"thread_id": 1})]


# --- rows that are made and changed ---


async def test_what_is_created_carries_what_the_filter_asks_for() -> None:
    value: dict[str, Any] = {"metadata": {"owner": "bob", "n": 1}}
    auth = Auth()

    @auth.on
    async def handler(ctx: Any, value: Any) -> Any:
        return {"owner": "ada"}

    await gate(auth=auth).allow(ADA, "threads", "create", value)
    assert value == {"metadata": {"owner": "ada", "n": 1}}


async def test_a_row_cannot_be_given_away_or_taken_over_by_changing_its_metadata() -> None:
    for metadata in ({"owner": "bob"}, {"owner": None}, {"owner": ["ada"]}):
        with pytest.raises(Forbidden):
            await answered({"owner": "ada"}, action="update", metadata=metadata)
    for metadata in ({}, {"n": 1}, {"owner": "ada"}):
        assert (await answered({"owner": "ada"}, action="update", metadata=metadata)).sight is Sight.MATCHING


async def test_a_slow_handler_holds_up_nobody_else() -> None:
    auth, first = Auth(), asyncio.Event()

    @auth.on
    async def handler(ctx: Any, value: Any) -> None:
        if value:
            await first.wait()
        first.set()

    door = gate(auth=auth)
    async with asyncio.timeout(5):
        await asyncio.gather(door.allow(ADA, "threads", "read", {"wait": 1}), door.allow(ADA, "threads", "read", {}))
