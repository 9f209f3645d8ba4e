"""Playing one episode, and judging what it left."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.durability.chaos.checker import JUDGEMENTS, judged
from tests.durability.chaos.clients import Clients
from tests.durability.chaos.evidence import Evidence
from tests.durability.chaos.faults import Faults
from tests.durability.chaos.judging.effects import started_again
from tests.durability.chaos.observations import Log, read
from tests.durability.chaos.schedule import Episode
from tests.durability.chaos.site import Postgres, Site, site
from tests.durability.chaos.talking import Talk
from tests.durability.chaos.views import settled, views
from tests.durability.tally import Tally

CLIENTS_END_WITHIN = 30.0
"""Seconds that clients have to come to an end once everything has settled."""


@dataclass(frozen=True, slots=True)
class Story:
    """What came of an episode."""

    evidence: Evidence
    found: dict[str, list[str]]
    settling: float
    """Seconds from healed until no run was active."""
    unasked: int
    without: tuple[str, ...]

    @property
    def failures(self) -> list[str]:
        return [f"{name}: {each}" for name, every in self.found.items() for each in every]


def play(episode: Episode, postgres: Postgres, kept: Path) -> Story:
    """Play it; the observations and effects are left in the directory `kept`."""
    kept.mkdir(parents=True, exist_ok=True)
    with site(episode, postgres, kept) as place:
        settling = asyncio.run(_played(episode, place, kept / "observations.jsonl"))
        with httpx.Client(base_url=place.doors[0], timeout=30.0) as http:
            shown = views(http, episode.threads)
        unasked, without = sum(process.unasked for process in place.processes), tuple(place.without)
        for number, process in enumerate(place.processes):
            (kept / f"process-{number}.log").write_text(process.server.log)
    evidence = Evidence(read(kept / "observations.jsonl"), read(kept / "effects.jsonl"), shown)
    return Story(evidence, judged(evidence), settling, unasked, without)


async def _played(episode: Episode, place: Site, observations: Path) -> float:
    with Log(observations) as log:
        async with Talk(place.doors, log) as talk:
            begin = time.monotonic() + 0.2
            clients = Clients(episode, place.doors, talk, log, begin)
            await clients.create()
            faults, over = Faults(place, log), asyncio.Event()
            supervisor = asyncio.create_task(place.supervise())
            acting = [asyncio.create_task(clients.play(action)) for action in episode.actions]
            answering = [asyncio.create_task(clients.answer(thread, over)) for thread in episode.threads]
            await asyncio.gather(
                *(faults.play(fault, begin) for fault in episode.faults),
                asyncio.sleep(begin + episode.seconds - time.monotonic()),
            )
            await faults.heal()
            settling = await asyncio.to_thread(_settled, place, episode)
            over.set()
            await asyncio.wait([*acting, *answering], timeout=CLIENTS_END_WITHIN)
            supervisor.cancel()
            await _ended([*acting, *answering, supervisor])
            await asyncio.to_thread(_settled, place, episode)
    return settling


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _settled(place: Site, episode: Episode) -> float:
    with httpx.Client(base_url=place.doors[0], timeout=30.0) as http:
        return settled(http, episode.threads, episode.settles_within)


def tell(story: Story, tally: Tally) -> None:
    """Add an episode to the table."""
    evidence = story.evidence
    tally.count("episodes")
    tally.count("threads", len(evidence.threads))
    tally.count("requests", len(evidence.asked))
    tally.count("runs acknowledged", len(evidence.acknowledged))
    tally.count("effects", len(evidence.by_key))
    tally.count("effects started again, in flight at a fault or a request", started_again(evidence))
    tally.count("answers accepted", sum(line["kind"] == "answer" for line in evidence.acknowledged.values()))
    tally.count("frames received", sum(line["what"] == "frame" for line in evidence.observations))
    tally.count("processes that ended or did not start by themselves", story.unasked)
    for kind, number in Counter(window.kind for window in evidence.faults).items():
        tally.count(f"faults: {kind}", number)
    for name in story.without:
        tally.count(f"episodes without {name}")
    for name in JUDGEMENTS:
        tally.fault(name, story.found[name])
    tally.timed("healed until settled", story.settling)
