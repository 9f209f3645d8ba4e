"""The agent as a graph: the model, one task per tool call, and a visible road for failures.

    start -> agent -> tools (one per call) -> agent ... -> end
             agent fails -> error_handler -> agent (retry) | compact -> agent | ask_human | give_up
    before each agent: a thread whose budget is spent -> ask_budget

Uncompiled on purpose: the server compiles it with its own checkpointer and store.
"""

from __future__ import annotations

from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy, TimeoutPolicy

from graph import routing
from graph.errors import is_worth_a_quick_retry
from graph.nodes import Nodes
from graph.state import Context, State


def build(nodes: Nodes | None = None) -> StateGraph[State, Context, State, State]:
    """The uncompiled graph over `nodes` (default: the standard tools and the model of the environment)."""
    steps = nodes or Nodes()
    limits = steps.limits

    builder = StateGraph(State, context_schema=Context)
    builder.add_node(
        "agent",
        steps.agent,
        retry_policy=RetryPolicy(
            initial_interval=limits.quick_retry, max_attempts=2, jitter=False, retry_on=is_worth_a_quick_retry
        ),
        timeout=TimeoutPolicy(run_timeout=limits.model, idle_timeout=limits.model_idle),
        error_handler=steps.model_failed,
        # Only for the picture: the error handler's Command is what goes there.
        destinations={"error_handler": "failed"},
    )
    builder.add_node("tools", steps.tools)
    builder.add_node("error_handler", steps.error_handler)
    builder.add_node("compact", steps.compact)
    builder.add_node("ask_human", steps.ask_human)
    builder.add_node("ask_budget", steps.ask_budget)
    builder.add_node("give_up", steps.give_up)
    builder.add_conditional_edges(START, routing.before_agent, ["agent", "ask_budget"])
    builder.add_conditional_edges("agent", routing.after_agent, ["tools", END])
    builder.add_conditional_edges("tools", routing.before_agent, ["agent", "ask_budget"])
    builder.add_conditional_edges(
        "error_handler",
        routing.after_failure,
        {"retry": "agent", "compact": "compact", "ask_human": "ask_human", "give_up": "give_up"},
    )
    builder.add_edge("compact", "agent")
    builder.add_edge("give_up", END)
    return builder


graph = build()
