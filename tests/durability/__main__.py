"""Play the durability goals; the exit status says whether all of them are met.

python -m tests.durability [R1 R3 ...] [--rounds N] [--seed S] [--no-controls] [--peer COMMAND]
"""

from __future__ import annotations

import argparse
import random

from tests.durability import blocking, conversations, leaving, poison, posts, storm, takeover
from tests.durability.answers import R4
from tests.durability.goals import Goal, played
from tests.durability.idle_streams import R12
from tests.durability.lost_connections import STALLED, TERMINATED, UNANSWERED
from tests.durability.outages import AWAY, FULL, TOGETHER
from tests.durability.pooled import POOLER
from tests.durability.rolling import R11
from tests.durability.states import R14
from tests.durability.tally import say

GOALS: tuple[Goal, ...] = (
    storm.GOAL,
    conversations.GOAL,
    *takeover.GOALS,
    leaving.GOAL,
    R4,
    posts.GOAL,
    TERMINATED,
    STALLED,
    AWAY,
    TOGETHER,
    UNANSWERED,
    FULL,
    R11,
    R12,
    poison.GOAL,
    R14,
    POOLER,
    blocking.GOAL,
)
"""In the order of docs/durability.md."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("goals", nargs="*", metavar="GOAL", help=", ".join(goal.id for goal in GOALS))
    parser.add_argument("--rounds", type=int, help="instead of each goal's own number")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--no-controls", action="store_true", help="without the planted faults that have to be found")
    parser.add_argument("--peer", default="", metavar="COMMAND", help="try another server, see peers.py; no controls")
    given = parser.parse_args()
    by_id = {goal.id: goal for goal in GOALS}
    problems = []
    for name in given.goals or by_id:
        if given.peer and not by_id[name].for_peers:
            continue
        controls = not (given.no_controls or given.peer)
        problems += played(by_id[name], rounds=given.rounds, seed=given.seed, controls=controls, peer=given.peer)
    for problem in problems:
        say(f"NOT MET {problem}")
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
