"""Clients that use every verb of the API at once while something happens to the database, and what they find.

Theory of operation. Each client is a thread that plays one scene after the other: runs in the background, streams,
questions and their answers, state updates, cancellations, and the small verbs of threads, assistants, crons and the
store. A scene knows what each of its requests has to be answered, so a verb that was carried out twice, or not at all
although it was acknowledged, shows as a wrong answer (404, 409, a version too many). What the scenes started is judged
when they are over: through the API, the effect log, and the tables for what no API shows.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.durability.effects import EffectLog, starts_per_key
from tests.durability.tally import Tally
from tests.support.talk import parse, until

ACTIVE = {"pending", "running"}
COUNT, PAUSE = 4, 0.1
"""Steps of a walk, and the seconds that each takes."""
PATIENCE = 90.0
"""How long an answer may be asked for again."""
APPROVE = {"resume": {"decisions": [{"type": "approve"}]}}
LONG = {"input": {"count": 1000, "pause": PAUSE, "done": []}, "config": {"recursion_limit": 2000}}
ASKED = {"input": {"messages": [{"role": "user", "content": "please do it"}]}}

FAULTS = (
    "5xx answers",
    "wrong answers",
    "acknowledged runs lost",
    "runs that did not succeed",
    "effects doubled or missing",
    "streams that differ from their replay",
)


class Wrong(AssertionError):
    """A scene that cannot go on."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A run that a client was told about, and how it has to end."""

    thread: str
    run: str
    effects: int
    ends: str = "success"


@dataclass
class Traffic:
    """The clients of one server. `waits`: an answer 503 with Retry-After, or none, is asked for again."""

    url: str
    tally: Tally
    effects: EffectLog
    chance: random.Random
    waits: bool = False
    acknowledged: list[Acknowledged] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    def during(self, clients: int, *scenes: str) -> AbstractContextManager[None]:
        """As long as the block runs, so many clients play scenes; at its end all scenes have been played to the end."""
        stack = ExitStack()
        seeds = [self.chance.random() for _ in range(clients)]
        threads = [threading.Thread(target=self._client, args=(seed, scenes or EVERY)) for seed in seeds]

        def begin() -> None:
            for thread in threads:
                thread.start()

        def end() -> None:
            self._over.set()
            for thread in threads:
                thread.join()

        begin()
        stack.callback(end)
        return stack  # type: ignore[return-value]

    def note(self, act: Callable[[Tally], None]) -> None:
        """Tallies are not made for threads."""
        with self._lock:
            act(self.tally)

    def _client(self, seed: float, scenes: tuple[str, ...]) -> None:
        chance = random.Random(seed)
        with httpx.Client(base_url=self.url, timeout=120.0) as http:
            while not self._over.is_set():
                name = chance.choice(scenes)
                talk = Talk(http, self, chance)
                try:
                    SCENES[name](talk)
                    self.note(lambda tally, name=name: tally.count(f"scenes: {name}"))
                except (Wrong, AssertionError) as wrong:
                    self.note(lambda tally, name=name, it=wrong: tally.fault("wrong answers", [f"{name}: {it}"]))
                except httpx.HTTPError as error:
                    what = f"{name}: {type(error).__name__} {error}"
                    self.note(lambda tally, what=what: tally.fault("wrong answers", [what]))

    def judge(self, seconds: float = PATIENCE, *, started_again: int = 0) -> None:
        """Every acknowledged run has ended as it had to, and every effect happened once.

        `started_again`: so many effects may have been in flight when the server died.
        """
        with httpx.Client(base_url=self.url, timeout=60.0) as http:
            deadline = time.monotonic() + seconds
            for each in self.acknowledged:
                status = _ended(http, each, deadline)
                lost = [f"{each.run}"] if status is None else []
                self.tally.fault("acknowledged runs lost", lost)
                wrong = [f"{each.run}: {status}"] if status not in (None, each.ends) else []
                self.tally.fault("runs that did not succeed", wrong)
        for each in self.acknowledged:
            self.tally.count("runs acknowledged")
            if not each.effects:
                continue
            starts = starts_per_key(self.effects.of(each.thread))
            again = sum(number - 1 for number in starts.values())
            self.tally.count("effects in flight that started again", again)
            started_again -= again
            right = len(starts) == each.effects and (not again or started_again >= 0)
            self.tally.fault("effects doubled or missing", [] if right else [f"{each.run}: {starts}"])
            self.tally.count("effects (by idempotency key)", len(starts))


def _ended(http: httpx.Client, each: Acknowledged, deadline: float) -> str | None:
    while True:
        answer = http.get(f"/threads/{each.thread}/runs/{each.run}")
        status = answer.json()["status"] if answer.status_code == 200 else None
        if (status not in ACTIVE and answer.status_code < 500) or time.monotonic() > deadline:
            return status
        time.sleep(0.05)


@dataclass
class Talk:
    """One scene of one client."""

    http: httpx.Client
    traffic: Traffic
    chance: random.Random

    def ask(self, method: str, path: str, json: Any = None, expected: int = 200, **headers: str) -> httpx.Response:
        """Ask until there is an answer, which has to be the expected one."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self.http.request(method, path, json=json, headers=headers)
            except httpx.TransportError:
                if not self.traffic.waits or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                continue
            self.traffic.note(lambda tally: tally.count("answers"))
            if answer.status_code == expected:
                return answer
            again = answer.status_code == 503 and "retry-after" in answer.headers
            if again and self.traffic.waits and time.monotonic() < deadline:
                self.traffic.note(lambda tally: tally.count("answers 503 with Retry-After"))
                time.sleep(float(answer.headers["retry-after"]) * 0.2)
                continue
            said = f"{method} {path}: {answer.status_code} {answer.text[:200]}"
            if answer.status_code >= 500:
                self.traffic.note(lambda tally, said=said: tally.fault("5xx answers", [said]))
            raise Wrong(said)

    def thread(self) -> str:
        """A new thread; its id is the client's, so that it may ask again."""
        thread = str(uuid.UUID(int=self.chance.getrandbits(128), version=4))
        kept = {"thread_id": thread}
        if self.traffic.waits:
            kept["if_exists"] = "do_nothing"
        self.ask("POST", "/threads", kept)
        return thread

    def key(self) -> dict[str, str]:
        return {"idempotency-key": f"{self.chance.getrandbits(64):x}"} if self.traffic.waits else {}

    def start(self, thread: str, graph: str, *, effects: int, ends: str = "success", **body: Any) -> str:
        given = {"assistant_id": graph, **body}
        run = str(self.ask("POST", f"/threads/{thread}/runs", given, **self.key()).json()["run_id"])
        self.traffic.acknowledged.append(Acknowledged(thread, run, effects, ends))
        return run

    def over(self, thread: str, run: str, expected: str = "success") -> None:
        """Wait for a run's end."""
        path = f"/threads/{thread}/runs/{run}"
        status = until(
            lambda: (now := self.ask("GET", path).json()["status"]) not in ACTIVE and now, f"{run} is over", PATIENCE
        )
        if status != expected:
            raise Wrong(f"{run} ended {status}")


def background(talk: Talk) -> None:
    """A walk that nobody looks at before its end."""
    thread = talk.thread()
    run = talk.start(thread, "walk", effects=COUNT, input={"count": COUNT, "pause": PAUSE, "done": []})
    talk.over(thread, run)
    values = talk.ask("GET", f"/threads/{thread}").json()["values"]
    if len(values["done"]) != COUNT:
        raise Wrong(f"{thread}: {values}")


def submitted(talk: Talk) -> None:
    """A walk, and nobody waits for it."""
    talk.start(talk.thread(), "walk", effects=COUNT, input={"count": COUNT, "pause": PAUSE, "done": []})
    time.sleep(2 * PAUSE)  # No more than the server can do.


def bulky(talk: Talk) -> None:
    """A walk that brings something to store, of which no two hundred kilobytes are alike."""
    thread, ballast = talk.thread(), talk.chance.randbytes(100_000).hex()
    talk.over(thread, talk.start(thread, "walk", effects=1, input={"count": 2, "pause": PAUSE, "done": [ballast]}))


def waited(talk: Talk) -> None:
    """A walk whose result is waited for."""
    thread = talk.thread()
    body = {"assistant_id": "walk", "input": {"count": 2, "pause": PAUSE, "done": []}}
    values = talk.ask("POST", f"/threads/{thread}/runs/wait", body, **talk.key()).json()
    if len(values.get("done", ())) != 2:
        raise Wrong(f"{thread}: {values}")


def streamed(talk: Talk) -> None:
    """A walk that is followed; whatever the connection does, what was seen is what is replayed."""
    thread = talk.thread()
    body = {"assistant_id": "walk", "input": {"count": COUNT, "pause": PAUSE, "done": []}, "stream_resumable": True}
    seen, run = _followed(talk, "POST", f"/threads/{thread}/runs/stream", body, talk.key())
    talk.traffic.acknowledged.append(Acknowledged(thread, run, COUNT))
    path = f"/threads/{thread}/runs/{run}/stream"
    for _ in range(20):
        if seen.endswith(b"\r\n\r\n") and _is_over(talk, thread, run):
            break
        whole = seen[: seen.rfind(b"\r\n\r\n") + 4] if b"\r\n\r\n" in seen else b""
        events = parse(whole)
        rest, _ = _followed(talk, "GET", path, None, {"last-event-id": (events[-1].id or "-1") if events else "-1"})
        seen = whole + rest
    replay = talk.ask("GET", path, None, 200, **{"last-event-id": "-1"}).content
    live, later = ([event.raw for event in parse(body)] for body in (seen, replay))
    differ = [] if live == later else [f"{run}: {len(live)} events live, {len(later)} replayed"]
    talk.traffic.note(lambda tally: tally.fault("streams that differ from their replay", differ))
    talk.traffic.note(lambda tally: tally.count("events followed", len(live)))


def _is_over(talk: Talk, thread: str, run: str) -> bool:
    return talk.ask("GET", f"/threads/{thread}/runs/{run}").json()["status"] not in ACTIVE


def _followed(talk: Talk, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[bytes, str]:
    """What a stream said until it ended or broke, and the run that it is about."""
    deadline = time.monotonic() + PATIENCE
    while True:
        seen, run = b"", ""
        try:
            with talk.http.stream(method, path, json=body, headers=headers) as answer:
                if answer.status_code == 200:
                    run = answer.headers["content-location"].rpartition("/")[2]
                    for piece in answer.iter_raw():
                        seen += piece
                    return seen, run
                answer.read()
                refused = f"{method} {path}: {answer.status_code} {answer.text[:200]}"
                status = answer.status_code
        except httpx.TransportError as error:
            if run:
                talk.traffic.note(lambda tally: tally.count("streams that broke and were joined again"))
                return seen, run
            refused, status = f"{method} {path}: {error!r}", 0
        if not talk.traffic.waits or time.monotonic() > deadline or status not in (0, 503):
            if status >= 500:
                talk.traffic.note(lambda tally, said=refused: tally.fault("5xx answers", [said]))
            raise Wrong(refused)
        time.sleep(0.2)


def asked(talk: Talk) -> None:
    """An errand that stops at a question, and its one answer."""
    thread = talk.thread()
    talk.over(thread, talk.start(thread, "errand", effects=0, **ASKED))
    run = talk.start(thread, "errand", effects=6, command=APPROVE)
    talk.over(thread, run)
    said = talk.ask("GET", f"/threads/{thread}/state").json()["values"]["messages"]
    if said[-1]["content"] != "all done":
        raise Wrong(f"{thread}: {said[-1]}")


def cancelled(talk: Talk) -> None:
    """A long run that is cancelled, once."""
    thread = talk.thread()
    run = talk.start(thread, "walk", effects=0, ends="interrupted", **LONG)
    path = f"/threads/{thread}/runs/{run}"
    until(lambda: talk.ask("GET", path).json()["status"] == "running", f"{run} runs", PATIENCE)
    talk.ask("POST", f"{path}/cancel", None, 202)
    talk.over(thread, run, "interrupted")
    talk.ask("DELETE", path, None, 204)
    talk.traffic.acknowledged[:] = [each for each in talk.traffic.acknowledged if each.run != run]


def updated(talk: Talk) -> None:
    """State updates: each makes one checkpoint."""
    thread = talk.thread()
    talk.over(thread, talk.start(thread, "walk", effects=1, input={"count": 1, "pause": 0.0, "done": []}))
    before = len(talk.ask("GET", f"/threads/{thread}/history?limit=100").json())
    for number in range(3):
        talk.ask("POST", f"/threads/{thread}/state", {"values": {"done": [f"{number}"]}, "as_node": "step"})
    after = talk.ask("GET", f"/threads/{thread}/history?limit=100").json()
    if len(after) != before + 3 or len(after[0]["values"]["done"]) != 4:
        raise Wrong(f"{thread}: {len(after)} states after {before}")


def chores(talk: Talk) -> None:
    """What is created, changed and deleted is created, changed and deleted once."""
    thread = talk.thread()
    talk.ask("PATCH", f"/threads/{thread}", {"metadata": {"a": 1}})
    talk.ask("POST", "/threads/search", {"metadata": {"a": 1}, "limit": 1})
    copy = talk.ask("POST", f"/threads/{thread}/copy").json()["thread_id"]
    for each in (thread, copy):
        talk.ask("DELETE", f"/threads/{each}", None, 204)
    assistant = talk.ask("POST", "/assistants", {"graph_id": "walk", "name": "a"}).json()["assistant_id"]
    for number in range(3):
        patched = talk.ask("PATCH", f"/assistants/{assistant}", {"name": f"{number}"}).json()
        if patched["version"] != number + 2:
            raise Wrong(f"assistant {assistant}: version {patched['version']} after {number + 1} changes")
    talk.ask("DELETE", f"/assistants/{assistant}", None, 204)
    cron = talk.ask("POST", "/runs/crons", {"assistant_id": "walk", "schedule": "0 0 1 1 *"}).json()["cron_id"]
    talk.ask("DELETE", f"/runs/crons/{cron}", None, 204)
    item = {"namespace": ["chores"], "key": thread, "value": {"n": 1}}
    talk.ask("PUT", "/store/items", item, 204)
    talk.ask("GET", f"/store/items?namespace=chores&key={thread}")
    talk.ask("DELETE", "/store/items", {"namespace": ["chores"], "key": thread}, 204)


SCENES: dict[str, Callable[[Talk], None]] = {
    scene.__name__: scene
    for scene in (background, submitted, bulky, waited, streamed, asked, cancelled, updated, chores)
}
EVERY = ("background", "waited", "streamed", "asked", "cancelled", "updated", "chores")
RUNS = ("background", "waited", "streamed", "asked")
"""The scenes whose requests may all be sent again after a 503."""
