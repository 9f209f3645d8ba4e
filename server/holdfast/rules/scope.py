"""Scopes: what a credential is good for, as a table.

Which rows a caller sees is decided by whom they are (`rules/caller.py`); a scope says what they may do with those. What
the table does not name needs `admin`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum


class Scope(StrEnum):
    READ = "read"
    """See threads, runs, assistants, crons, approvals, items of the store."""
    WRITE = "write"
    """Make, change and delete them; threads' states, too."""
    RUN = "run"
    """Start runs, let them go on, cancel them."""
    APPROVE = "approve"
    """Answer what graphs ask."""
    APPROVE_ALL = "approve:all"
    """See and answer what is asked on anybody's threads, and nothing else of them."""
    ADMIN = "admin"
    """All of these, and change the assistants that belong to everybody."""


ALL = frozenset(Scope)
USUAL = ALL - {Scope.ADMIN, Scope.APPROVE_ALL}
"""What a credential is good for that says nothing about it."""

PERMISSION = "permission:"
"""What begins like this is no scope of ours but a permission, which an approval policy may ask for."""

_ROWS: Mapping[str, Scope] = {
    "create": Scope.WRITE,
    "read": Scope.READ,
    "update": Scope.WRITE,
    "delete": Scope.WRITE,
    "search": Scope.READ,
}

NEEDED: Mapping[tuple[str, str], tuple[Scope, ...]] = {
    **{
        (resource, action): (scope,)
        for resource in ("assistants", "threads", "crons")
        for action, scope in _ROWS.items()
    },
    ("threads", "create_run"): (Scope.RUN, Scope.APPROVE),
    ("store", "put"): (Scope.WRITE,),
    ("store", "get"): (Scope.READ,),
    ("store", "delete"): (Scope.WRITE,),
    ("store", "search"): (Scope.READ,),
    ("store", "list_namespaces"): (Scope.READ,),
}
"""What an action on a resource needs: any of these. Which of both a run needs is known with its body (`run_lacks`)."""


def needed(resource: str, action: str) -> tuple[Scope, ...]:
    return NEEDED.get((resource, action), (Scope.ADMIN,))


def granted(names: Iterable[str]) -> frozenset[Scope]:
    """The scopes among these names, with all that they imply."""
    own = ALL & frozenset(names)
    if Scope.ADMIN in own:
        return ALL
    return own | {Scope.APPROVE} if Scope.APPROVE_ALL in own else own


def permissions(names: Iterable[str]) -> tuple[str, ...]:
    """What an approval policy, or a project's own routes, may ask for by name: `permission:x` is `x`."""
    return tuple(sorted({name.removeprefix(PERMISSION) for name in names}))


def unknown(names: Iterable[str]) -> list[str]:
    """What is neither a scope nor a permission."""
    return [name for name in names if name not in ALL and not (name.startswith(PERMISSION) and name != PERMISSION)]


def run_lacks(scopes: Collection[str], *, answers: bool, brings: bool, steers: bool) -> Scope | None:
    """The scope that is missing for a run; None: nothing is.

    Args:
        answers: it answers a question.
        brings: it brings something else: input, or what steers.
        steers: it writes the state by itself or says where the graph goes on, so that it can go past a question.
    """
    starts = Scope.RUN if brings or not answers else None
    wanted = (starts, Scope.APPROVE if answers or steers else None, Scope.WRITE if steers else None)
    return next((scope for scope in wanted if scope is not None and scope not in scopes), None)
