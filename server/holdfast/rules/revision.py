"""What a graph is made of, as far as its threads depend on it, and what a change of it breaks.

    the thread waits in a node that is gone            whoever goes on with it finds nothing to do: the question is lost
    a channel is gone                                  its value would be missing in the next checkpoint
    a channel's type no longer takes what it held      nodes would get what they do not expect
    a delta channel became a plain one                 the stored writes would not be put together: it reads empty

All of them stop who goes on with a thread: an answer, a continuation, a recovered run. New input leaves what was
pending behind, as on any thread, and is stopped by the last one only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

DELTA = "DeltaChannel"
_WHOLE = frozenset({"LastValue", "BinaryOperatorAggregate"})
"""Kinds that store the value itself, so that one reads what the other wrote."""


@dataclass(frozen=True)
class Revision:
    """Nodes, and channels as `Kind[type]`; the types of a union are sorted and joined by `|`."""

    nodes: Sequence[str]
    channels: Mapping[str, str]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits."""
        told = json.dumps([sorted(self.nodes), sorted(self.channels.items())], ensure_ascii=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]


UNKNOWN = Revision((), {})
"""Of a state that says nothing about the graph that wrote it."""


def lost(then: Revision, now: Revision) -> list[str]:
    """What of a state written under `then` the graph of `now` would silently read as empty."""
    return [
        f"channel '{name}' was a {DELTA} and is a {_kind(now.channels[name])} now"
        for name, kind in sorted(then.channels.items())
        if _kind(kind) == DELTA and _kind(now.channels.get(name, DELTA)) != DELTA
    ]


def broken(then: Revision, now: Revision, waiting: Collection[str]) -> list[str]:
    """What keeps a thread that waits in these nodes from going on; nothing, where it waits in none."""
    if not waiting:
        return []
    findings = [f"node '{name}' is gone, and the thread waits in it" for name in sorted(set(waiting) - set(now.nodes))]
    for name, kind in sorted(then.channels.items()):
        if name not in now.channels:
            findings.append(f"channel '{name}' ({kind}) is gone")
        elif not _takes(now.channels[name], kind):
            findings.append(f"channel '{name}' was {kind} and is {now.channels[name]} now")
    return findings


def _takes(now: str, then: str) -> bool:
    kinds = {_kind(now), _kind(then)}
    if len(kinds) > 1 and not kinds <= _WHOLE and _kind(now) != DELTA:
        return False
    return "Any" in (taken := _types(now)) or _types(then) <= taken


def _kind(channel: str) -> str:
    return channel.partition("[")[0]


def _types(channel: str) -> set[str]:
    return set(channel.partition("[")[2].removesuffix("]").split("|"))
