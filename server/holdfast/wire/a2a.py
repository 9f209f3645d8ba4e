"""Runs as A2A tasks: messages into input and answers, outcomes into artifacts and states.

Imports the official SDK, which is slow to load: only `api/a2a_tasks.py` imports this module, when it is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from a2a.helpers.proto_helpers import new_message, new_text_message
from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    APIKeySecurityScheme,
    Artifact,
    Message,
    Part,
    Role,
    SecurityRequirement,
    SecurityScheme,
    StringList,
    Task,
    TaskState,
    TaskStatus,
)
from a2a.utils.errors import ContentTypeNotSupportedError
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError  # type: ignore[import-untyped]
from google.protobuf.struct_pb2 import Value  # type: ignore[import-untyped]
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]

from holdfast.errors import Invalid, Missing
from holdfast.wire import codec

ANSWER = "answer"
"""The id of the artifact that holds what the agent answered."""

INTERRUPT = "interrupt"
"""The id of the artifact that holds what the agent asks."""

STATES: Mapping[str, TaskState] = {
    "submitted": TaskState.TASK_STATE_SUBMITTED,
    "working": TaskState.TASK_STATE_WORKING,
    "input-required": TaskState.TASK_STATE_INPUT_REQUIRED,
    "completed": TaskState.TASK_STATE_COMPLETED,
    "failed": TaskState.TASK_STATE_FAILED,
    "canceled": TaskState.TASK_STATE_CANCELED,
}
IN_PROGRESS = frozenset({"submitted", "working"})

RECENT_MESSAGES = 20
"""Messages of a task's history for clients that do not say how many they want."""


def task_id(thread_id: UUID, run_id: UUID) -> str:
    return f"{thread_id}:{run_id}"


def parse_task_id(text: str) -> tuple[UUID, UUID]:
    """Thread and run of a task.

    Raises:
        Missing: no task has such an id.
    """
    thread_id, _, run_id = text.partition(":")
    try:
        return UUID(thread_id), UUID(run_id)
    except ValueError:
        raise Missing(f"Task {text[:100]} not found") from None


def page_token(row: Mapping[str, Any]) -> str:
    """Where a page that ends with this task ends."""
    return f"{row['updated_at'].isoformat()}/{row['task_id']}"


def parse_page_token(token: str) -> tuple[datetime, UUID]:
    """The place that a token stands for.

    Raises:
        Invalid: it is none of ours.
    """
    time, _, run_id = token.partition("/")
    try:
        return datetime.fromisoformat(time), UUID(run_id)
    except ValueError:
        raise Invalid("pageToken is not one that was given out") from None


def state_name(state: TaskState) -> str | None:
    """A state as it stands in a task's row; None for any. States that no run can be in are names that match nothing."""
    if state == TaskState.TASK_STATE_UNSPECIFIED:
        return None
    return next((name for name, known in STATES.items() if known == state), "none")


def moment(timestamp: Timestamp) -> datetime:
    """A timestamp of the SDK's.

    Raises:
        Invalid: out of range.
    """
    try:
        found: datetime = timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise Invalid("statusTimestampAfter is out of range") from None
    return found


def run_input(parts: Iterable[Part], channels: Collection[str]) -> dict[str, Any]:
    """A message as the input of a graph with these input channels.

    A data part that is an object of the graph's channels is input as it is. Everything else is text of one user
    message, for graphs that have messages.

    Raises:
        ContentTypeNotSupportedError: a file.
        Invalid: text for a graph without messages.
    """
    given: dict[str, Any] = {}
    said: list[str] = []
    for part in parts:
        value = part_value(part)
        if isinstance(value, dict) and (value.keys() <= set(channels) or "messages" not in channels):
            given |= value
        else:
            said.append(value if isinstance(value, str) else codec.dumps(value).decode())
    if said and "messages" not in channels:
        expected = f" with {', '.join(sorted(channels))}" if channels else ""
        raise Invalid(f"This agent takes no text: send its input as one data part, an object{expected}.")
    if said:
        message = {"role": "user", "content": "\n".join(said)}
        earlier = given.get("messages", [])
        given["messages"] = [*(earlier if isinstance(earlier, list) else [earlier]), message]
    return given


def answer_value(parts: Iterable[Part]) -> Any:
    """A message as the answer to what an agent asked: text, or the value of a data part.

    Raises:
        Invalid: several values, or nothing at all.
    """
    values = [part_value(part) for part in parts]
    if values and all(isinstance(value, str) for value in values):
        return "\n".join(values)
    if len(values) != 1 or values[0] is None:
        raise Invalid("Answer with text, or with one data part that is not null.")
    return values[0]


def part_value(part: Part) -> Any:
    """Text, or the JSON value of a data part.

    Raises:
        ContentTypeNotSupportedError: a file.
        Invalid: nothing at all.
    """
    kind = part.WhichOneof("content")
    if kind == "text":
        return part.text
    if kind == "data":
        return _whole(MessageToDict(part.data))
    if kind is None:
        raise Invalid("A part needs content: text or data.")
    raise ContentTypeNotSupportedError("Only text and data parts are supported.")


def task_view(row: Mapping[str, Any], output: Any = None) -> Task:
    """A task; `output` is the graph's, once there is one."""
    thread_id, run_id = row["thread_id"], row["task_id"]
    task = Task(id=task_id(thread_id, run_id), context_id=str(thread_id), status=TaskStatus(state=STATES[row["state"]]))
    task.status.timestamp.FromDatetime(row["updated_at"])
    if row["state"] == "input-required":
        asked = question_parts([question for asked in row["interrupts"].values() for question in asked])
        task.status.message.CopyFrom(_agent_message(task, row, asked))
        task.artifacts.append(Artifact(artifact_id=INTERRUPT, name="Interrupt", parts=asked))
    elif row["state"] == "failed":
        error = row["error"] or {}
        words = f"{error.get('error', 'Error')}: {error.get('message', 'The run failed.')}"
        task.status.message.CopyFrom(_agent_message(task, row, [Part(text=words)]))
    elif row["state"] == "completed" and output is not None:
        task.artifacts.append(Artifact(artifact_id=ANSWER, name="Answer", parts=[answer_part(output)]))
    messages = output.get("messages") if isinstance(output, dict) else None
    if isinstance(messages, list):
        task.history.extend(_history(task, messages))
    return task


def answer_part(output: Any) -> Part:
    """What a graph put out: the text of its last message, or all of it as data."""
    messages = output.get("messages") if isinstance(output, dict) else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, dict) and last.get("type") == "ai" and (text := message_text(last)):
        return Part(text=text)
    return _data(output)


def question_parts(interrupts: list[Any]) -> list[Part]:
    """What a graph asks: the questions in words, and as data with their ids."""
    values = [question["value"] for question in interrupts]
    words = "\n".join(value if isinstance(value, str) else codec.dumps(value).decode() for value in values)
    return [Part(text=words or "The agent stopped at a breakpoint."), _data({"interrupts": interrupts})]


def message_text(message: Mapping[str, Any]) -> str:
    """The text in a message's content, which may be blocks."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = (block if isinstance(block, str) else block.get("text") for block in blocks)
    return "".join(text for text in texts if isinstance(text, str))


def card(assistant: Mapping[str, Any], url: str, version: str, *, with_key: bool) -> AgentCard:
    """What an assistant says of itself; `url` is where it takes messages, in both generations of the protocol."""
    about = assistant["description"] or f"The agent {assistant['name']}."
    modes = ["text/plain", "application/json"]
    found = AgentCard(
        name=assistant["name"],
        description=about,
        version=version,
        capabilities=AgentCapabilities(streaming=True, push_notifications=False),
        default_input_modes=modes,
        default_output_modes=modes,
        supported_interfaces=[
            AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version=protocol)
            for protocol in ("1.0", "0.3")
        ],
        skills=[AgentSkill(id=assistant["graph_id"], name=assistant["name"], description=about, tags=["langgraph"])],
    )
    if with_key:
        scheme = SecurityScheme(api_key_security_scheme=APIKeySecurityScheme(location="header", name="x-api-key"))
        found.security_schemes["apiKey"].CopyFrom(scheme)
        found.security_requirements.append(SecurityRequirement(schemes={"apiKey": StringList()}))
    return found


def _agent_message(task: Task, row: Mapping[str, Any], parts: list[Part]) -> Message:
    message = new_message(parts, context_id=task.context_id, task_id=task.id)
    # The same words have the same id, whenever they are read.
    message.message_id = str(uuid5(row["run_id"], row["state"]))
    return message


def _history(task: Task, messages: list[Any]) -> list[Message]:
    said: list[Message] = []
    for message in messages[-RECENT_MESSAGES:]:
        role = {"human": Role.ROLE_USER, "ai": Role.ROLE_AGENT}.get(message.get("type"))
        if role is not None and (text := message_text(message)):
            entry = new_text_message(text, context_id=task.context_id, task_id=task.id, role=role)
            entry.message_id = str(message.get("id") or entry.message_id)
            said.append(entry)
    return said


def _data(value: Any) -> Part:
    """A data part; as JSON text where the SDK's data cannot hold the value (nested too deeply, a number too large)."""
    try:
        return Part(data=ParseDict(value, Value()), media_type="application/json")
    except (ParseError, OverflowError, ValueError):
        return Part(text=codec.dumps(value).decode(), media_type="application/json")


def _whole(value: Any) -> Any:
    """Every number is a float in the SDK's data; one without a fraction was sent as an integer."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value
