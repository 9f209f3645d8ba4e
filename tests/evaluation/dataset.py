"""The data set: conversations as JSON, read strictly, so that a misspelt check is no check that always passes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, ValidationError, model_validator

from tests.evaluation.checks import KINDS, Check, Mode

CONVERSATIONS = Path(__file__).parent / "conversations.json"


class DataSetError(ValueError):
    """The file is no data set; the text says where and why."""


def _read_check(given: object) -> Check:
    if isinstance(given, dict):
        kinds = [key for key in given if key in KINDS]
        if len(kinds) == 1 and not set(given) - {*kinds, "only"} and given.get("only") in (None, "offline", "real"):
            (kind,) = kinds
            KINDS[kind].wanted.validate_python(given[kind])
            return Check(kind, given[kind], given.get("only"))
    raise ValueError(f"a check has one of {', '.join(KINDS)}, and perhaps `only`; got {given!r:.200}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Decision(_Strict):
    """An answer to a question: `about` is what tells it from other pending ones, by its arguments."""

    type: Literal["approve", "edit", "reject", "respond"]
    about: dict[str, JsonValue] = {}
    tool: str | None = None
    args: dict[str, JsonValue] | None = None
    message: str | None = None


class Turn(_Strict):
    """One run: what the user says (`times` over), a raw `input`, a decision, or a raw `resume`; and its checks."""

    say: str | None = None
    times: int = 1
    input: JsonValue = None
    decide: Decision | None = None
    resume: JsonValue = None
    checks: tuple[Annotated[Check, BeforeValidator(_read_check)], ...] = ()

    @model_validator(mode="after")
    def sends_one_thing(self) -> Self:
        """Refuse a turn with none of the four, or several."""
        if len(self.model_fields_set & {"say", "input", "decide", "resume"}) != 1:
            raise ValueError("a turn has exactly one of say, input, decide, resume")
        return self

    @property
    def answers(self) -> bool:
        """Is this an answer to a question?"""
        return self.decide is not None or "resume" in self.model_fields_set

    @property
    def brief(self) -> str:
        """What is sent, in one short line."""
        sent: Any = self.say if self.say is not None else self.decide or self.resume or self.input
        text = sent if isinstance(sent, str) else self.decide.type if self.decide else repr(sent)
        return f"{text[:60]!r}" + (f" x {self.times}" if self.times > 1 else "")


class Conversation(_Strict):
    """Turns on one thread."""

    name: str
    turns: tuple[Turn, ...]
    only: Mode | None = None


class DataSet(_Strict):
    """All conversations; the version says which reports can be compared."""

    version: int
    assistant: str = "agent"
    conversations: tuple[Conversation, ...]

    @model_validator(mode="after")
    def names_are_unique(self) -> Self:
        """Refuse two conversations of one name."""
        names = [each.name for each in self.conversations]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two conversations are called {', '.join(sorted(twice))}")
        return self


def read(file: Path) -> DataSet:
    """The data set in `file`. Raises DataSetError."""
    try:
        return DataSet.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataSetError(f"{file}: {error}") from error
