"""R4: nothing runs without an answer for its own question, however answers, edits, new input and cancels meet.

Theory of operation. Every interleaving has a thread of its own, on which a graph asks questions one after the other and
at once. When it asks, one of the attacks below is made, its requests released at the same moment from several
connections. Then the thread is brought to its end by answers that nobody disturbs. Every answer says which task it is
for and carries a token; the graph notes under which answer each task acted, and in which run.

In between the server is killed, so that some of it happens around a crash. What came of a request whose connection
broke is not known, and such an answer may have been applied or not; whatever it was applied to has to be its own.

Judged at the end: a task acted without an answer of its own, an answer was applied to another task, or in another run
than the one that brought it; two answers were accepted for one question; an answer was accepted and came to nothing; an
answer that was too late was accepted; a thread did not end, or the server answered what nothing can come after.
"""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.durability.client import WAIT_SECONDS, Client
from tests.durability.goals import Control, Goal, Trial
from tests.durability.tally import Tally
from tests.durability.walk import PROJECT
from tests.support.postgres import Cluster
from tests.support.talk import until

GRAPH = "interview"
SHAPES = ([["a"], ["b"]], [["a", "b"]], [["a", "b"], ["c"]], [["a"], ["b", "c"]])
PAUSE = 0.05
AT_ONCE = 8
CANCELLED = ("interrupted", None)
"""The status of a run that was cancelled; with rollback there is none."""
PER_KILL = 200
"""Interleavings, about, from one kill of the server to the next."""

FAULTS = (
    OWN := "acted without an answer of its own",
    OTHER := "an answer applied to another question, or by another run",
    TWO := "questions with two accepted answers",
    LOST := "accepted answers that came to nothing",
    LATE := "answers accepted that were too late",
    STUCK := "threads that did not end",
    BROKEN := "interleavings broken off",
)


@dataclass(frozen=True, slots=True)
class Sent:
    """An answer that was sent. `run` is the run that was acknowledged for it; `status` None: the connection broke."""

    task: str
    token: str
    status: int | None
    run: str | None


@dataclass
class Interleaving:
    """One thread, its attack, and what was sent."""

    client: Client
    chance: random.Random
    thread: str = ""
    attack: str = ""
    sent: list[Sent] = field(default_factory=list)
    too_late: list[Sent] = field(default_factory=list)
    ended: bool = False
    broken: str = ""
    """What the server answered, if nothing could come after it."""

    def play(self) -> None:
        stages = self.chance.choice(SHAPES)
        self.thread = self._surely(self.client.thread)
        self._surely(lambda: self._start(input={"stages": stages, "pause": PAUSE}))
        self.rest()
        if asked := self.asked():
            attack = self.chance.choice(ATTACKS)
            self.attack = attack.__name__
            attack(self, asked)
        self.ended = self._finish()

    # --- moves ---

    def answer(self, question: Mapping[str, Any], verdict: str, **body: Any) -> Sent:
        """Answer a question by its id."""
        token = uuid4().hex
        answer = {"task": question["value"]["task"], "token": token, "verdict": verdict}
        answered = self.post(command={"resume": {question["id"]: answer}}, **body)
        run = answered.json()["run_id"] if answered is not None and answered.status_code == 200 else None
        sent = Sent(question["value"]["task"], token, answered.status_code if answered is not None else None, run)
        self.sent.append(sent)
        return sent

    def edit(self) -> int | None:
        """Update the state, as if nothing had been asked yet."""
        body = {"values": {"stage": -1}, "as_node": "__start__"}
        try:
            return self.client.http.post(f"/threads/{self.thread}/state", json=body).status_code
        except httpx.TransportError:
            return None

    def new_input(self) -> int | None:
        body = {
            "multitask_strategy": self.chance.choice(("enqueue", "interrupt", "rollback", "reject")),
            "on_pending_interrupt": self.chance.choice(("discard", "enqueue", "reject")),
        }
        answered = self.post(input={"stages": [["again"]], "stage": -1, "pause": PAUSE}, **body)
        return None if answered is None else answered.status_code

    def cancel(self, run: str | None) -> None:
        try:
            action = self.chance.choice(("interrupt", "rollback"))
            self.client.http.post(f"/threads/{self.thread}/runs/{run}/cancel", params={"action": action})
        except httpx.TransportError:
            return

    def at_once(self, *moves: Callable[[], Any]) -> list[Any]:
        """Make these moves at the same moment."""
        barrier = threading.Barrier(len(moves))

        def move(made: Callable[[], Any]) -> Any:
            barrier.wait()
            return made()

        with ThreadPoolExecutor(len(moves)) as pool:
            return list(pool.map(move, moves))

    def pause(self) -> None:
        threading.Event().wait(self.chance.uniform(0, 2 * PAUSE))

    def late(self, question: Mapping[str, Any]) -> None:
        """Answer a question that is gone."""
        self.too_late.append(self.answer(question, "yes"))

    # --- the way there and back ---

    def _finish(self) -> bool:
        """Answer until nothing is asked and nothing is left to run."""
        for _ in range(20):
            self.rest()
            if asked := self.asked():
                self.answer(asked[0], self.chance.choice(("yes", "no")))
            elif self._surely(lambda: self.client.thread_row(self.thread))["status"] == "idle":
                return True
            else:
                self.post(input=None)
        return False

    def rest(self) -> None:
        """Wait until only what waits for an answer is left."""
        until(lambda: self._surely(lambda: self.client.thread_row(self.thread))["status"] != "busy", "rest", 60.0)

    def asked(self) -> list[dict[str, Any]]:
        questions: list[dict[str, Any]] = self._surely(lambda: self.client.questions(self.thread))
        return questions

    def _start(self, **body: Any) -> httpx.Response:
        answer = self.client.http.post(f"/threads/{self.thread}/runs", json={"assistant_id": GRAPH, **body})
        return answer.raise_for_status()

    def post(self, **body: Any) -> httpx.Response | None:
        try:
            return self.client.http.post(f"/threads/{self.thread}/runs", json={"assistant_id": GRAPH, **body})
        except httpx.TransportError:
            return None

    def _surely(self, ask: Callable[[], Any]) -> Any:
        """Ask again while the server is away."""

        def asked() -> list[Any]:
            try:
                return [ask()]
            except httpx.TransportError:
                return []

        return until(asked, "the server answers", WAIT_SECONDS)[0]


Questions = list[dict[str, Any]]


def double_click(here: Interleaving, asked: Questions) -> None:
    here.at_once(*[lambda: here.answer(asked[0], "yes")] * here.chance.choice((2, 3)))


def yes_and_no(here: Interleaving, asked: Questions) -> None:
    here.at_once(lambda: here.answer(asked[0], "yes"), lambda: here.answer(asked[0], "no"))


def answers_to_all(here: Interleaving, asked: Questions) -> None:
    here.at_once(*[lambda question=question: here.answer(question, "yes") for question in asked * 2])  # type: ignore[misc]


def answer_and_edit(here: Interleaving, asked: Questions) -> None:
    here.at_once(lambda: here.answer(asked[0], "yes"), here.edit)


def answer_after_edit(here: Interleaving, asked: Questions) -> None:
    if here.edit() == 200:
        here.late(asked[0])


def answer_and_new_input(here: Interleaving, asked: Questions) -> None:
    here.at_once(lambda: here.answer(asked[0], "yes"), here.new_input)


def answer_after_new_input(here: Interleaving, asked: Questions) -> None:
    run = here.post(input={"stages": [["again"]], "stage": -1, "pause": PAUSE})
    if run is not None and run.status_code == 200:
        here.rest()
        if not {question["id"] for question in here.asked()} & {asked[0]["id"]}:
            here.late(asked[0])


def cancelled_answer(here: Interleaving, asked: Questions) -> None:
    sent = here.answer(asked[0], "yes")
    here.pause()
    here.cancel(sent.run)
    here.answer(asked[0], "no", multitask_strategy=here.chance.choice(("enqueue", "interrupt", "reject")))


def cancelled_while_another_comes(here: Interleaving, asked: Questions) -> None:
    sent = here.answer(asked[0], "yes")
    here.pause()
    here.at_once(lambda: here.cancel(sent.run), lambda: here.answer(asked[-1], "no"))


def answer_that_interrupts(here: Interleaving, asked: Questions) -> None:
    here.answer(asked[0], "yes")
    here.pause()
    here.answer(asked[-1], "no", multitask_strategy=here.chance.choice(("interrupt", "rollback")))


ATTACKS = (
    double_click,
    yes_and_no,
    answers_to_all,
    answer_and_edit,
    answer_after_edit,
    answer_and_new_input,
    answer_after_new_input,
    cancelled_answer,
    cancelled_while_another_comes,
    answer_that_interrupts,
)


def play(trial: Trial) -> Tally:
    """So many interleavings, several at once, on one server that is killed now and then."""
    with Cluster.embedded(trial.directory / "postgres") as cluster, cluster.database() as url:
        return played(trial, url)


def played(trial: Trial, database_url: str, **options: str) -> Tally:
    """The same on a database that is there."""
    tally = Tally("interleavings of answers with whatever else can happen", *FAULTS)
    log = trial.directory / "answers.jsonl"
    seeds = [trial.chance.randrange(2**32) for _ in range(trial.rounds)]
    server = trial.server(config=PROJECT, database_url=database_url, EFFECT_LOG=str(log), **options)
    with server, ThreadPoolExecutor(AT_ONCE) as pool:
        for begin in range(0, len(seeds), PER_KILL):
            batch = [pool.submit(_play, server.url, seed) for seed in seeds[begin : begin + PER_KILL]]
            if len(batch) == PER_KILL:
                until(lambda batch=batch: sum(one.done() for one in batch) > PER_KILL / 2, "half of it", 300.0)  # type: ignore[misc]
                server.kill()
                server.start()
                tally.count("kills")
            played = [one.result() for one in batch]
            entries = _entries(log, {one.thread for one in played})
            with Client(server.url) as client:
                for one in played:
                    _judge(tally, client, one, entries[one.thread])
    return tally


def _play(url: str, seed: int) -> Interleaving:
    with Client(url) as client:
        here = Interleaving(client, random.Random(seed))
        try:
            here.play()
        except (httpx.HTTPStatusError, KeyError, AssertionError) as error:
            here.broken = repr(error)
        return here


def _entries(log: Path, threads: set[str]) -> dict[str, list[dict[str, Any]]]:
    """What the tasks of these threads noted, in the order in which they did."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in log.read_text().splitlines() if log.exists() else []:
        entry = json.loads(line)
        if entry["thread"] in threads:
            found[entry["thread"]].append(entry)
    return found


def _judge(tally: Tally, client: Client, here: Interleaving, entries: list[dict[str, Any]]) -> None:
    where = f"{here.thread} ({here.attack}): "
    acted = [entry for entry in entries if entry["event"] in ("started", "declined")]
    tally.count("interleavings")
    tally.count("answers sent", len(here.sent))
    tally.count("answers accepted", sum(sent.run is not None for sent in here.sent))
    tally.count("answers applied", len({entry["answer"]["token"] for entry in acted}))
    by_token = {sent.token: sent for sent in here.sent}
    tally.fault(BROKEN, [where + here.broken] if here.broken else [])
    tally.fault(STUCK, [] if here.ended or here.broken else [where + "not idle"])
    tally.fault(LATE, [where + sent.task for sent in here.too_late if sent.status == 200])
    for entry in acted:
        sent = by_token.get(entry["answer"].get("token"))
        if sent is None or sent.status not in (200, None):
            tally.fault(OWN, [where + str(entry)])
        elif sent.task != entry["task"] or sent.run not in (None, entry["run"]):
            tally.fault(OTHER, [f"{where}{entry}, sent {sent}"])
    tally.fault(TWO, [where + problem for problem in _two(client, here, acted)])
    tally.fault(LOST, [where + problem for problem in _lost(client, here, acted)])


def _two(client: Client, here: Interleaving, acted: list[dict[str, Any]]) -> Iterator[str]:
    """Questions that were acted upon under two answers, neither of which was cancelled."""
    given: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in acted:
        given[entry["task"]][entry["answer"]["token"]] = entry["run"]
    for task, runs in given.items():
        if len(runs) > 1:
            kept = [run for run in runs.values() if client.run_status(here.thread, run) not in CANCELLED]
            if len(kept) > 1:
                yield f"{task}: {runs}"


def _lost(client: Client, here: Interleaving, acted: list[dict[str, Any]]) -> Iterator[str]:
    """Accepted answers that nobody read, though nobody cancelled them and their question did not go away."""
    read = {entry["answer"]["token"] for entry in acted}
    answered = {entry["task"] for entry in acted}
    for sent in here.sent:
        if sent.run is None or sent.token in read:
            continue
        status = client.run_status(here.thread, sent.run)
        # Cancelled, rolled back, or its question went away; not because of another answer, though.
        if status == "success" or (status == "error" and sent.task in answered):
            error = client.http.get(f"/threads/{here.thread}/runs/{sent.run}/join").json().get("__error__")
            yield f"{sent} ended {status}: {error}"


R4 = Goal(
    id="R4",
    title="nothing runs without an answer for its own question",
    play=play,
    rounds=1000,
    at_least={"interleavings": 1000, "answers applied": 1000, "kills": 5},
    controls=(Control("no-binding", (OWN, OTHER, TWO, LOST, LATE), 60),),
    for_peers=True,
)
