"""`make schemathesis`: all operations, valid and invalid data, sequences of requests; some five minutes."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import campaign
from tests.support.postgres import Cluster

with tempfile.TemporaryDirectory(prefix="holdfast-fuzz-") as place, Cluster.embedded(Path(place)) as cluster:
    outcome = campaign(cluster, "--phases=examples,coverage,fuzzing,stateful", "--max-examples=100")
print(outcome.report)
print("Never answered 2xx:", ", ".join(outcome.unreached) or "none")
sys.exit(outcome.failed)
