"""Which failure is which, and what to do about it.

A failure is classified by structured facts only, the most telling one first: the provider's error code, the
HTTP status, the exception's type. Never by a word in a message: messages are written for people and change.
Types are named, not imported, so that classifying costs no import of an SDK that is not in use; the name is
the top-level package and the class, which also covers both generations of httpx.

LangGraph's default retry predicate is not used: it retries a 401 and gives up on a timeout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from langgraph.errors import GraphBubbleUp

from graph.ledger import NothingHappenedError

FailureClass = Literal[
    "rate_limit",
    "timeout",
    "auth",
    "tool_failure",
    "output_parsing",
    "context_length",
    "service_unavailable",
    "connection",
    "business_validation",
    "system",
]
Reaction = Literal["retry", "retry_smaller", "reparse", "compact", "alert", "feed_back", "fail"]
"""A2: retry with backoff | the same, from the second time on by a cheaper model | read it leniently, then retry | make
the prompt shorter and retry | stop and tell an operator | tell the model (a tool) or the user (an input) | stop."""


class BusinessRuleError(NothingHappenedError, ValueError):
    """A tool refuses on purpose: the call is well formed, but not allowed. The text is for the model."""


class AnswerCutShortError(ConnectionError):
    """The model's stream ended without saying that it had finished; what came so far is no answer."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What one class of failure leads to.

    `retries`: further supersteps that a failed model call gets. `in_step`: is a quick second attempt inside
    the step worth it. `elsewhere`: may another model, key or provider succeed where this one failed. `words`: the plain
    sentence for the user. A failed *tool* call is always fed back to the model, whatever its class, because the model
    (and the user) can choose another way; a superstep is never repeated for it.
    """

    reaction: Reaction
    words: str
    retries: int = 0
    in_step: bool = False
    elsewhere: bool = False


POLICIES: Mapping[FailureClass, Policy] = {
    "rate_limit": Policy("retry", "the model's service is limiting how often it may be asked", 3, elsewhere=True),
    "timeout": Policy("retry_smaller", "the model's service took too long to answer", 2, elsewhere=True),
    "connection": Policy("retry", "the connection to the model's service failed", 3, in_step=True, elsewhere=True),
    "service_unavailable": Policy("retry", "the model's service is not available", 3, in_step=True, elsewhere=True),
    "output_parsing": Policy("reparse", "the model's answer could not be read", 2),
    "context_length": Policy("compact", "this conversation has become too long for the model", 2),
    "auth": Policy("alert", "the model's service did not accept our credentials or quota", elsewhere=True),
    "tool_failure": Policy("feed_back", "a tool failed"),
    "business_validation": Policy("feed_back", "the request cannot be carried out as it was made"),
    "system": Policy("fail", "something is wrong in the program itself"),
}

_BY_CODE: Mapping[str, FailureClass] = {
    "insufficient_quota": "auth",
    "invalid_api_key": "auth",
    "context_length_exceeded": "context_length",
}

_BY_STATUS: Mapping[int, FailureClass] = {
    401: "auth",
    402: "auth",
    403: "auth",
    407: "auth",
    408: "timeout",
    413: "context_length",
    425: "service_unavailable",
    429: "rate_limit",
    504: "timeout",
}

_BY_TYPE: Mapping[str, FailureClass] = {
    f"{__name__.partition('.')[0]}.{NothingHappenedError.__name__}": "business_validation",
    "builtins.ConnectionError": "connection",
    "builtins.TimeoutError": "timeout",
    "httpx.TimeoutException": "timeout",
    "httpx.TransportError": "connection",
    "httpx2.TimeoutException": "timeout",
    "httpx2.TransportError": "connection",
    "json.JSONDecodeError": "output_parsing",
    "langchain_core.ContextOverflowError": "context_length",
    "langchain_core.ModelAPIError": "service_unavailable",
    "langchain_core.ModelAuthenticationError": "auth",
    "langchain_core.ModelConnectionError": "connection",
    "langchain_core.ModelPermissionDeniedError": "auth",
    "langchain_core.ModelRateLimitError": "rate_limit",
    "langchain_core.ModelTimeoutError": "timeout",
    "langchain_core.OutputParserException": "output_parsing",
    "langchain_core.ToolException": "tool_failure",
    "langgraph.NodeTimeoutError": "timeout",
    "openai.APIConnectionError": "connection",
    "openai.APIError": "service_unavailable",
    "openai.APITimeoutError": "timeout",
    "pydantic_core.ValidationError": "output_parsing",
}


def classify(error: BaseException | str) -> FailureClass:
    """Name the class of a failure.

    After a crash between a failure and its handler, LangGraph hands over only the text of the exception. The
    facts are gone then, and another attempt is the one reaction that is never wrong for a model call.

    Raises: the error itself if it is LangGraph's control flow (an interrupt, a drain), which is no failure.
    """
    if isinstance(error, GraphBubbleUp):
        raise error
    if isinstance(error, str):
        return "service_unavailable"
    code = getattr(error, "code", None)
    if isinstance(code, str) and code in _BY_CODE:
        return _BY_CODE[code]
    return _by_type(error, "context_length") or _by_status(error) or _by_type(error) or "system"


def _by_type(error: BaseException, only: FailureClass | None = None) -> FailureClass | None:
    for cls in type(error).__mro__:
        found = _BY_TYPE.get(f"{cls.__module__.partition('.')[0]}.{cls.__name__}")
        if found and only in (None, found):
            return found
    return None


def _by_status(error: BaseException) -> FailureClass | None:
    status = http_status(error)
    if status is None:
        return None
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    # Any other 4xx says that the request itself is wrong, and sending it again would not mend it.
    return "service_unavailable" if status >= 500 else "system"


def http_status(error: BaseException) -> int | None:
    """The HTTP status that the error carries, itself or in its response."""
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if isinstance(status, int) and status >= 400:
            return status
    return None


def is_worth_a_quick_retry(error: Exception) -> bool:
    """The predicate of the model node's RetryPolicy: hiccups only, what needs waiting is a superstep."""
    return not isinstance(error, GraphBubbleUp) and POLICIES[classify(error)].in_step


def retry_after(error: BaseException | str) -> float | None:
    """The seconds that the other side asked us to wait (Retry-After as seconds or as a date), if it did."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    value = headers.get("retry-after") if headers is not None else None
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        return _seconds_until(value)


def _seconds_until(http_date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(http_date)
    except ValueError:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def describe(error: BaseException | str, failure_class: FailureClass) -> str:
    """A short technical text: type, status, and the message where it cannot hold a credential."""
    if isinstance(error, str):
        return error[:300]
    status = http_status(error)
    name = type(error).__name__ if status is None else f"{type(error).__name__} (HTTP {status})"
    return name if failure_class == "auth" else f"{name}: {str(error)[:300]}".rstrip(": ")
