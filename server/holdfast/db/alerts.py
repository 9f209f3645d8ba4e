"""What is wrong and what was told of it (`rules/alert.py`): one round of all processes at a time, in one transaction.

The messages of a round are written into the outbox of webhooks by the transaction that takes its steps. So whatever
dies when, an alert that counts as told is in the outbox, and one that does not comes up again in the next round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.db.pool import REPEAT_SECONDS, Connection, Database
from holdfast.db.sql import statements
from holdfast.rules.alert import (
    ABANDONED_DAYS,
    FAILING_ATTEMPTS,
    KINDS,
    Alert,
    Finding,
    Sighting,
    Thresholds,
    as_json,
    by_known_kind,
    look_at,
    move,
    notices,
    sightings,
)

MOST_FOUND = 1000
"""Of each kind; who has that many knows enough."""

MOST_STEPS = 1000
"""In a round; the rest is taken up in the next one."""


class Alerts:
    """The repository of alerts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("alerts")

    async def see(self, seen: Sequence[Sighting]) -> None:
        """Write down what is wrong; told in the next round of whichever process."""
        async with self._database.transaction("worker") as conn:
            await self._see(conn, seen)

    async def round(
        self, thresholds: Thresholds, channels: Mapping[str, str], *, every: float, seen: Sequence[Sighting] = ()
    ) -> int | None:
        """Look, take the steps that follow, and put what is to be told into the outbox.

        Args:
            channels: what alerts are sent to: `alert:NAME` -> receiver.
            every: seconds; None is the answer where a round was made less than so long ago.
            seen: what this process knows besides.

        Returns:
            How many messages there are.
        """
        async with self._database.transaction("worker") as conn:
            await self._see(conn, seen)
            if (await conn.execute(self._sql["claim_round"], {"every": every})).rowcount == 0:
                return None
            await self._see(conn, sightings(await self._findings(conn, thresholds)))
            bodies = await self._step(conn, thresholds.repeat_seconds)
            params = {"urls": list(channels), "receivers": list(channels.values()), "bodies": bodies}
            return (await conn.execute(self._sql["post"], params)).rowcount

    async def _findings(self, conn: Connection, thresholds: Thresholds) -> dict[str, Finding]:
        found: dict[str, Finding] = {}
        fixed = {"most": MOST_FOUND, "abandoned": ABANDONED_DAYS, "attempts": FAILING_ATTEMPTS}
        for kind in KINDS:
            limit = thresholds.limits.get(kind, 0.0)
            if limit is None:
                continue
            row = await (await conn.execute(self._sql[kind], {"limit": limit, **fixed})).fetchone()
            assert row is not None
            found[kind] = Finding(row["count"], row["seconds"], row["some"])
        return found

    async def _step(self, conn: Connection, repeat_seconds: float) -> list[bytes]:
        rows = await (await conn.execute(self._sql["due"], {"most": MOST_STEPS})).fetchall()
        if not rows:
            return []
        now = rows[0]["now"]
        moved = [(alert, made) for alert in map(_alert, rows) if (made := move(alert, now, repeat_seconds))]
        over = [alert.sighting for alert, made in moved if made in ("resolve", "forget")]
        told = [alert for alert, made in moved if made in ("fire", "remind")]
        await conn.execute(self._sql["over"], _keys(over))
        look_ats = [look_at(alert, now, repeat_seconds) for alert in told]
        keys = _keys([alert.sighting for alert in told])
        await conn.execute(self._sql["told"], {**keys, "look_ats": look_ats, "now": now})
        return [json.dumps(as_json(notice)).encode() for notice in notices(moved, now)]

    async def _see(self, conn: Connection, seen: Sequence[Sighting]) -> None:
        if not seen:
            return
        # The same twice in one statement would be refused.
        one_each = list({(one.kind, one.subject): one for one in seen}.values())
        params = {
            **_keys(one_each),
            "titles": [one.title for one in one_each],
            "texts": [one.text for one in one_each],
            "severities": [one.severity for one in one_each],
            "onces": [one.once for one in one_each],
            "holds": [one.hold_seconds for one in one_each],
        }
        await conn.execute(self._sql["see"], params)


async def firing(database: Database) -> dict[str, int]:
    """How many alerts go on of each kind that the server knows, and of others; none where nobody is to be told."""

    async def read() -> dict[str, int]:
        async with database.connection("api") as conn:
            rows = await (await conn.execute(statements("alerts")["firing"])).fetchall()
        return by_known_kind({row["kind"]: row["count"] for row in rows})

    return await database.retrying(read, for_seconds=REPEAT_SECONDS)


def _keys(seen: Sequence[Sighting]) -> dict[str, list[str]]:
    return {"kinds": [one.kind for one in seen], "subjects": [one.subject for one in seen]}


def _alert(row: Mapping[str, Any]) -> Alert:
    seen = Sighting(
        row["kind"], row["subject"], row["title"], row["text"], row["severity"], row["once"], row["hold_seconds"]
    )
    return Alert(seen, row["state"], row["times"], row["since"], row["seen_at"], row["told_at"])
