"""Scopes: the table is whole, and what it does not name is denied."""

from __future__ import annotations

from typing import get_args

import pytest

from holdfast.api.auth import Action, Resource
from holdfast.rules.scope import ALL, NEEDED, USUAL, Scope, granted, needed, permissions, run_lacks, unknown

ROWS = ("assistants", "threads", "crons")


def test_every_action_on_every_resource_is_in_the_table_or_needs_admin() -> None:
    there_are = {(resource, action) for resource in ROWS for action in ("create", "read", "update", "delete", "search")}
    there_are |= {("store", action) for action in ("put", "get", "delete", "search", "list_namespaces")}
    there_are |= {("threads", "create_run")}
    assert NEEDED.keys() == there_are
    for resource in get_args(Resource):
        for action in get_args(Action):
            assert (needed(resource, action) == (Scope.ADMIN,)) == ((resource, action) not in there_are)


def test_reading_never_lets_anybody_change_anything() -> None:
    changing = {"create", "update", "delete", "put", "create_run"}
    for (_, action), scopes in NEEDED.items():
        assert (Scope.READ in scopes) == (action not in changing)


def test_without_a_word_everything_is_allowed_but_what_is_not_ones_own() -> None:
    assert {Scope.ADMIN, Scope.APPROVE_ALL} == ALL - USUAL


@pytest.mark.parametrize(
    ("names", "scopes"),
    [
        ([], set()),
        (["read"], {"read"}),
        (["read", "openid", "permission:run"], {"read"}),
        (["READ", "reader", "permission:admin"], set()),
        (["approve:all"], {"approve:all", "approve"}),
        (["admin"], ALL),
    ],
)
def test_names_grant_what_they_say_and_what_that_implies(names: list[str], scopes: set[str]) -> None:
    assert granted(names) == scopes


def test_a_permission_is_no_scope_and_keeps_its_name() -> None:
    assert permissions(["read", "permission:finance", "legal"]) == ("finance", "legal", "read")
    assert unknown(["read", "permission:finance", "permission:", "reed", ""]) == ["permission:", "reed", ""]


@pytest.mark.parametrize(
    ("scopes", "run", "missing"),
    [
        ({"run"}, "input", None),
        ({"run"}, "nothing", None),
        ({"run"}, "answer", "approve"),
        ({"run"}, "goto", "approve"),
        ({"run", "approve"}, "goto", "write"),
        ({"run", "approve", "write"}, "goto", None),
        ({"approve"}, "answer", None),
        ({"approve"}, "answer and goto", "run"),
        ({"approve"}, "input", "run"),
        ({"approve"}, "nothing", "run"),
        ({"run", "approve"}, "answer", None),
        ({"run", "approve"}, "answer and goto", "write"),
        ({"read", "write"}, "input", "run"),
        ({"read", "write"}, "answer", "approve"),
    ],
)
def test_who_answers_needs_another_scope_than_who_starts_and_who_steers_needs_all(
    scopes: set[str], run: str, missing: str | None
) -> None:
    steers = "goto" in run
    assert run_lacks(scopes, answers="answer" in run, brings=steers or run == "input", steers=steers) == missing
