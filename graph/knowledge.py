"""A few notes to look things up in, scored by the words they share with the question."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WORD = re.compile(r"[a-z0-9]+")
_EVERYDAY = frozenset(
    {"a", "about", "an", "and", "are", "do", "does", "for", "how", "in", "is", "it", "me", "of", "on", "or"}
    | {"tell", "the", "to", "what", "when", "which", "who"}
)
_TITLE_WEIGHT = 3


@dataclass(frozen=True, slots=True)
class Note:
    """One thing known: a title and a few sentences."""

    title: str
    text: str


NOTES = (
    Note(
        "Holdfast",
        "Holdfast is an open agent server for LangGraph. It serves the graphs named in a langgraph.json "
        "over the HTTP API of the LangGraph SDKs, and keeps everything in one Postgres.",
    ),
    Note(
        "Threads",
        "A thread is one conversation. Its state is saved as a checkpoint after every step, so it can be "
        "continued, inspected, or forked from any earlier point.",
    ),
    Note(
        "Runs",
        "A run is one execution of a graph on a thread. At most one run of a thread is running at a time; "
        "a run whose process dies is taken over and goes on from the last checkpoint.",
    ),
    Note(
        "Interrupts and approvals",
        "An interrupt stops a graph and asks a human. Nothing waits in memory: the question is in the "
        "checkpoint, and the answer is a new run that resumes exactly that question, once.",
    ),
    Note(
        "Checkpoints and time travel",
        "Every superstep of a LangGraph graph ends in a checkpoint. Running from an older checkpoint "
        "forks the thread there and leaves the original history as it was.",
    ),
    Note(
        "Streaming",
        "A run streams server-sent events: state values, node updates, and the model's tokens. A client "
        "that lost its connection joins again with the id of the last event that it saw.",
    ),
    Note(
        "LangGraph",
        "LangGraph builds agents as graphs: nodes are functions over a shared state, edges decide what "
        "runs next, and Send starts several tasks at once.",
    ),
    Note(
        "Idempotency keys",
        "A tool with a side effect gets a key made of the thread and the tool call. Called again with the "
        "same key, it reports the first outcome instead of acting twice.",
    ),
)


def look_up(query: str, limit: int = 2) -> list[Note]:
    """The notes that share most words with `query`, best first; empty if none shares any."""
    asked = _words(query)
    scored = [(_score(asked, note), note) for note in NOTES]
    # A note that fits half as well as the best one answers another question.
    enough = max(1, max(score for score, _ in scored) // 2 + 1)
    # The sort is stable: among equals the order of NOTES decides, so an answer never varies.
    best = sorted((pair for pair in scored if pair[0] >= enough), key=lambda pair: -pair[0])
    return [note for _, note in best[:limit]]


def _score(asked: frozenset[str], note: Note) -> int:
    return _TITLE_WEIGHT * len(asked & _words(note.title)) + len(asked & _words(note.text))


def _words(text: str) -> frozenset[str]:
    # A plural is the same word, and nothing more is claimed for this stemming.
    return frozenset(word.removesuffix("s") for word in _WORD.findall(text.lower()) if word not in _EVERYDAY)
