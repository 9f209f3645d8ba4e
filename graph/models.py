"""Which chat model answers. The environment is read when a model is asked for, not when this is imported.

| variable | |
|---|---|
| OPENAI_API_KEY | set = an OpenAI model, or any server that speaks the same API |
| OPENAI_BASE_URL | where that server is |
| OPENAI_MODEL | its model, default `gpt-4o-mini` |
| CHAT_MODEL | `provider:model` of another provider, through LangChain's `init_chat_model`; comes first |
| OFFLINE_TOKEN_SECONDS | the stand-in's pause before each token, default 0 |

With neither a key nor CHAT_MODEL, the offline stand-in answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from langchain_core.language_models import BaseChatModel

from graph.standin import OfflineStandIn
from graph.state import Context

DEFAULT_MODEL = "gpt-4o-mini"
REQUEST_SECONDS = 60.0

ModelFactory = Callable[[Context], BaseChatModel]


def chat_model(context: Context) -> BaseChatModel:
    """The model for a run. Slow the first time (imports an SDK, reads certificates): call it in a thread.

    The SDKs' own retries are off: LangGraph retries, where it can be seen.
    """
    if name := os.environ.get("CHAT_MODEL"):
        from langchain.chat_models import init_chat_model

        return init_chat_model(context.model or name, temperature=context.temperature, max_retries=0)
    if os.environ.get("OPENAI_API_KEY"):
        return _openai(context)
    return OfflineStandIn(token_seconds=float(os.environ.get("OFFLINE_TOKEN_SECONDS") or 0), streaming=True)


def _openai(context: Context) -> BaseChatModel:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model=context.model or os.environ.get("OPENAI_MODEL") or DEFAULT_MODEL,
        base_url=os.environ.get("OPENAI_BASE_URL") or None,
        temperature=context.temperature,
        streaming=True,
        stream_usage=True,
        timeout=REQUEST_SECONDS,
        max_retries=0,
        # What "OpenAI-compatible" servers have in common is the chat completions API.
        use_responses_api=False,
    )
