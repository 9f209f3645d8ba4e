"""64 streams at once, as a model would stream: 200 tokens, 5 ms apart."""

from __future__ import annotations

from collections.abc import Sequence

from bench.client import Events
from bench.figures import Figures, latencies
from bench.scenarios.scenario import Case
from bench.scenarios.stream import Stream
from bench.stage import Options


class Paced(Stream):
    """All streams begin at once and each is one; the ideal is 1.0 s."""

    name = "paced"
    with_peers = False
    about = "64 streams at once, a token every 5 ms: ideal 1,000 ms and gaps of 5 ms; costs are for one run"
    shown = ("p50_ms", "max_ms", "gap_p50_ms", "gap_p99_ms", "first_message_p50_ms", "server_cpu_ms", "client_cpu_ms")
    pace = 0.005

    def cases(self, options: Options) -> Sequence[Case]:
        return [Case("64 streams", {"clients": 64, "seconds": 0.0})]

    def figures(self, done: list[Events], seconds: float) -> Figures:
        gaps = latencies((gap for events in done for gap in events.gaps), "gap_")
        return super().figures(done, seconds) | gaps
