"""What the model costs: counted per call from the provider's own numbers, kept per run, summed for anybody.

A price that is not known is counted as unknown (`Spending["unknown"]`), never as nothing. Prices come from PRICES_FILE,
then from genai-prices, as bundled (nothing is fetched). The file, in dollars per million tokens, is read at every call:

    {"my-model": {"input": 0.5, "output": 1.5}}

A store cannot add to a number, so nothing is shared: every run has one item, `("costs", user)` with the run as its key
and the sum of the whole run, and writing it again changes nothing. Totals are sums over items.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from genai_prices import Usage, calc_price
from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from langgraph.store.base import BaseStore
from pydantic import NonNegativeFloat, TypeAdapter
from typing_extensions import TypedDict

from graph.ledger import label
from graph.standin import NAME as STAND_IN

ROOT = "costs"
WARN_AT = 0.8
_PAGE = 1_000

Where = Mapping[Literal["run", "thread", "user", "assistant"], str]
_logger = logging.getLogger(__name__)


class _Price(TypedDict):
    input: NonNegativeFloat
    output: NonNegativeFloat


class Spending(TypedDict):
    """Tokens and dollars of one call or of many, and how many of the calls had no known price."""

    input_tokens: int
    output_tokens: int
    usd: float
    unknown: int


NOTHING: Final = Spending(input_tokens=0, output_tokens=0, usd=0.0, unknown=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """To whom a run's costs belong."""

    user: str
    thread: str
    assistant: str


def plus(one: Spending, other: Spending) -> Spending:
    """Both together."""
    sums: Any = {name: amount + cast("Any", other)[name] for name, amount in cast("Any", one).items()}
    return cast("Spending", sums)


def spent_by(answer: AIMessage) -> Spending:
    """What this answer cost. Reads files, and the first time a table for half a second: call it in a thread."""
    told, usage = answer.response_metadata, answer.usage_metadata
    if told.get("cached"):
        return NOTHING.copy()
    if usage is None:
        return Spending(input_tokens=0, output_tokens=0, usd=0.0, unknown=1)
    usd, read, written = _price(told, usage), usage["input_tokens"], usage["output_tokens"]
    return Spending(input_tokens=read, output_tokens=written, usd=usd or 0.0, unknown=int(usd is None))


def _price(told: dict[str, Any], usage: UsageMetadata) -> float | None:
    name = str(told.get("model_name") or told.get("model") or "")
    if name == STAND_IN:
        return 0.0
    if own := _own_prices().get(name):
        return (usage["input_tokens"] * own["input"] + usage["output_tokens"] * own["output"]) / 1_000_000
    details: dict[str, Any] = {**usage.get("input_token_details", {})}
    # Anthropic's are counted by how long they are kept.
    stored = [count for detail, count in details.items() if detail.startswith(("cache_creation", "ephemeral_"))]
    counted = Usage(
        input_tokens=usage["input_tokens"],
        output_tokens=usage["output_tokens"],
        cache_read_tokens=details.get("cache_read"),
        cache_write_tokens=sum(filter(None, stored)),
    )
    try:
        price = calc_price(counted, name, provider_id=told.get("model_provider"))
    except (LookupError, ValueError):
        # Not in the table, or numbers that contradict each other.
        return None
    return float(price.total_price)


def _own_prices() -> dict[str, _Price]:
    file = os.environ.get("PRICES_FILE")
    try:
        return TypeAdapter(dict[str, _Price]).validate_json(Path(file).read_bytes()) if file else {}
    except (OSError, ValueError):
        _logger.exception("PRICES_FILE cannot be used")
        return {}


async def record(store: BaseStore, place: Place, run: str, spending: Spending) -> None:
    """Keep what this run has cost so far, in place of what was kept of it before."""
    value = {"spending": dict(spending), "run": run, **asdict(place)}
    await store.aput((ROOT, label(place.user)), run, value, index=False)


async def total(store: BaseStore, where: Where) -> Spending:
    """The sum over the runs `where` all of this applies."""
    conditions: dict[str, Any] = {str(name): value for name, value in where.items()}
    runs: dict[str, Spending] = {}
    for offset in itertools.count(step=_PAGE):
        page = await store.asearch((ROOT,), filter=conditions, limit=_PAGE, offset=offset)
        # By key: an item that is written while we turn the page may be seen twice.
        runs |= {item.key: item.value["spending"] for item in page}
        if len(page) < _PAGE:
            break
    return functools.reduce(plus, runs.values(), NOTHING)


def standing(spending: Spending, limit: float | None) -> Literal["ok", "warn", "spent"]:
    """How `spending` stands to a budget of `limit` dollars; None = no budget. Unknown prices are not in it."""
    if limit is None or spending["usd"] < WARN_AT * limit:
        return "ok"
    return "warn" if spending["usd"] < limit else "spent"
