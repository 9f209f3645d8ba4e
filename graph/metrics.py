"""What the model layers count, in prometheus_client's default registry.

Labels are bounded: `endpoint` is a name that the environment configures (a model that only one run asks for counts as
`other`), the rest are fixed words.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge

MODEL_CALLS = Counter(
    "agent_model_calls",
    "Attempts at a model: ok, open (skipped by its breaker), cancelled, or the class of the failure",
    ["endpoint", "outcome"],
)
MODEL_TOKENS = Counter("agent_model_tokens", "Tokens by the provider's own count", ["endpoint", "direction"])
COST = Counter("agent_cost_usd", "What answers have cost, by the price table")
UNPRICED = Counter("agent_unpriced_answers", "Answers whose price is not known")
CACHE_LOOKUPS = Counter("agent_cache_lookups", "Answers looked up: hit, miss or error", ["cache", "outcome"])
# Of several processes the worst; without the mode the breaker of a process that died would stay open for ever.
BREAKER_STATE = Gauge("agent_breaker_state", "0 closed, 1 half open, 2 open", ["endpoint"], multiprocess_mode="livemax")
