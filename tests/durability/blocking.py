"""R16: nodes that take very long, one that blocks the event loop and one that does not, on two workers.

A round is half a minute: both nodes go on for all rounds together. While its event loop is blocked a worker hears of
nothing, but its heartbeat has a thread of its own, so nobody takes its run away. (A process that also serves the API
answers nothing meanwhile: that is what such a node does to it.)
"""

from __future__ import annotations

import psycopg

from tests.durability.goals import Control, Goal, Trial
from tests.durability.takeover import Site, site
from tests.durability.tally import Tally
from tests.support.postgres import Cluster

ROUND_SECONDS = 30.0
PATIENCE = 60.0


def blocked(site: Site, tally: Tally, seconds: float) -> None:
    """Both nodes at once; a lease that runs out meanwhile is found in the end by the run's attempts."""
    walks, holders = {}, {}
    # One after the other: what the same worker claims beside the node that blocks has to wait for it.
    for graph in ("blocking", "walk"):
        walks[graph] = site.walk(graph, count=1, pause=seconds)
        holders[graph] = walks[graph].started(1).pid
    for graph, walk in walks.items():
        site.client.settled(walk.thread, seconds + PATIENCE)
        pids = {each.pid for each in walk.executions()}
        tally.count(f"{graph}: seconds", int(seconds))
        tally.fault(f"{graph}: taken away", [] if pids == {holders[graph]} else [pids])
        with psycopg.connect(site.database_url) as conn:
            row = conn.execute("SELECT attempt FROM holdfast.runs WHERE run_id = %s", [walk.run]).fetchone()
        tally.fault(f"{graph}: claimed again", [] if row == (1,) else [row])
        walk.judge(tally, may_start_twice=0)


def play(trial: Trial) -> Tally:
    tally = Tally("a node that blocks the event loop, and one that is only slow")
    with (
        Cluster.embedded(trial.directory / "postgres") as cluster,
        site(trial.directory, cluster, planted=trial.planted) as place,
    ):
        blocked(place, tally, trial.rounds * ROUND_SECONDS)
    return tally


GOAL = Goal(
    "R16",
    "a node that blocks keeps its run",
    play,
    rounds=16,
    at_least={"blocking: seconds": 480, "walk: seconds": 480},
    controls=(Control("no-thread", ("blocking: taken away", "blocking: claimed again"), rounds=1),),
)
