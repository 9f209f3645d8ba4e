"""Chaos: random graphs, random clients and random faults, and a checker that looks at what the API shows afterwards.

    python -m tests.durability.chaos [--seed S] [--seconds 600] [--episode N] [--planted FAULT] [--print-schedule]
    python -m tests.durability.chaos --controls

See docs/chaos.md. The exit status says whether every judgement held.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path

from tests.durability.chaos.checker import JUDGEMENTS
from tests.durability.chaos.controls import uncaught
from tests.durability.chaos.drawing import NOMINAL_SECONDS, drawn
from tests.durability.chaos.play import play, tell
from tests.durability.chaos.schedule import Episode, text
from tests.durability.chaos.site import Postgres
from tests.durability.tally import Tally, say

SECONDS = 600.0


def played(episodes: list[Episode], seed: int, directory: Path, deadline: float) -> Tally:
    """Play episodes as long as there is time for another one; what each left that failed stays in `directory`."""
    tally = Tally(f"chaos, seed {seed}, {len(episodes)} episodes", *JUDGEMENTS)
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-chaos-", ignore_cleanup_errors=True) as data,
        Postgres(Path(data)) as postgres,
    ):
        for episode in episodes:
            if time.monotonic() + NOMINAL_SECONDS > deadline:
                tally.count("episodes for which no time was left")
                continue
            _one(episode, seed, postgres, directory, tally)
    return tally


def _one(episode: Episode, seed: int, postgres: Postgres, directory: Path, tally: Tally) -> None:
    begun = time.monotonic()
    kept = directory / f"episode-{episode.number}"
    story = play(episode, postgres, kept)
    tell(story, tally)
    say(f"episode {episode.number}: {episode.shape.name}, {time.monotonic() - begun:.0f} s")
    if not story.failures:
        shutil.rmtree(kept)
    else:
        planted = f" --planted {episode.planted}" if episode.planted else ""
        say(f"FAILED in episode {episode.number} of seed {seed}; its observations are in {kept}")
        say(f"again: python -m tests.durability.chaos --seed {seed} --episode {episode.number}{planted}")
        for failure in story.failures:
            say(f"  {failure}")


def _controls() -> None:
    with tempfile.TemporaryDirectory(prefix="holdfast-chaos-", ignore_cleanup_errors=True) as directory:
        missed = uncaught(Path(directory))
    for planted in missed:
        say(f"NOT CAUGHT {planted}")
    raise SystemExit(1 if missed else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="no episode begins that would end later")
    parser.add_argument("--episode", type=int, help="only this one of the seed's episodes")
    parser.add_argument("--planted", default="", help="faults of tests/durability/planted.py, with commas between them")
    parser.add_argument("--controls", action="store_true", help="play the planted faults: each has to be found")
    parser.add_argument("--print-schedule", action="store_true", help="what would be tried, and nothing else")
    given = parser.parse_args()
    if given.controls:
        _controls()
    last = given.episode if given.episode is not None else max(1, int(given.seconds // NOMINAL_SECONDS)) - 1
    episodes = drawn(given.seed, last + 1, planted=given.planted)
    if given.episode is not None:
        episodes = episodes[given.episode :]
    if given.print_schedule:
        say(text(episodes))
        return
    say(f"{len(episodes)} episodes, --seed {given.seed}")
    directory = Path(tempfile.mkdtemp(prefix="holdfast-chaos-seed-"))
    tally = played(episodes, given.seed, directory, time.monotonic() + max(given.seconds, 2 * NOMINAL_SECONDS))
    say(f"\n{tally}")
    raise SystemExit(1 if tally.failures else 0)


if __name__ == "__main__":
    main()
