"""Traces: what is told of every execution to those who trace, if anybody does.

A tracer (`langfuse.py`, `otlp.py`) hands a callback handler to each execution. Without a tracer no library of theirs is
imported, and a run is handed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from langchain_core.callbacks import BaseCallbackHandler


@dataclass(frozen=True, slots=True)
class TracedRun:
    """An execution, as traces show it. `trace_id` has 32 hexadecimal digits (`rules/trace.py`)."""

    run_id: str
    thread_id: str
    assistant_id: str
    graph_id: str
    owner: str
    attempt: int
    trace_id: str


@dataclass(frozen=True, slots=True)
class Traced:
    """What an execution that is traced carries along."""

    handlers: list[BaseCallbackHandler] = field(default_factory=list)
    """For the callbacks of its graph."""
    ended: Callable[[str], object] = lambda _: None
    """To be told its status, if it comes to an end here."""


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """A request whose answer is over. `began_ns`: since the epoch; `ended`: complete, cut or failed."""

    method: str
    route: str
    status: int
    ended: str
    began_ns: int
    request_id: str
    traceparent: str


class Tracer(Protocol):
    """Somewhere that traces go."""

    def executing(self, run: TracedRun) -> AbstractContextManager[Traced]:
        """Trace an execution while the block lasts."""
        ...


class Traces:
    """All tracers of this process; without one, executions are handed nothing.

    `answered` is told of requests, in their context, where somebody wants to know of them.
    """

    def __init__(
        self, tracers: Sequence[Tracer] = (), answered: Callable[[AnsweredRequest], object] | None = None
    ) -> None:
        self._tracers = tracers
        self.answered = answered

    @contextmanager
    def executing(self, run: TracedRun) -> Iterator[Traced]:
        """Trace an execution while the block lasts; it is to have a context of its own."""
        if not self._tracers:
            yield Traced()
            return
        from holdfast.telemetry.spans import in_trace

        with ExitStack() as stack:
            stack.enter_context(in_trace(run.trace_id))
            traced = [stack.enter_context(tracer.executing(run)) for tracer in self._tracers]

            def ended(status: str) -> None:
                for one in traced:
                    one.ended(status)

            yield Traced([handler for one in traced for handler in one.handlers], ended)
