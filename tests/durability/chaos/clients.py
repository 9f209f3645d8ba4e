"""The clients of an episode: each action of the schedule at its time, and on every thread somebody who answers.

A client that has a run and lost its stream goes on as the SDKs do: it joins again with the last event id that it saw. A
request with an idempotency key is sent again until it is acknowledged; one without is sent once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from tests.durability.chaos.observations import Log
from tests.durability.chaos.schedule import Action, AnswerStyle, Episode
from tests.durability.chaos.talking import AGAIN_SECONDS, GONE, Talk, drip

GRAPH = "chaos"
DRIP_SECONDS = 5.0
WATCH_SECONDS = 6.0
LOOKS_EVERY = 0.3
GIVES_UP_AFTER = 45.0
"""Seconds after the episode's faults until a client no longer tries again."""


class Clients:
    """All clients of one episode."""

    def __init__(self, episode: Episode, doors: list[str], talk: Talk, log: Log, begin: float) -> None:
        self._episode = episode
        self._doors = doors
        self._talk = talk
        self._log = log
        self._begin = begin
        self._deadline = begin + episode.seconds + GIVES_UP_AFTER
        self._runs: dict[str, list[str]] = {thread: [] for thread in episode.threads}
        self._asked: dict[str, list[str]] = {thread: [] for thread in episode.threads}
        self._kinds: dict[str, Callable[[Action, str], Awaitable[None]]] = {
            "run": self._run,
            "join": self._join,
            "watch": self._watch,
            "cancel": self._cancel,
            "update": self._update,
            "fork": self._fork,
            "delete": self._delete,
            "stale": self._stale,
        }

    async def create(self) -> None:
        """The threads, before anything goes wrong."""
        for thread in self._episode.threads:
            op = self._talk.ask("create", "create", thread)
            answer = await self._talk.send(op, 0, "POST", "/threads", json={"thread_id": thread})
            assert answer is not None
            assert answer.status_code == 200, answer.text

    async def play(self, action: Action) -> None:
        """Wait for its time and do it."""
        await asyncio.sleep(self._begin + action.at - time.monotonic())
        await self._kinds[action.kind](action, self._episode.threads[action.thread])

    async def answer(self, thread: str, over: asyncio.Event) -> None:
        """Answer what the thread asks, until it asks nothing and everything is over."""
        styles = self._episode.answering[self._episode.threads.index(thread)]
        number = 0
        while time.monotonic() < self._deadline:
            row = await self._talk.look(number, f"/threads/{thread}")
            if row is GONE:
                return
            asked = _questions(row)
            if asked:
                self._asked[thread] += [each for each in asked if each not in self._asked[thread]]
                await self._reply(thread, f"q{number}", styles[number % len(styles)], asked, number)
                number += 1
            elif over.is_set() and row is not None and row["status"] != "busy":
                return
            await asyncio.sleep(LOOKS_EVERY)

    async def _reply(self, thread: str, mark: str, style: AnswerStyle, asked: list[str], door: int) -> None:
        first = asked[0]
        if style == "bare" and len(asked) == 1:
            await self._resume(thread, mark, door, first, bare=True)
        elif style == "race":
            await asyncio.gather(*(self._resume(thread, mark, door + each, first) for each in (0, 1)))
        elif style == "double":
            answer = _answer(first)
            await asyncio.gather(*(self._resume(thread, mark, door, first, answer=answer) for _ in range(2)))
        else:
            await self._resume(thread, mark, door, first)
            if style == "again":
                await asyncio.sleep(2 * LOOKS_EVERY)
                await self._resume(thread, mark, door + 1, first)

    async def _resume(
        self, thread: str, mark: str, door: int, interrupt: str, *, bare: bool = False, answer: Any = None
    ) -> None:
        answer = answer or _answer(interrupt)
        asked = {"interrupt": interrupt, "answer": answer["id"], "bare": bare}
        op = self._talk.ask(mark, "answer", thread, **asked)
        resume = answer if bare else {interrupt: answer}
        body = {"assistant_id": GRAPH, "command": {"resume": resume}}
        reply = await self._talk.send(op, door, "POST", f"/threads/{thread}/runs", json=body)
        if reply is not None and reply.status_code == 200:
            self._runs[thread].append(reply.json()["run_id"])

    async def _run(self, action: Action, thread: str) -> None:
        await self._submit(action, thread, {})

    async def _fork(self, action: Action, thread: str) -> None:
        """A run from an older checkpoint, which makes a second child of it."""
        history = await self._talk.look(action.door, f"/threads/{thread}/history?limit=10")
        if history:
            chosen = random.Random(action.mark).choice(history)
            await self._submit(action, thread, {"checkpoint_id": chosen["checkpoint_id"]})

    async def _submit(self, action: Action, thread: str, more: dict[str, Any]) -> None:
        plan = [asdict(step) for step in action.plan]
        body = {
            "assistant_id": GRAPH,
            "input": {"mark": action.mark, "plan": plan, "place": 0, "inputs": [action.mark]},
            "multitask_strategy": action.strategy,
            "stream_mode": ["updates", "values"],
            "stream_resumable": True,
            **({"on_disconnect": "cancel"} if action.attached else {}),
            **more,
        }
        headers = {"idempotency-key": f"{thread}-{action.mark}"} if action.keyed else {}
        path = f"/threads/{thread}/runs" + {"background": "", "stream": "/stream", "wait": "/wait"}[action.how]
        door, run, end = action.door, None, "broken"
        while run is None and time.monotonic() < self._deadline:
            asked = {"how": action.how, "strategy": action.strategy, "keyed": action.keyed, **more}
            asked["attached"] = action.attached
            op = self._talk.ask(action.mark, "run", thread, **asked)
            run, end = await self._begin_run(action, op, door, path, body, headers)
            if not action.keyed or end == "refused":
                break
            await asyncio.sleep(0 if run else AGAIN_SECONDS)
            door += 1
        if run is not None:
            self._runs[thread].append(run)
            if action.how == "stream" and end == "broken":
                await self._rejoin(action, thread, run)

    async def _begin_run(
        self, action: Action, op: str, door: int, path: str, body: Any, headers: dict[str, str]
    ) -> tuple[str | None, str]:
        more: dict[str, Any] = {"json": body, "headers": headers}
        if action.how == "stream":
            return await self._talk.follow(op, door, "POST", path, vanishes=action.vanishes, **more)
        if action.how == "wait":
            return await self._talk.result(op, door, "POST", path, vanishes=action.vanishes, **more)
        answer = await self._talk.send(op, door, "POST", path, **more)
        if answer is None or answer.status_code == 503:
            return None, "broken"
        return (answer.json()["run_id"], "clean") if answer.status_code == 200 else (None, "refused")

    async def _rejoin(self, action: Action, thread: str, run: str) -> None:
        """Go on reading where the stream broke off."""
        door, end = action.door, "broken"
        while end in ("broken", "refused") and time.monotonic() < self._deadline:
            door += 1
            await asyncio.sleep(AGAIN_SECONDS)
            op = self._talk.ask(action.mark, "rejoin", thread, run=run, after=self._talk.seen.get(run, "-1"))
            end = await self._join_stream(op, door, thread, run, self._talk.seen.get(run, "-1"))
            if end == "refused" and await self._talk.look(door, f"/threads/{thread}/runs/{run}") is GONE:
                return

    async def _join_stream(
        self, op: str, door: int, thread: str, run: str, after: str | None, vanishes: float = 0.0
    ) -> str:
        headers = {} if after is None else {"last-event-id": after}
        path = f"/threads/{thread}/runs/{run}/stream"
        return (await self._talk.follow(op, door, "GET", path, vanishes=vanishes, headers=headers))[1]

    async def _join(self, action: Action, thread: str) -> None:
        if not self._runs[thread]:
            return
        run = self._runs[thread][-1]
        if action.slow:
            url = self._doors[action.door]
            await drip(url, f"/threads/{thread}/runs/{run}/stream", DRIP_SECONDS)
            return
        after = "-1" if action.from_start else None
        op = self._talk.ask(action.mark, "join", thread, run=run, after=after)
        await self._join_stream(op, action.door, thread, run, after, action.vanishes)

    async def _watch(self, action: Action, thread: str) -> None:
        """The stream of the thread, which has no end."""
        op = self._talk.ask(action.mark, "watch", thread)
        headers = {"last-event-id": "-"}
        path = f"/threads/{thread}/stream"
        await self._talk.follow(op, action.door, "GET", path, vanishes=WATCH_SECONDS, headers=headers)

    async def _cancel(self, action: Action, thread: str) -> None:
        if not self._runs[thread]:
            return
        run, how = self._runs[thread][-1], "rollback" if action.rollback else "interrupt"
        op = self._talk.ask(action.mark, "cancel", thread, run=run, action=how)
        path = f"/threads/{thread}/runs/{run}/cancel"
        params = {"action": how, "wait": "1" if action.waits else "0"}
        await self._talk.send(op, action.door, "POST", path, params=params)

    async def _update(self, action: Action, thread: str) -> None:
        op = self._talk.ask(action.mark, "update", thread)
        body = {"values": {"inputs": [action.mark]}, "as_node": "joined"}
        await self._talk.send(op, action.door, "POST", f"/threads/{thread}/state", json=body)

    async def _delete(self, action: Action, thread: str) -> None:
        op = self._talk.ask(action.mark, "delete", thread)
        await self._talk.send(op, action.door, "DELETE", f"/threads/{thread}")

    async def _stale(self, action: Action, thread: str) -> None:
        """An answer to the oldest question that anybody saw, which most likely is no question any more."""
        if self._asked[thread]:
            await self._resume(thread, action.mark, action.door, self._asked[thread][0])


def _answer(interrupt: str) -> dict[str, str]:
    """An answer that says which question it means."""
    return {"id": uuid4().hex, "meant": interrupt}


def _questions(row: Any) -> list[str]:
    if row is None or row["status"] != "interrupted":
        return []
    return [each["id"] for task in (row.get("interrupts") or {}).values() for each in task]
