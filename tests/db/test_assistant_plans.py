"""However many assistants there are, a search finds its page along an index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from holdfast.db.assistants import AssistantFilter, page
from holdfast.db.scope import scoped
from holdfast.rules.caller import Caller, Sight
from tests.support.postgres import Cluster

GRAPHS = ["common", "rare"]
MANY = 20_000

CROWD, FEW, NOBODY = Caller("crowd"), Caller("few"), Caller("nobody")
TEAM = Caller("eve", Sight.MATCHING, filters=({"team": "t7"}, {"team": "t8"}))


@pytest.fixture(scope="module")
def crowded(cluster: Cluster) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """A database with 20,000 assistants, nearly all of one owner and one graph, and current statistics."""
    with cluster.database() as url, psycopg.connect(url, autocommit=True, row_factory=dict_row) as conn:
        conn.execute(
            """
            INSERT INTO holdfast.assistants (assistant_id, owner, graph_id, name, metadata, created_at, updated_at)
            SELECT gen_random_uuid(),
                   CASE WHEN n <= 2 THEN NULL WHEN n %% 1000 = 0 THEN 'few' ELSE 'crowd' END,
                   CASE WHEN n %% 500 = 0 THEN 'rare' ELSE 'common' END,
                   'assistant ' || n, jsonb_build_object('team', 't' || n %% 2000, 'kind', 'x'),
                   now() - make_interval(secs => n), now()
            FROM generate_series(1, %s) AS n""",
            [MANY],
        )
        conn.execute("VACUUM ANALYZE holdfast.assistants")
        yield conn


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("caller", [CROWD, FEW, NOBODY, TEAM, Caller("root", Sight.ALL)], ids=lambda who: who.owner)
@pytest.mark.parametrize(
    "terms",
    [
        AssistantFilter(),
        AssistantFilter(graph_id="rare"),
        AssistantFilter(graph_id="common"),
        AssistantFilter(metadata={"team": "t7"}),
        AssistantFilter(graph_id="rare", metadata={"team": "t0", "kind": "x"}),
        AssistantFilter(name="assistant 1"),
    ],
    ids=lambda terms: f"{terms.graph_id} {terms.metadata} {terms.name}",
)
def test_a_search_reads_no_table_from_end_to_end(
    crowded: psycopg.Connection[dict[str, Any]], caller: Caller, terms: AssistantFilter, descending: bool
) -> None:
    statement, params = scoped(
        caller,
        page(terms, "created_at", descending=descending),
        graph_ids=GRAPHS,
        graph_id=terms.graph_id,
        name=terms.name,
        metadata=Jsonb(terms.metadata),
        limit=11,
        offset=0,
    )
    row = crowded.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, params).fetchone()  # type: ignore[arg-type]
    assert row is not None
    nodes = [node for node in _nodes(row["QUERY PLAN"][0]["Plan"]) if node.get("Relation Name") == "assistants"]
    assert nodes
    assert "Seq Scan" not in {node["Node Type"] for node in nodes}
    read = sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in nodes)
    assert read < 500


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
