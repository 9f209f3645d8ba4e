"""A human's word on one tool call, and the grant that follows from it.

The question travels as an interrupt in the shape of LangChain's HumanInTheLoopMiddleware, which the chat
front ends render: `{action_requests: [{name, args, description}], review_configs: [{action_name,
allowed_decisions}]}`, always with one request, because every call is a task of its own. The answer is
`{decisions: [decision]}`, or the bare decision: approve, edit (with `edited_action`), reject or respond
(with `message`).

A grant is for exactly one call: its name and a hash of its arguments. It is checked again where the tool is
executed (`tools.execute`), so no routing mistake can run a call that nobody approved.

An answer that cannot be used runs nothing and fails nothing: the question is asked again, with the reason,
as a new interrupt. Raising instead would end the run in an error although the thread is only waiting for a
better answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, cast

from langgraph.types import interrupt

Choice = Literal["approve", "edit", "reject", "respond"]
CALL_CHOICES: Sequence[Choice] = ("approve", "edit", "reject", "respond")


class UnusableAnswerError(ValueError):
    """The answer is not one of the allowed decisions in a known shape; its text says why, for the human."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission for one call and no other."""

    name: str
    arguments: str

    @classmethod
    def of(cls, name: str, args: dict[str, Any]) -> Grant:
        """The grant for calling tool `name` with `args`."""
        return cls(name, fingerprint(args))

    def covers(self, name: str, args: dict[str, Any]) -> bool:
        """Is this call the one that was granted?"""
        return self == Grant.of(name, args)


def fingerprint(args: dict[str, Any]) -> str:
    """SHA-256 over the arguments as canonical JSON: key order and spacing do not matter, types do."""
    canonical = json.dumps(args, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Decision:
    """One usable answer. `name` and `args` are set for an edit, `message` for a rejection or a response."""

    choice: Choice
    message: str = ""
    name: str = ""
    args: dict[str, Any] | None = None


def ask(
    name: str,
    args: dict[str, Any],
    description: str,
    choices: Sequence[Choice],
    check_edit: Callable[[str, dict[str, Any]], None] | None = None,
) -> Decision:
    """Interrupt until a human has decided about the action `name(args)` in a usable way.

    `check_edit` raises UnusableAnswerError for an edited call that could not run.
    """
    problem = ""
    while True:
        answer = interrupt(question(name, args, problem + description, choices))
        try:
            decision = read_decision(answer, choices)
            if decision.choice == "edit" and check_edit is not None:
                check_edit(decision.name, decision.args or {})
        except UnusableAnswerError as unusable:
            problem = f"The last answer could not be used: {unusable}\n\n"
        else:
            return decision


def question(name: str, args: dict[str, Any], description: str, choices: Sequence[Choice]) -> dict[str, Any]:
    """The interrupt's value."""
    return {
        "action_requests": [{"name": name, "args": args, "description": description}],
        "review_configs": [{"action_name": name, "allowed_decisions": list(choices)}],
    }


def read_decision(answer: object, choices: Sequence[Choice]) -> Decision:
    """Read a resume value. Raises UnusableAnswerError unless it is exactly one allowed, complete decision."""
    given = _only_decision(answer)
    choice = given.get("type")
    if choice not in choices:
        _refuse(f"`type` must be one of {', '.join(choices)}, got {choice!r:.80}")
    if choice == "edit":
        return _read_edit(given.get("edited_action"))
    message = given.get("message")
    if message is not None and not isinstance(message, str):
        _refuse("`message` must be a text")
    if choice == "respond" and not message:
        _refuse("to respond, give the text in `message`")
    return Decision(cast("Choice", choice), message=message or "")


def _only_decision(answer: object) -> dict[str, Any]:
    if isinstance(answer, dict) and "decisions" in answer:
        decisions = answer["decisions"]
        if not isinstance(decisions, list) or len(decisions) != 1:
            _refuse("`decisions` must be a list with one decision, for the one action asked about")
        answer = decisions[0]
    if not isinstance(answer, dict):
        _refuse('expected {"decisions": [{"type": ...}]}')
    return cast("dict[str, Any]", answer)


def _read_edit(action: object) -> Decision:
    match action:
        case {"name": str() as name, "args": dict() as args}:
            return Decision("edit", name=name, args=args)
    return _refuse("to edit, give `edited_action` with `name` and `args`")


def _refuse(reason: str) -> NoReturn:
    raise UnusableAnswerError(reason)
