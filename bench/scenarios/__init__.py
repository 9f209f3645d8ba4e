"""Everything that is measured, in the order in which it is."""

from __future__ import annotations

from bench.scenarios.background import Background
from bench.scenarios.bigstate import BigState
from bench.scenarios.cost import Cost
from bench.scenarios.creation import Creation
from bench.scenarios.first import First
from bench.scenarios.growth import Growth
from bench.scenarios.idle import Idle
from bench.scenarios.paced import Paced
from bench.scenarios.pages import Pages
from bench.scenarios.processes import Processes
from bench.scenarios.queued import Queued
from bench.scenarios.rejoin import Rejoin
from bench.scenarios.scenario import Scenario
from bench.scenarios.soak import Soak
from bench.scenarios.startup import StartUp
from bench.scenarios.stream import Stream
from bench.scenarios.wait import Wait

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        StartUp(),
        Creation(),
        First(),
        Wait(),
        Processes(),
        Cost(),
        Stream(),
        Paced(),
        Rejoin(),
        Idle(),
        BigState(),
        Background(),
        Growth(),
        Pages(),
        Queued(),
        Soak(),
    )
}
