"""After runs were cancelled: who has to know."""

from __future__ import annotations

from holdfast.api.deps import Services
from holdfast.db.cancelling import Cancelled


def tell(with_: Services, cancelled: Cancelled) -> None:
    """Tell the workers of runs that shall stop, and the followers of runs that are over."""
    for grown in (*cancelled.over, *cancelled.logged):
        with_.events.grown(grown)
    for run_id in cancelled.stopping:
        with_.bell.ring("cancel", run_id)
    if cancelled.stopping:
        with_.dispatcher.look_for_cancels()
        # One may have been handed back, and then needs a worker once more to be ended properly.
        with_.dispatcher.wake()
        with_.bell.ring("run")
