"""One harness for every server of this wire: `make bench`, or

    python -m bench [--scenario wait stream] [--servers holdfast handrolled] [--peers official,aegra] [--clients 1 32]
                    [--seconds 1.5] [--windows 3] [--soak 1200] [--full] [--database-url URL]

The servers take turns, several short windows each; whoever waits for its turn is stopped (SIGSTOP). The report is
`.bench/report.md`, with all figures and a plot beside it. Peers come from PyPI into `.bench/peers` on first use; they
play `wait` and `stream`, and every scenario that is named. Each server has the settings that it is shipped with.
Absolute times belong to the machine that they were taken on; compare what was taken in one run.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from importlib import metadata

from bench import machine, peers
from bench.figures import Window
from bench.peers import PLACE, ROOT
from bench.report import noise_of, table, write
from bench.scenarios import SCENARIOS
from bench.scenarios.scenario import Scenario
from bench.servers import LAUNCHES, TWO_PROCESSES
from bench.stage import Options, Stage, stage

DEFAULT = ["holdfast", TWO_PROCESSES, "handrolled"]
PACKAGES = ("langgraph", "langchain-core", "langgraph-checkpoint-postgres", "psycopg", "fastapi", "uvicorn", "uvloop")


def main() -> None:
    # Servers have sessions of their own: whoever ends this ends them too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    asked = _asked()
    names = [*asked.servers, *(name for name in asked.peers.split(",") if name and name not in asked.servers)]
    options = Options(
        tuple(names),
        asked.seconds,
        asked.windows,
        tuple(asked.clients),
        asked.full,
        asked.full or bool(asked.scenario),
        asked.soak,
    )
    chosen = [scenario for scenario in SCENARIOS.values() if _is_chosen(scenario, asked)]
    windows: list[Window] = []
    with stage(options, asked.database_url) as open_stage:
        for scenario in chosen:
            played = list(scenario.windows(open_stage))
            if played:
                windows += played
                print(f"{table(scenario, played)}\n{noise_of(played)}\n", flush=True)
                # Whoever ends this early keeps what there is.
                paths = write(PLACE, chosen, windows, _facts(open_stage))
    if windows:
        print(*paths, sep="\n")


def _is_chosen(scenario: Scenario, asked: argparse.Namespace) -> bool:
    if asked.scenario:
        return scenario.name in asked.scenario
    return asked.full or not scenario.takes_minutes


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scenario", nargs="+", choices=SCENARIOS, help="all that take no minutes, unless they are named"
    )
    parser.add_argument("--servers", nargs="+", choices=LAUNCHES, default=DEFAULT)
    parser.add_argument("--peers", default=",".join(peers.PEERS), help="other servers, from PyPI; '' for none")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--seconds", type=float, default=1.5, help="of a window")
    parser.add_argument("--soak", type=float, default=1200.0, help="seconds of the scenario `soak`")
    parser.add_argument("--windows", type=int, default=3, help="of each server in each case")
    parser.add_argument("--full", action="store_true", help="also what takes long: 10,000 queued runs, 2,000 turns")
    parser.add_argument("--database-url", help="a Postgres with pg_stat_statements, instead of the embedded one")
    return parser.parse_args()


def _facts(open_stage: Stage) -> dict[str, str]:
    """What the figures were taken on, and with."""
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    facts = machine.description() | {"holdfast": described.stdout.strip()}
    facts |= {package: metadata.version(package) for package in PACKAGES}
    for name, peer in peers.PEERS.items():
        if name in open_stage.skipped:
            facts[name] = f"skipped: {open_stage.skipped[name]}"
        elif open_stage.is_used(name):
            facts[name] = peers.version(peer)
    return facts | open_stage.postgres.settings()


if __name__ == "__main__":
    main()
