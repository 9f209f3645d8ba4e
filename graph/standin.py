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
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.chat_models import agenerate_from_stream
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
_REQUESTS: Mapping[str, re.Pattern[str]] = {
    "send_message": re.compile(r"^send\s+(?P<body>.+)\s+to\s+(?P<recipient>.+?)[.!]?$", re.IGNORECASE | re.DOTALL),
    "fetch_page": re.compile(r"^(?:fetch|read)\s+(?P<url>https?://\S+)$", re.IGNORECASE),
    "refund": re.compile(r"^refund\s+(?P<amount>\d{1,9}(?:\.\d{1,2})?)\s+for\s+order\s+(?P<order>\S+)$", re.IGNORECASE),
}
"""What is asked of which tool; the groups are its arguments."""
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
    asked = max((index for index, message in enumerate(messages) if isinstance(message, HumanMessage)), default=-1)
    if results := [message for message in messages[asked + 1 :] if isinstance(message, ToolMessage)]:
        calls = {
            call["id"]: call for message in messages if isinstance(message, AIMessage) for call in message.tool_calls
        }
        return Reply(notice + " ".join(_sentence(calls.get(result.tool_call_id), result) for result in results))
    question = _bare(messages[asked]) if asked >= 0 else ""
    if len(question) > _LONGEST_REQUEST:
        return Reply(f"{notice}That is more than I can read. {_SKILLS}")
    wanted = [call for part in _PARTS.split(question.strip()) if (call := _call_for(part)) and call[0] in tools]
    return Reply(notice, wanted) if wanted else Reply(notice + _small_talk(question))


def _sentence(call: Any, result: ToolMessage) -> str:
    name = call["name"] if call else (result.name or "the tool")
    if result.status == "error":
        return f"{name} did not work out: {_bare(result)}"
    if name == "calculator" and call:
        return f"{call['args'].get('expression')} = {_bare(result)}."
    return f"My notes say: {_bare(result)}" if name == "lookup_knowledge" else _bare(result)


def _bare(message: BaseMessage) -> str:
    """The text without the delimiters that mark it as somebody else's."""
    marked = _MARKED.fullmatch(message.text)
    return marked[1] if marked else str(message.text)


def _call_for(part: str) -> tuple[str, dict[str, Any]] | None:
    request = _POLITE.sub("", part.strip())
    for name, pattern in _REQUESTS.items():
        if match := pattern.match(request):
            said = match.groupdict()
            return name, {key: float(text) if key == "amount" else text.strip() for key, text in said.items()}
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


class StreamingModel(BaseChatModel):
    """A chat model that streams, and is asynchronous only."""

    streaming: bool = True

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools, in the shape that every provider's `bind_tools` takes."""
        return self.bind(tools=[convert_to_openai_tool(offered) for offered in tools], **kwargs)

    async def _agenerate(self, *args: Any, **options: Any) -> ChatResult:
        return await agenerate_from_stream(self._astream(*args, **options))

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError("this model is asynchronous only: use ainvoke or astream")


class OfflineStandIn(StreamingModel):
    """Answers as `plan` says. `token_seconds`: the pause before each token."""

    token_seconds: float = 0.0

    @property
    def _llm_type(self) -> str:
        return NAME

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **options: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for message in _spoken(messages, [offered["function"]["name"] for offered in options.get("tools", [])]):
            # Even at 0 this gives way, as a network would: one thread's answer never holds up another's.
            await asyncio.sleep(self.token_seconds)
            yield ChatGenerationChunk(message=message)


def _spoken(messages: Sequence[BaseMessage], tools: Collection[str]) -> Iterator[AIMessageChunk]:
    reply = plan(messages, tools)
    tokens = _TOKEN.findall(reply.text)
    for token in tokens:
        yield AIMessageChunk(content=token)
    for index, (name, args) in enumerate(reply.calls):
        call = tool_call_chunk(name=name, args=json.dumps(args), id=f"call_{uuid.uuid4().hex}", index=index)
        yield AIMessageChunk(content="", tool_call_chunks=[call])
    read, written = sum(len(str(message.content)) for message in messages) // 4, len(tokens) + 8 * len(reply.calls)
    yield AIMessageChunk(
        content="",
        response_metadata={"model_name": NAME, "finish_reason": "tool_calls" if reply.calls else "stop"},
        usage_metadata=UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written),
        chunk_position="last",
    )
