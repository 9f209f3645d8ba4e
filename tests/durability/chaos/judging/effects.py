"""What was done how often. An effect may be started again if it was in flight when something stopped its process, and
not otherwise; one under the ledger never.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from tests.durability.chaos.evidence import SLACK, STALE_SECONDS, Evidence, Execution

TRIED_AGAIN = frozenset({"flaky", "fail"})
"""Kinds of steps that fail by plan."""
UNKNOWN = "unknown"
"""What a state remembers of an effect that the ledger has as started, and not as ended."""
LIVES_ON = frozenset({"freeze", "restart", "terminate", "stall", "cut", "delay", "exhaust"})
"""Faults after which a process may do for a moment what another one has taken over."""


def doubled(evidence: Evidence) -> Iterator[str]:
    """Effects that were started again although nothing had stopped them."""
    for key, executions in evidence.by_key.items():
        for each, again in pairwise(executions):
            if each.kind not in TRIED_AGAIN and not _was_stopped(evidence, each, again):
                yield f"{key}: {each.id} in {each.pid} at {each.started:.2f}, {again.id} in {again.pid}"


def ledgered_doubled(evidence: Evidence) -> Iterator[str]:
    """Effects under the ledger that were started more than once, for whatever reason."""
    for key, executions in evidence.by_key.items():
        if executions[0].kind == "once" and len(executions) > 1:
            yield f"{key}: {[each.id for each in executions]}"


def repeated_after_commit(evidence: Evidence) -> Iterator[str]:
    """Effects that were started after a later step of their plan had been: they were committed.

    What was rolled back in between may be done again, if what it followed from is answered again.
    """
    reached: dict[tuple[str, str], int] = {}
    for each in evidence.executions:
        if evidence.forked(each.thread):
            continue
        plan = (each.thread, each.mark)
        excused = _woke_up(evidence, each) or _taken_back(evidence, each)
        if each.place < reached.get(plan, 0) and not excused:
            yield f"{each.key}: {each.id} in {each.pid} at {each.started:.2f}"
        reached[plan] = max(each.place, reached.get(plan, 0))


def wrong_states(evidence: Evidence) -> Iterator[str]:
    """States that remember what nobody did, or the same thing twice."""
    logged = {(each.key, each.id): each for each in evidence.executions}
    for thread, view in evidence.threads.items():
        done = [tuple(line.split()) for line in (view.state.get("values") or {}).get("done", [])]
        for key, execution in done:
            if execution != UNKNOWN and (key, execution) not in logged:
                yield f"{key} {execution} was never done"
        twice = [key for key, number in Counter(key for key, _ in done).items() if number > 1]
        if not any(evidence.of_kind("update", thread=thread)):
            yield from (f"{key} is remembered twice" for key in twice)


def started_again(evidence: Evidence) -> int:
    """How many executions were not the only one of their effect, by plan or by accident."""
    return sum(len(executions) - 1 for executions in evidence.by_key.values() if executions[0].kind not in TRIED_AGAIN)


def _was_stopped(evidence: Evidence, each: Execution, again: Execution) -> bool:
    """Whether a fault or a request came while it ran, or before its commit can have been over."""
    end = (each.finished if each.finished is not None else again.started) + SLACK
    if any(window.touches(each.started, end) for window in evidence.faults):
        return True
    stopping = [*evidence.cancels(each.thread), *evidence.of_kind("update", thread=each.thread)]
    if evidence.forked(each.thread) or each.run != again.run:
        stopping += evidence.of_kind("run", thread=each.thread)
    return any(line["at"] <= again.started for line in stopping)


def _woke_up(evidence: Evidence, each: Execution) -> bool:
    """Whether its process may not have known yet that it had been taken for dead."""
    return any(
        window.kind in LIVES_ON
        and each.pid in window.pids
        and window.began <= each.started <= window.ended + STALE_SECONDS
        for window in evidence.faults
    )


def _taken_back(evidence: Evidence, each: Execution) -> bool:
    """Whether somebody asked before for a rollback; a run's own strategy is for what came before it."""
    return any(line["at"] <= each.started and line["mark"] != each.mark for line in evidence.rollbacks(each.thread))
