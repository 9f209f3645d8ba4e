"""Everything Holdfast raises, in one tree.

    HoldfastError
    ├── ProjectError            langgraph.json or a graph it names does not load
    ├── UnknownGraph            no such graph in this project
    ├── SettingsError           the environment asks for something that cannot be
    ├── DatabaseError
    │   ├── DatabaseUnavailable     no connection; the same call may succeed later
    │   │   └── OutcomeUnknown          Postgres crashed during a commit: it may or may not have happened
    │   └── Unsaveable              Postgres refuses the value itself; retrying cannot help
    ├── FenceLost               a newer claim owns the run: stop, write nothing more
    ├── UnserializableValue     a value that JSON cannot carry
    ├── EmbeddingFailed         the model behind the store's search by meaning did not answer as it should
    └── Refusal                 the caller asked for something that is answered with an error
        ├── Invalid                 422 malformed or contradictory request
        ├── BadRequest              400 well formed, but makes no sense here
        ├── Unauthenticated         401 no valid credential
        ├── Forbidden               403 a valid credential that may not do this
        ├── Missing                 404 no such thing, or not the caller's
        ├── Conflict                409 the thread's state does not allow it
        │   ├── Unreadable              a state whose bytes cannot be turned back into values
        │   ├── GraphChanged            the graph's code is no longer the one that the thread waits in
        │   └── StateLost               the thread had a state, and the checkpointer knows of none
        ├── TooLarge                413 body over the limit
        ├── Unsupported             501 what this server's checkpointer cannot do
        └── IssuerAway              503 tokens cannot be judged: their issuer's keys were never there

`api/problems.py` alone turns these into HTTP answers; driver errors become ours in `db/`.
"""

from __future__ import annotations

from collections.abc import Iterable


class HoldfastError(Exception):
    """Root of the tree."""


class ProjectError(HoldfastError):
    """The user's project does not load; the message names file and line where they are known."""


class UnknownGraph(HoldfastError):
    """A graph id that langgraph.json does not name."""

    def __init__(self, graph_id: str, known: Iterable[str]) -> None:
        super().__init__(f"Graph '{graph_id}' not found. Expected one of: {sorted(known)}")
        self.graph_id = graph_id


class SettingsError(HoldfastError):
    """The environment contradicts itself or asks for something unsafe."""


class DatabaseError(HoldfastError):
    """Postgres did not do what was asked."""


class DatabaseUnavailable(DatabaseError):
    """No usable connection to Postgres; the same call may succeed later."""


class OutcomeUnknown(DatabaseUnavailable):
    """Postgres crashed while a transaction was being committed, or stayed away: it may or may not have happened."""


class Unsaveable(DatabaseError):
    """Postgres refuses the value itself (too deep, too large); retrying cannot help."""


class FenceLost(HoldfastError):
    """The writer's claim has been superseded; nothing of this write took effect."""


class UnserializableValue(HoldfastError):
    """A value that cannot be carried as JSON."""


class EmbeddingFailed(HoldfastError):
    """No vectors, or not such vectors as the store was set up for."""


class Refusal(HoldfastError):
    """A request that is answered with an error; `status` is the HTTP status."""

    status = 400


class BadRequest(Refusal):
    status = 400


class Unauthenticated(Refusal):
    status = 401


class Forbidden(Refusal):
    status = 403


class Missing(Refusal):
    status = 404


class Conflict(Refusal):
    status = 409


class Unreadable(Conflict):
    """A stored value cannot be read; says which one. Nothing is overwritten, and nothing passes for empty."""


class GraphChanged(Conflict):
    """What a thread waits in is not in the graph any more; says what. The thread stays as it was."""


class StateLost(Conflict):
    """A thread had a state, and where checkpoints are kept there is none. The thread stays as it was."""


class TooLarge(Refusal):
    status = 413


class Invalid(Refusal):
    status = 422


class TooMany(Refusal):
    """A limit of the operator's is reached; it may be asked again after `retry_after` seconds."""

    status = 429

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unsupported(Refusal):
    """The checkpointer that langgraph.json asks for cannot do this."""

    status = 501


class IssuerAway(Refusal):
    """A token cannot be judged now: the keys of its issuer could not be fetched yet."""

    status = 503
