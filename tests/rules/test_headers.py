"""Which headers a run may see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.rules.headers import CREDENTIALS, TRACING, logged, visible

SENT = [("X-Team", "a"), ("x-user-id", "7"), ("X-Secret-Thing", "s"), ("Accept", "*/*")]


@pytest.mark.parametrize(
    ("includes", "excludes", "passing"),
    [
        ([], [], {}),
        (["x-team"], [], {"x-team": "a"}),
        (["X-TEAM"], [], {"x-team": "a"}),
        (["x-*"], [], {"x-team": "a", "x-user-id": "7", "x-secret-thing": "s"}),
        (["x-*"], ["*secret*"], {"x-team": "a", "x-user-id": "7"}),
        (["*"], ["x-*"], {"accept": "*/*"}),
        (["x"], [], {}),
        (["x.team"], [], {}),
        ([], ["*"], {}),
    ],
)
def test_a_header_passes_that_is_listed_and_not_excluded(
    includes: list[str], excludes: list[str], passing: dict[str, str]
) -> None:
    assert visible(SENT, includes=includes, excludes=excludes) == passing
    assert logged(SENT, includes=includes, excludes=excludes) == passing


@pytest.mark.parametrize("name", sorted(CREDENTIALS))
def test_a_credential_never_passes(name: str) -> None:
    assert visible([(name.title(), "s"), (name, "s")], includes=["*", name]) == {}
    assert logged([(name.title(), "s")], includes=["*", name]) == {}


@pytest.mark.parametrize("name", ["run_id", "thread_id", "langgraph_auth_user", "__pregel_store", "checkpoint_id"])
def test_a_header_cannot_pass_for_something_else(name: str) -> None:
    assert visible([(name, "forged")], includes=["*", name]) == {}


@pytest.mark.parametrize("name", sorted(TRACING))
def test_a_trace_always_goes_on(name: str) -> None:
    assert visible([(name.title(), "t")], excludes=["*"]) == {name: "t"}


def test_a_header_that_comes_twice_is_one_text() -> None:
    assert visible([("X-A", "1"), ("x-a", "2")], includes=["x-a"]) == {"x-a": "1, 2"}


names = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=12)


@given(st.lists(st.tuples(names | st.sampled_from(sorted(CREDENTIALS)), st.text(max_size=3))), st.lists(names))
def test_nothing_passes_unasked(headers: list[tuple[str, str]], includes: list[str]) -> None:
    passing = visible(headers, includes=[*includes, "*"])
    assert not passing.keys() & CREDENTIALS
    assert passing.keys() <= {name.lower() for name, _ in headers}
    assert visible(headers, includes=includes, excludes=["*"]).keys() <= TRACING
