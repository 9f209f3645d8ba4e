"""When a worker counts as dead (invariant 7).

Three signs, from fast to slow:

* it ran on this host, and its process is gone (a server that was killed and started again);
* its session lock is free although it is overdue: the kernel closed its connection with the process;
* its lease is over: a frozen host, a half-open network, or a transaction pooler in between, where sessions mean
  nothing.

A lease can also run out because the *database* was away; whoever comes back first must not bury the others. So an
observer trusts leases only after its own heartbeat has been unbroken for a whole lease.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signs:
    """What an observer sees of another worker."""

    process_gone: bool
    lock_free: bool
    lease_over: bool


def is_dead(signs: Signs, *, observing_for: float, lease: float) -> bool:
    """Whether the worker's runs may be taken over; times in seconds."""
    return signs.process_gone or signs.lock_free or (signs.lease_over and observing_for >= lease)
