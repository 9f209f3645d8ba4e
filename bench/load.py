"""The client: a process of its own, so that its CPU is known apart.

One JSON object a line. It is told `{"scenario", "url", "terms"}`, prepares and answers `{}`; at the next line, whatever
that says, it plays and answers with figures. A failure is answered as `{"failed": text}`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import traceback
from contextlib import suppress
from typing import Any

from bench.figures import Figures
from bench.site import Site

LONGEST_SECONDS = 1800.0
"""What a scenario may take to prepare, and to play; a server that never answers costs its own window alone."""


class Failed(Exception):
    """The client could not do what it was told; the server's answer is in the text."""


class Load:
    """The client process, from outside."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def prepare(self, scenario: str, url: str, terms: dict[str, Any]) -> None:
        self._asked({"scenario": scenario, "url": url, "terms": terms})

    def play(self) -> Figures:
        """What was prepared."""
        return self._asked({})

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _asked(self, message: dict[str, Any]) -> Figures:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "the client process ended"}
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer


async def _serve() -> None:
    from bench.scenarios import SCENARIOS

    sites: dict[str, Site] = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        told = json.loads(line)
        scenario = SCENARIOS[told["scenario"]]
        site = sites.setdefault(told["url"], Site(told["url"]))
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                prepared = await scenario.prepare(site, told["terms"])
            print("{}", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            async with asyncio.timeout(LONGEST_SECONDS):
                answer: dict[str, Any] = {**await scenario.play(site, told["terms"], prepared)}
        except Exception as failure:  # noqa: BLE001 - the harness says it and goes on with the next
            answer = {"failed": f"{type(failure).__name__}: {failure}", "where": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


def main() -> None:
    with suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(_serve())


if __name__ == "__main__":
    main()
