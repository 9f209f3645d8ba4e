"""What `rules/caller.py` calls containment is what Postgres calls containment."""

from __future__ import annotations

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from holdfast.rules.caller import contains

SCALARS = st.sampled_from(["a", "b", "", 0, 1, True, False, None])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
)
TERMS = st.dictionaries(st.sampled_from("xy"), SCALARS | st.lists(SCALARS, max_size=2), max_size=2)


def test_containment_is_the_databases(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:

        @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
        @given(document=st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3), terms=TERMS)
        def check(document: object, terms: object) -> None:
            row = conn.execute("SELECT %s::jsonb @> %s::jsonb", [Jsonb(document), Jsonb(terms)]).fetchone()
            assert row == (contains(document, terms),)

        check()
