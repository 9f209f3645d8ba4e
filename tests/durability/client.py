"""The public API as the proofs use it: a client that survives its server."""

from __future__ import annotations

import json
import time
from collections import Counter
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from tests.support.talk import new_thread, until

ACTIVE = {"pending", "running"}
WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.2
"""Between two looks at what a thread is doing: proofs share two cores with what they attack."""

How = Literal["background", "stream"]


class Client:
    """One HTTP client of one address, behind which servers come and go."""

    def __init__(self, url: str, patience: float = WAIT_SECONDS) -> None:
        """`patience`: how many seconds a run may take that is read to its end, or waited for."""
        self.http = httpx.Client(base_url=url, timeout=30.0)
        self._patience = patience

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.http.close()

    def thread(self) -> str:
        return new_thread(self.http)

    def begin(self, thread: str, graph: str, how: How = "background", **body: Any) -> str | None:
        """Start a run, and read its stream to the end if it has one, for as long as patience lasts.

        Returns the run's id if it was acknowledged, however the connection ended afterwards; None if the connection
        was cut before that.
        """
        path = f"/threads/{thread}/runs" + ("/stream" if how == "stream" else "")
        run = None
        try:
            with self.http.stream("POST", path, json={"assistant_id": graph, **body}) as answer:
                answer.raise_for_status()
                run = _run_of(answer)
                if not answer.is_stream_consumed:
                    self._read(answer)
        except httpx.TransportError:
            return run
        return run

    def _read(self, answer: httpx.Response) -> None:
        impatient = time.monotonic() + self._patience
        for _ in answer.iter_raw():
            if time.monotonic() > impatient:
                return

    def run_status(self, thread: str, run: str) -> str | None:
        """None if there is no such run."""
        answer = self.http.get(f"/threads/{thread}/runs/{run}")
        return None if answer.status_code == 404 else str(answer.json()["status"])

    def statuses(self, thread: str) -> dict[str, str]:
        """All runs of a thread, the newest first; none if it is gone."""
        answer = self.http.get(f"/threads/{thread}/runs", params={"limit": 1000})
        if answer.status_code == 404:
            return {}
        return {run["run_id"]: run["status"] for run in answer.raise_for_status().json()}

    def settled(self, thread: str, seconds: float | None = None) -> bool:
        """Wait until no run of the thread is pending or running; whether that came true."""
        patience = self._patience if seconds is None else seconds
        try:
            until(lambda: not ACTIVE & set(self.statuses(thread).values()), "every run is over", patience, LOOK_SECONDS)
        except AssertionError:
            return False
        return True

    def thread_row(self, thread: str) -> dict[str, Any]:
        row: dict[str, Any] = self.http.get(f"/threads/{thread}").raise_for_status().json()
        return row

    def values(self, thread: str) -> Any:
        """As the thread shows them; as its state does on servers whose threads have none."""
        row = self.thread_row(thread)
        return row["values"] if "values" in row else self.state(thread)["values"]

    def questions(self, thread: str) -> list[dict[str, Any]]:
        """The interrupts that wait for an answer: as the thread shows them, or else its state."""
        row = self.thread_row(thread)
        tasks = row["interrupts"].values() if "interrupts" in row else self._interrupts_of_tasks(thread)
        return [question for asked in tasks for question in asked]

    def _interrupts_of_tasks(self, thread: str) -> list[list[dict[str, Any]]]:
        return [task["interrupts"] for task in self.state(thread)["tasks"]]

    def state(self, thread: str) -> dict[str, Any]:
        state: dict[str, Any] = self.http.get(f"/threads/{thread}/state").raise_for_status().json()
        return state

    def forks(self, thread: str) -> list[str]:
        """What is wrong with the chain of checkpoints: each must have one child at most, and only one has no parent."""
        answer = self.http.get(f"/threads/{thread}/history", params={"limit": 1000}).raise_for_status()
        children = Counter(row["parent_checkpoint_id"] for row in answer.json())
        return [
            f"thread {thread}: checkpoint {parent} has {number} children"
            for parent, number in children.items()
            if number > 1
        ]


def _run_of(answer: httpx.Response) -> str:
    """The id of the run that an answer acknowledges; some other servers of the API say it in the body alone."""
    where: str = answer.headers.get("content-location", "")
    run: str = where.rpartition("/")[2] or json.loads(answer.read())["run_id"]
    return run
