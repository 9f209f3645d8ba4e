"""The offline stand-in: what answers when no model is configured.

It is no language model and says so. It recognises a few phrasings (`plan`, a pure function), and everything
else about it is like the real thing: it streams token by token, calls tools, counts usage, so that the
whole server can be tried without a key.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

NAME = "holdfast-offline-stand-in"
NOTICE = (
    "I am Holdfast's offline stand-in, not a language model: set OPENAI_API_KEY (and OPENAI_BASE_URL, "
    "OPENAI_MODEL) to talk to a real one. "
)
_SKILLS = (
    'I can do arithmetic ("what is 6 * 7"), look things up ("look up threads"), fetch pages ("fetch '
    'https://example.com"), send messages ("send hello to Ada") and pay back ("refund 20 for order A7").'
)

# The patterns below backtrack; on a short text that costs nothing.
_LONGEST_REQUEST = 2_000
_PARTS = re.compile(r"\s*(?:;|,?\s+and\s+then\s+)\s*", re.IGNORECASE)
_POLITE = re.compile(r"^(?:please|can you|could you|now|then)\s+", re.IGNORECASE)
_SEND = re.compile(r"^send\s+(?P<body>.+)\s+to\s+(?P<recipient>.+?)[.!]?$", re.IGNORECASE | re.DOTALL)
_FETCH = re.compile(r"^(?:fetch|read)\s+(?P<url>https?://\S+)$", re.IGNORECASE)
_REFUND = re.compile(r"^refund\s+(?P<amount>\d{1,9}(?:\.\d{1,2})?)\s+for\s+order\s+(?P<order>\S+)$", re.IGNORECASE)
_ASK = re.compile(
    r"^(?:calculate|compute|work out|how much is|what is|what's|what are|look up|lookup|explain"
    r"|tell me about)\s+(?P<topic>.+?)[?.!]*$",
    re.IGNORECASE | re.DOTALL,
)
_ARITHMETIC = re.compile(r"^[\d\s.+\-*/%()^\u00d7\u00f7]*\d\s*[+\-*/%^\u00d7\u00f7][\d\s.+\-*/%()^\u00d7\u00f7]*$")
_GREETING = re.compile(r"^(?:hi|hello|hey|good (?:morning|afternoon|evening))\b", re.IGNORECASE)
_MARKED = re.compile(r'<untrusted source="[^"]*">\n(.*)\n</untrusted>', re.DOTALL)
_TOKEN = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True)
class Reply:
    """What to say next: a text, tool calls (name and arguments), or both."""

    text: str
    calls: Sequence[tuple[str, dict[str, Any]]] = ()


def plan(messages: Sequence[BaseMessage], tools: Collection[str]) -> Reply:
    """The next answer in the conversation, using only the named tools. Pure."""
    notice = "" if any(isinstance(message, AIMessage) for message in messages) else NOTICE
    if results := _results_since_the_question(messages):
        return Reply(notice + _report(messages, results))
    question = next((_bare(message) for message in reversed(messages) if isinstance(message, HumanMessage)), "")
    if len(question) > _LONGEST_REQUEST:
        return Reply(f"{notice}That is more than I can read. {_SKILLS}")
    calls = [call for part in _PARTS.split(question.strip()) if (call := _call_for(part)) and call[0] in tools]
    return Reply(notice, calls) if calls else Reply(notice + _small_talk(question))


def _results_since_the_question(messages: Sequence[BaseMessage]) -> list[ToolMessage]:
    results: list[ToolMessage] = []
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            break
        if isinstance(message, ToolMessage):
            results.insert(0, message)
    return results


def _report(messages: Sequence[BaseMessage], results: Sequence[ToolMessage]) -> str:
    asked = {call["id"]: call for message in messages if isinstance(message, AIMessage) for call in message.tool_calls}
    return " ".join(_sentence(asked.get(result.tool_call_id), result) for result in results)


def _sentence(call: Any, result: ToolMessage) -> str:
    name = call["name"] if call else (result.name or "the tool")
    if result.status == "error":
        return f"{name} did not work out: {_bare(result)}"
    if name == "calculator" and call:
        return f"{call['args'].get('expression')} = {_bare(result)}."
    if name == "lookup_knowledge":
        return f"My notes say: {_bare(result)}"
    return _bare(result)


def _bare(message: BaseMessage) -> str:
    """The text without the delimiters that mark it as somebody else's."""
    marked = _MARKED.fullmatch(message.text)
    return marked[1] if marked else str(message.text)


def _call_for(part: str) -> tuple[str, dict[str, Any]] | None:
    request = _POLITE.sub("", part.strip())
    if sending := _SEND.match(request):
        return "send_message", {"recipient": sending["recipient"].strip(), "body": sending["body"].strip()}
    if fetching := _FETCH.match(request):
        return "fetch_page", {"url": fetching["url"]}
    if refunding := _REFUND.match(request):
        return "refund", {"order": refunding["order"], "amount": float(refunding["amount"])}
    asking = _ASK.match(request)
    topic = asking["topic"].strip() if asking else request.rstrip("?=. ")
    if _ARITHMETIC.match(topic):
        return "calculator", {"expression": topic.replace("^", "**").replace("\u00d7", "*").replace("\u00f7", "/")}
    return ("lookup_knowledge", {"query": topic}) if asking else None


def _small_talk(text: str) -> str:
    if not text.strip():
        return f"You said nothing. {_SKILLS}"
    if _GREETING.match(text.strip()):
        return f"Hello! {_SKILLS}"
    return f'You said: "{text.strip()}". {_SKILLS}'


class OfflineStandIn(BaseChatModel):
    """A streaming chat model that runs `plan`. `token_seconds`: the pause before each token."""

    streaming: bool = True
    token_seconds: float = 0.0

    @property
    def _llm_type(self) -> str:
        return NAME

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,  # noqa: ARG002 - scripted skills have no use for it
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools; `tool_choice` is accepted and makes no difference."""
        return self.bind(tools=[convert_to_openai_tool(offered) for offered in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - a fixed signature
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _chunks(messages, kwargs):
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - a fixed signature
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks(messages, kwargs):
            # Even at 0 this gives way, as a network would: one thread's answer never holds up another's.
            await asyncio.sleep(self.token_seconds)
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def _chunks(messages: list[BaseMessage], options: dict[str, Any]) -> Iterator[ChatGenerationChunk]:
    tools = [offered["function"]["name"] for offered in options.get("tools", [])]
    reply = plan(messages, tools)
    tokens = _TOKEN.findall(reply.text)
    for token in tokens:
        yield ChatGenerationChunk(message=AIMessageChunk(content=token))
    written = len(tokens)
    for index, (name, args) in enumerate(reply.calls):
        pieces = _TOKEN.findall(json.dumps(args))
        written += len(pieces)
        yield _call_chunk(index, name, pieces[0], f"call_{uuid.uuid4().hex}")
        for piece in pieces[1:]:
            yield _call_chunk(index, None, piece, None)
    yield _last_chunk(sum(len(str(message.content)) for message in messages) // 4, written, bool(reply.calls))


def _call_chunk(index: int, name: str | None, args: str, call_id: str | None) -> ChatGenerationChunk:
    chunk = tool_call_chunk(name=name, args=args, id=call_id, index=index)
    return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[chunk]))


def _last_chunk(read: int, written: int, calls: bool) -> ChatGenerationChunk:
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content="",
            response_metadata={"model_name": NAME, "finish_reason": "tool_calls" if calls else "stop"},
            usage_metadata=UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written),
            chunk_position="last",
        )
    )
