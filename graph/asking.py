"""What a model is asked for: whose question it is, and what the run may set."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Self

from langgraph.config import get_config
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore

from graph.costs import Place
from graph.guards import Redaction
from graph.state import Context, ModelSize, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """One step's question to the model. `size` is a wish: without a small model the large one answers."""

    context: Context
    place: Place
    store: BaseStore | None = None
    redaction: Redaction | None = None
    size: ModelSize = "large"

    @classmethod
    def of(cls, state: State, runtime: Runtime[Context]) -> Self:
        """For the step that is being executed."""
        context = runtime.context or Context()
        named = get_config().get("configurable", {})
        place = Place(
            user=str(named.get("langgraph_auth_user_id") or named.get("user_id") or ""),
            assistant=str(named.get("assistant_id") or ""),
            thread=str(named.get("thread_id") or ""),
        )
        hides = context.redact_pii or bool(os.environ.get("REDACT_PII"))
        return cls(
            context=context,
            place=place,
            store=runtime.store,
            redaction=Redaction.of(state["messages"]) if hides else None,
        )

    def sized(self, size: ModelSize) -> Self:
        """The same for a model of this size."""
        return replace(self, size=size)
