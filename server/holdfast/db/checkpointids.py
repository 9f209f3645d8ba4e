"""Checkpoint ids that grow, whatever the clocks say.

The newest checkpoint of a thread is the one with the greatest id, and LangGraph makes ids (UUIDv6) of the wall clock of
the process that executes the run. Where the next run is executed by a host whose clock is behind, even by a moment, its
checkpoints would sort below those that it began from: the run would succeed, and the thread would not know of it.
LangGraph keeps its own ids in order by remembering the last one; so whoever is to write tells it what there is already.
"""

from __future__ import annotations

from langgraph.checkpoint.base import id as made

UUID6 = 6


def come_after(checkpoint_id: str) -> None:
    """Let every id that this process makes from now on be greater than this one; other ids are passed over."""
    try:
        seen = made.UUID(checkpoint_id)
    except ValueError:
        return
    if seen.version == UUID6:
        made._last_v6_timestamp = max(made._last_v6_timestamp or 0, seen.time)  # type: ignore[assignment]
