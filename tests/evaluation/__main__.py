"""Evaluate an agent: play the data set, write the report, and exit with 0 if everything passed.

Without --url, the project's own server is started for it: with the offline stand-in, or with the model of
OPENAI_API_KEY, CHAT_MODEL or --model. The exit status is 1 if something failed or was better in the baseline, 2 if
nothing could be played.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from langgraph_sdk import get_client

from tests.durability.tally import say
from tests.evaluation.checks import Mode
from tests.evaluation.dataset import CONVERSATIONS, Conversation, DataSetError, Turn, read
from tests.evaluation.play import STAND_IN, Player, TurnError
from tests.evaluation.report import Subject, as_text, regressions, report
from tests.support.postgres import Cluster
from tests.support.server import ROOT, Server

REPORT = Path(".eval/report.json")


@contextmanager
def own_postgres() -> Iterator[Cluster]:
    """The Postgres of DATABASE_URL, or an embedded one for this evaluation."""
    given = os.environ.get("DATABASE_URL")
    with (
        tempfile.TemporaryDirectory() as place,
        Cluster.at(given) if given else Cluster.embedded(Path(place)) as cluster,
    ):
        yield cluster


@contextmanager
def own_server(cluster: Cluster) -> Iterator[str]:
    """The URL of a server for the project in this repository, on a database of its own."""
    # Other tests' servers never see a key.
    key = {name: value for name in ("OPENAI_API_KEY",) if (value := os.environ.get(name))}
    with (
        tempfile.TemporaryDirectory() as place,
        cluster.database() as url,
        Server(database_url=url, config=ROOT / "langgraph.json", OUTBOX_PATH=f"{place}/outbox", **key) as server,
    ):
        yield server.url


async def evaluate(url: str, given: argparse.Namespace) -> int:
    """Play, report, compare; the exit status."""
    data = read(given.data)
    if given.assistant:
        data = data.model_copy(update={"assistant": given.assistant})
    chosen = [each for each in data.conversations if not given.only or each.name in given.only]
    if unknown := set(given.only) - {each.name for each in chosen}:
        raise DataSetError(f"there is no conversation {', '.join(sorted(unknown))}")
    async with get_client(url=url) as client:
        player = Player(client, data.assistant, model=given.model)
        player = replace(player, mode=given.mode or await _mode(player))
        results = await player.play_all(chosen, rounds=given.repeat, at_once=given.at_once)
    models = {model for result in results for played in result.turns for model in played.seen.models}
    document = report(data, Subject(url if given.url else "its own server", player.mode, sorted(models)), results)
    # Before the new report is written: it may be the same file.
    worse = _worse(document, given) if given.baseline else []
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    for line in [*as_text(document), *(f"REGRESSION {line}" for line in worse), f"the report is {given.report}"]:
        say(line)
    return 0 if document["passed"] and not worse else 1


async def _mode(player: Player) -> Mode:
    """Who answers a greeting, the stand-in or a real model?"""
    greeted = await player.play(Conversation(name="greeting", turns=(Turn(say="hello"),)))
    if greeted.error is not None:
        raise TurnError(greeted.error)
    return "offline" if greeted.turns[0].seen.models <= {STAND_IN} else "real"


def _worse(document: dict[str, object], given: argparse.Namespace) -> list[str]:
    return regressions(document, json.loads(given.baseline.read_text()), partial=bool(given.only))


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.evaluation", description=__doc__)
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--model", help="the model's name, as the context of every run; real ones need their key")
    parser.add_argument("--mode", choices=("offline", "real"), help="which checks apply; found out by a greeting")
    parser.add_argument("--assistant", help="instead of the data set's")
    parser.add_argument("--data", type=Path, default=CONVERSATIONS)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this conversation; again for more")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="play everything N times")
    parser.add_argument("--at-once", type=int, default=8, metavar="N")
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="an earlier report that nothing may be worse than"
    )
    parser.add_argument("--report", type=Path, default=REPORT, metavar="FILE")
    return parser.parse_args(given)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    given = _arguments(arguments)
    try:
        if given.url:
            return asyncio.run(evaluate(given.url, given))
        with own_postgres() as cluster, own_server(cluster) as url:
            return asyncio.run(evaluate(url, given))
    except (DataSetError, TurnError, OSError) as error:
        say(f"nothing was evaluated: {error}")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
