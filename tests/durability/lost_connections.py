"""Connections to the database that are terminated, that stall, and that go down just when a commit is answered.

    R6    every connection to the database is terminated every 2 s
    R6b   nothing passes between one of two servers and the database for 10 s
    R9    5 % of all statements are answered by the end of their connection, although they took effect

In all three no client may notice: no 5xx, no failed run, nothing carried out twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from tests.durability.client import Client
from tests.durability.effects import EffectLog
from tests.durability.goals import Control, Goal, Trial
from tests.durability.ledger import doubled
from tests.durability.tally import Tally
from tests.durability.traffic import COUNT, FAULTS, PAUSE, Traffic
from tests.durability.walk import PROJECT, Walk
from tests.support.postgres import Cluster
from tests.support.proxy import Proxy
from tests.support.server import Server

CLIENTS = 6
EVERY_SECONDS = 2.0
LATE_SECONDS = 2.0
LOST = 0.05
STALL_SECONDS = 10.0
LEASE_SECONDS = 5.0

TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


@contextmanager
def own_database(directory: Path) -> Iterator[str]:
    """A database in a Postgres of the proof's own."""
    with Cluster.embedded(directory / "postgres") as cluster, cluster.database() as url:
        yield url


def terminated(trial: Trial) -> Tally:
    """`rounds` times all connections are terminated, two seconds apart."""
    with own_database(trial.directory) as url:
        return storm(trial, url, url)


def storm(trial: Trial, url: str, through: str, **environment: str) -> Tally:
    """The server reaches the database `url` through another URL."""
    tally = Tally("every connection terminated, again and again", *FAULTS)
    effects = EffectLog(trial.directory / "effects.jsonl")
    with (
        Server(
            config=PROJECT,
            database_url=through,
            planted=trial.planted,
            EFFECT_LOG=str(effects.path),
            **environment,
        ) as server,
        psycopg.connect(url, autocommit=True) as conn,
    ):
        traffic = Traffic(server.url, tally, effects, trial.chance)
        with traffic.during(CLIENTS):
            for _ in range(trial.rounds):
                time.sleep(EVERY_SECONDS)  # The rhythm is what is being tried.
                running = conn.execute("SELECT count(*) FROM holdfast.runs WHERE status = 'running'").fetchone()
                tally.count("runs in flight at a termination", running[0] if running else 0)
                tally.count("connections terminated", conn.execute(TERMINATE).rowcount)
            ended = time.monotonic()
        late = max(0.0, time.monotonic() - ended - _longest())
        tally.timed("last scene late", late)
        tally.fault("last run late", [f"{late:.1f} s"] if late > LATE_SECONDS else [])
        traffic.judge()
        _judge_tables(tally, url)
    return tally


def _longest() -> float:
    """The seconds that the longest scene takes undisturbed."""
    return 2 * COUNT * PAUSE + 2.0


def _judge_tables(tally: Tally, url: str, *but: str) -> None:
    for question, found in doubled(url, *but).items():
        tally.fault(question, found)


class Losses:
    """Decides which answers get lost, reading the messages that Postgres sends (protocol 3, no TLS).

    A message is a letter, four bytes of length, and its body; a piece of the stream holds several, or parts of one. The
    end of a transaction or of a single statement shows as `Z` (ready) in the state `I`. What is lost is the whole
    piece: the answer before it, too.
    """

    def __init__(self, chance: random.Random, share: float) -> None:
        self.seen = self.lost = 0
        self.of_commits = 0
        self._chance = chance
        self._share = share

    def share(self, share: float) -> None:
        """From now on so many of all answers are lost."""
        self._share = share

    def __call__(self, piece: bytes) -> bool:
        if not piece.endswith(b"Z\x00\x00\x00\x05I"):
            return False
        self.seen += 1
        if self._chance.random() >= self._share:
            return False
        self.lost += 1
        self.of_commits += b"COMMIT\x00" in piece
        return True


def unanswered(trial: Trial) -> Tally:
    """`rounds` seconds during which one statement in twenty takes effect and is not answered."""
    with own_database(trial.directory) as url:
        return silence(trial, url, url)


def silence(trial: Trial, url: str, through: str, **environment: str) -> Tally:
    """The server reaches the database `url` through another URL, and that through the proxy."""
    tally = Tally("5 % of all statements take effect and are not answered", *FAULTS)
    effects = EffectLog(trial.directory / "effects.jsonl")
    losses = Losses(random.Random(trial.chance.random()), 0.0)
    with (
        Proxy(through, watch=losses) as proxy,
        Server(
            config=PROJECT,
            database_url=proxy.url,
            planted=trial.planted,
            EFFECT_LOG=str(effects.path),
            **environment,
        ) as server,
    ):
        traffic = Traffic(server.url, tally, effects, trial.chance)
        losses.share(LOST)
        with traffic.during(CLIENTS):
            time.sleep(trial.rounds)  # As long as the clients are to have it.
        losses.share(0.0)
        tally.count("statements that ended", losses.seen)
        tally.count("answers lost", losses.lost)
        tally.count("answers of COMMIT lost", losses.of_commits)
        traffic.judge()
        _judge_tables(tally, url)
    return tally


def stalled(trial: Trial) -> Tally:
    """Of two servers one hears nothing of the database for 10 s, without a word; its runs go on at the other one."""
    tally = Tally("nothing passes for 10 s between one of two servers and the database", *FAULTS)
    effects = EffectLog(trial.directory / "effects.jsonl")
    given = {"EFFECT_LOG": str(effects.path), "HOLDFAST_LEASE_SECONDS": str(LEASE_SECONDS)}
    with ExitStack() as stack:
        url = stack.enter_context(own_database(trial.directory))
        proxy = stack.enter_context(Proxy(url))
        # Two hosts do not see each other's processes; here they would, so the lease is what is tried.
        cut_off = stack.enter_context(Server(config=PROJECT, database_url=proxy.url, planted=trial.planted, **given))
        for number in range(trial.rounds):
            with Client(cut_off.url) as client:
                walk = Walk.begin(client, effects, count=40, pause=0.4)
                walk.started(2)
                with Server(config=PROJECT, database_url=url, part="worker", planted=trial.planted, **given) as other:
                    directions = (("there", "back"), ("there",), ("back",))[number % 3]
                    stalled_at = time.monotonic()
                    proxy.stall(*directions)
                    taken = walk.started_by(other.pid, STALL_SECONDS)
                    tally.timed("until taken over", taken.started - stalled_at)
                    time.sleep(max(0.0, stalled_at + STALL_SECONDS - time.monotonic()))  # The length of the stall.
                    proxy.heal()
                    walk.judge(tally, may_start_twice=1)
                    tally.count("stalls")
    return tally


TERMINATED = Goal(
    id="R6",
    title="all database connections terminated every 2 s for 30 s",
    play=terminated,
    rounds=15,
    at_least={"connections terminated": 100, "runs in flight at a termination": 30, "runs acknowledged": 100},
    controls=(Control("no-save-retry", ("5xx answers", "runs that did not succeed", "wrong answers"), rounds=4),),
)

STALLED = Goal(
    id="R6b",
    title="nothing passes for 10 s between a server and the database",
    play=stalled,
    rounds=3,
    at_least={"stalls": 3},
    controls=(Control("no-fence", ("checkpoint forks", "steps executed twice", "wrong final states"), rounds=1),),
)

UNANSWERED = Goal(
    id="R9",
    title="5 % of commits answer with a connection loss after they took effect",
    play=unanswered,
    rounds=60,
    at_least={"answers lost": 200, "answers of COMMIT lost": 40, "runs acknowledged": 100},
    controls=(
        Control("no-save-retry", ("5xx answers", "runs that did not succeed", "wrong answers"), rounds=10),
        Control("commits-repeated-blindly", ("wrong answers", "event blocks that overlap"), rounds=20),
    ),
)
