"""What a conversation may spend, and what it has: the thread's purse, and the books in the store (A12).

The purse is in the thread's state, so it is exact and survives with the checkpoints; the books (`costs.record`) are for
whoever asks what a user or an assistant has spent. At 80 % of the budget the run says so, once: as a custom event in
its stream. At 100 % the next step is `ask_budget`. Both are logged as alerts: records that carry `alert`, which the
server tells to operators.

| variable | |
|---|---|
| BUDGET_USD | what a thread may spend; a run's or an assistant's `budget_usd` counts where it is less |
| PRICES_FILE | prices of models that genai-prices does not know, see `costs` |
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.runtime import Runtime

from graph import costs
from graph.approvals import UnusableAnswerError
from graph.asking import Asking
from graph.metrics import COST, UNPRICED
from graph.state import Context, Purse

_logger = logging.getLogger(__name__)


def budget(context: Context) -> float | None:
    """The dollars that a thread may spend before a human is asked."""
    limits = [float(limit) for limit in (os.environ.get("BUDGET_USD"), context.budget_usd) if limit]
    return min(limits, default=None)


def limit_of(purse: Purse | None, context: Context) -> float | None:
    """The dollars that this thread may spend: its budget, or what a human has raised just that budget to."""
    allowed = budget(context)
    return purse["limit"] if purse and purse["budget"] == allowed else allowed


async def charged(purse: Purse | None, answer: AIMessage, asking: Asking, runtime: Runtime[Context]) -> Purse:
    """The purse after this answer; the books are kept, and whoever has to know is told."""
    # The first look loads the table of prices.
    spent = await asyncio.to_thread(costs.spent_by, answer)
    COST.inc(spent["usd"])
    UNPRICED.inc(spent["unknown"])
    run_id = str(runtime.execution_info.run_id) if runtime.execution_info else ""
    before = purse or Purse(run_id=run_id, run=costs.NOTHING, thread=costs.NOTHING, budget=None, limit=None)
    after = Purse(
        run_id=run_id,
        run=costs.plus(before["run"] if before["run_id"] == run_id else costs.NOTHING, spent),
        thread=costs.plus(before["thread"], spent),
        budget=budget(asking.context),
        limit=limit_of(purse, asking.context),
    )
    if runtime.store is not None:
        try:
            await costs.record(runtime.store, asking.place, run_id, after["run"])
        except Exception:
            # The next step writes the run's sum again; the answer is worth more than the book.
            _logger.warning("what run %s has cost could not be written down", run_id, exc_info=True)
    _tell(before, after, asking, runtime)
    return after


def _tell(before: Purse, after: Purse, asking: Asking, runtime: Runtime[Context]) -> None:
    stood, stands = (costs.standing(purse["thread"], purse["limit"]) for purse in (before, after))
    if stands in ("ok", stood):
        return
    place, limit = asking.place, after["limit"]
    # A budget that a human has raised is another one.
    alert = {"kind": "budget_spent" if stands == "spent" else "budget", "subject": f"{place.thread}, ${limit:g}"}
    usd = after["thread"]["usd"]
    _logger.warning("a conversation has spent $%.4f of its $%.4f", usd, limit, extra={"alert": alert})
    if stood == "ok":
        news = {"kind": "budget", "spending": after["thread"], "limit": limit, "run": after["run_id"], **asdict(place)}
        runtime.stream_writer(news)


def check_raise(spent: float) -> Callable[[str, dict[str, Any]], None]:
    """What a human may raise the budget to: more than what is spent."""

    def check(_name: str, args: dict[str, Any]) -> None:
        limit = args.get("limit_usd")
        # Said the other way round, NaN would pass.
        if isinstance(limit, bool) or not (isinstance(limit, int | float) and limit > spent):
            raise UnusableAnswerError(f"`limit_usd` must be a number above the {spent:.4f} that are spent")

    return check
