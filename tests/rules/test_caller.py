from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from holdfast.rules.caller import Caller, Sight, User, contains, identity

MATCHING = Caller("ada", Sight.MATCHING, ({"owner": "ada", "members": ["ada"]},))


@pytest.mark.parametrize(
    ("metadata", "made"),
    [
        ({}, {"owner": "ada", "members": ["ada"]}),
        ({"owner": "bob", "n": 1}, {"owner": "ada", "members": ["ada"], "n": 1}),
        ({"owner": "ada", "members": ["bob", "ada"]}, {"owner": "ada", "members": ["bob", "ada"]}),
    ],
)
def test_rows_that_a_caller_makes_are_rows_that_they_see(metadata: dict[str, Any], made: dict[str, Any]) -> None:
    assert MATCHING.marked(metadata) == made
    assert contains(MATCHING.marked(metadata), MATCHING.filters[0])


@pytest.mark.parametrize("caller", [Caller("ada"), Caller("ada", Sight.ALL)])
def test_without_a_filter_nothing_is_added_and_everything_may_change(caller: Caller) -> None:
    assert caller.marked({"owner": "bob"}) == {"owner": "bob"}
    assert caller.keeps({"owner": "bob"})


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"n": 1}, True),
        ({"owner": "ada"}, True),
        ({"members": ["bob", "ada"]}, True),
        ({"owner": "bob"}, False),
        ({"members": ["bob"]}, False),
        ({"members": None}, False),
        ({"owner": "ada", "members": "ada"}, False),
    ],
)
def test_a_change_must_leave_a_row_in_sight(changes: dict[str, Any], kept: bool) -> None:
    assert MATCHING.keeps(changes) is kept


def test_a_user_is_json_data_and_has_the_attributes_of_langgraphs_users() -> None:
    user = User(identity="ada", permissions=["p"], org=1)
    assert (user.identity, user.display_name, user.is_authenticated, user.permissions) == ("ada", "ada", True, ("p",))
    assert (user.org, user["org"], "org" in user, list(user)) == (1, 1, True, ["identity", "permissions", "org"])
    assert json.loads(json.dumps(user)) == copy.deepcopy(user) == user
    assert not hasattr(user, "tenant")


def test_a_graph_learns_what_is_known_of_its_user() -> None:
    assert identity("ada", None) == {"user_id": "ada", "langgraph_auth_user_id": "ada"}
    user = User(identity="ada", permissions=["p"])
    assert identity("ada", user).items() >= {"langgraph_auth_user": user, "langgraph_auth_permissions": ["p"]}.items()
