"""Langfuse's callback handler, told no more than what somebody may want to see.

It writes whatever LangChain knows of a step into every span, each entry as a text of its own, which is most of what it
costs: what the trace says already is left out, and so are the steps that LangGraph hides. Import it only where Langfuse
is configured.

It is called on the event loop, not in a thread as LangChain would: what it puts into the context, the node that is at
work finds there. Interrupts are no errors to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage
from langfuse.langchain import CallbackHandler

HIDDEN = "langsmith:hidden"

TOLD = frozenset({"created_by", "assistant_id", "thread_id", "graph_id", "ls_integration"})
"""Of a run: what is its session, its tags, or the same everywhere."""

WORTH_TELLING = ("ls_", "langgraph_node", "langgraph_step", "langfuse_")
"""Of a step: how entries begin that say more than the run's."""


class Callbacks(CallbackHandler):
    """Of one execution."""

    run_inline = True

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        if parent_run_id is None:
            told = {name: value for name, value in (metadata or {}).items() if name not in TOLD}
            super().on_chain_start(serialized, inputs, run_id=run_id, tags=tags, metadata=told, **kwargs)
        elif HIDDEN not in (tags or ()):
            super().on_chain_start(
                serialized, inputs, run_id=run_id, parent_run_id=parent_run_id, metadata=_of_step(metadata), **kwargs
            )

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,  # noqa: ARG002 - of a step: where it stands in a sequence
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        super().on_chat_model_start(
            serialized, messages, run_id=run_id, parent_run_id=parent_run_id, metadata=_of_step(metadata), **kwargs
        )

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,  # noqa: ARG002
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        super().on_tool_start(
            serialized, input_str, run_id=run_id, parent_run_id=parent_run_id, metadata=_of_step(metadata), **kwargs
        )


def _of_step(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (metadata or {}).items() if name.startswith(WORTH_TELLING)}
