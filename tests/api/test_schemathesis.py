"""A short part of `make schemathesis`: a few valid and invalid requests to every operation."""

from __future__ import annotations

import pytest

from tests.fuzz.campaign import campaign
from tests.support.postgres import Cluster


@pytest.mark.requirement("openapi.answers", "openapi.errors")
def test_what_comes_back_is_as_the_document_says(cluster: Cluster) -> None:
    outcome = campaign(cluster, "--phases=examples,fuzzing", "--max-examples=6")
    assert not outcome.failed, outcome.report
    started = {"POST /assistants", "POST /threads", "POST /threads/{thread_id}/runs/wait", "POST /runs/crons"}
    assert started.isdisjoint(outcome.unreached), "nearly all was refused"
