"""What LangChain tells of an execution, as spans of OpenTelemetry. Import it only where OTLP is configured.

The libraries that do this patch every callback manager of the process and write all that goes in and out into
attributes. This one is handed to the executions of the server, and looks at nodes, models, tools and retrievers: what
stands between them (a chain in a node, a router, a graph in a node) has no span, and what is below it is below the
node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langgraph.errors import GraphBubbleUp
from opentelemetry.trace import SpanContext, SpanKind

from holdfast.telemetry.otlpspans import About, OpenSpan, SpanBook


class Callbacks(BaseCallbackHandler):
    """Of one execution, whose span is `root`. Called on the event loop, and from threads that nodes run in."""

    run_inline = True

    def __init__(self, book: SpanBook, root: SpanContext) -> None:
        self._book = book
        self._root = root
        self._open: dict[UUID, OpenSpan] = {}
        self._above: dict[UUID, SpanContext] = {}
        """Below which span the steps without one are."""

    def close(self) -> None:
        """End the spans of steps of which nobody said that they ended."""
        for span in [*self._open.values()]:
            self._book.end(span)
        self._open.clear()
        self._above.clear()

    def on_chain_start(
        self,
        *_: Any,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        **__: Any,
    ) -> None:
        told = metadata or {}
        if parent_run_id is None or told.get("langgraph_node") != name:
            self._above[run_id] = self._span_above(parent_run_id)
            return
        about = {"langgraph.node": name, "langgraph.step": told.get("langgraph_step")}
        self._start(f"node {name}", run_id, parent_run_id, about)

    def on_chain_end(self, *_: Any, run_id: UUID, **__: Any) -> None:
        self._end(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._fail(run_id, error)

    def on_chat_model_start(
        self,
        *_: Any,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **__: Any,
    ) -> None:
        self._start_model("chat", run_id, parent_run_id, metadata or {})

    def on_llm_start(
        self,
        *_: Any,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **__: Any,
    ) -> None:
        self._start_model("text_completion", run_id, parent_run_id, metadata or {})

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        if span := self._open.get(run_id):
            span.attributes |= _usage(response)
        self._end(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._fail(run_id, error)

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        *_: Any,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **told: Any,
    ) -> None:
        name = (serialized or {}).get("name") or told.get("name") or "tool"
        about = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
        about["gen_ai.tool.call.id"] = told.get("tool_call_id")
        self._start(f"execute_tool {name}", run_id, parent_run_id, about)

    def on_tool_end(self, output: Any, *, run_id: UUID, **_: Any) -> None:
        if (span := self._open.get(run_id)) and getattr(output, "status", None) == "error":
            self._book.fail(span, "the tool answered with an error")
        self._end(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._fail(run_id, error)

    def on_retriever_start(
        self,
        *_: Any,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        name: str | None = None,
        **__: Any,
    ) -> None:
        self._start(f"retrieval {name or 'retriever'}", run_id, parent_run_id, {"gen_ai.operation.name": "retrieval"})

    def on_retriever_end(self, *_: Any, run_id: UUID, **__: Any) -> None:
        self._end(run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._fail(run_id, error)

    def _start_model(self, operation: str, run_id: UUID, parent: UUID | None, told: Mapping[str, Any]) -> None:
        model = told.get("ls_model_name")
        about = {"gen_ai.operation.name": operation, "gen_ai.request.model": model}
        about["gen_ai.provider.name"] = told.get("ls_provider")
        self._start(f"{operation} {model or 'model'}", run_id, parent, about, SpanKind.CLIENT)

    def _start(
        self,
        name: str,
        run_id: UUID,
        parent: UUID | None,
        about: About,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        self._open[run_id] = self._book.begin(name, self._root.trace_id, self._span_above(parent), about, kind)

    def _span_above(self, parent: UUID | None) -> SpanContext:
        if parent is None:
            return self._root
        span = self._open.get(parent)
        return span.context if span else self._above.get(parent, self._root)

    def _end(self, run_id: UUID) -> None:
        self._above.pop(run_id, None)
        if span := self._open.pop(run_id, None):
            self._book.end(span)

    def _fail(self, run_id: UUID, error: BaseException) -> None:
        if span := self._open.get(run_id):
            if isinstance(error, GraphBubbleUp):
                # A question, or a command to the graph above: nothing went wrong.
                span.attributes["langgraph.left_by"] = type(error).__name__
            else:
                span.attributes["error.type"] = type(error).__qualname__
                self._book.fail(span, str(error))
        self._end(run_id)


def _usage(response: LLMResult) -> dict[str, str | int | Sequence[str]]:
    answers = [answer.message for said in response.generations for answer in said if isinstance(answer, ChatGeneration)]
    told: dict[str, str | int | Sequence[str]] = {}
    for answer in answers:
        if isinstance(answer, AIMessage) and (usage := answer.usage_metadata):
            told["gen_ai.usage.input_tokens"] = usage["input_tokens"]
            told["gen_ai.usage.output_tokens"] = usage["output_tokens"]
        if model := answer.response_metadata.get("model_name"):
            told["gen_ai.response.model"] = str(model)
        if reason := answer.response_metadata.get("finish_reason"):
            told["gen_ai.response.finish_reasons"] = [str(reason)]
    return told
