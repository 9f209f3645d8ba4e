"""Asks every route for somebody's things, as somebody else.

The rule that is tried is stronger than "refused": **somebody else cannot tell her ids from ids that do not exist.** The
same question is asked twice, with her ids and with nobody's; apart from the ids both answers are the same. Her canary
is in none of them, and afterwards all that she has is as it was. That each question is a real one is shown by asking it
as herself (`owner`), of things made for that purpose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

import httpx

from tests.security.routes import CANARY, ROWS, Ask
from tests.support.talk import join, new_thread, start

_VOLATILE = re.compile(r'"(created_at|updated_at|state_updated_at|pid|timestamp|next_run_date|end_time)":"?[^,}]*')
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Things:
    """Somebody's ids, or nobody's."""

    thread_id: str
    run_id: str
    checkpoint_id: str
    cron_id: str
    assistant_id: str
    task_id: str
    approval_id: str
    key: str
    namespace: str = "child"

    @classmethod
    def nobodys(cls) -> Things:
        thread_id, run_id = str(uuid4()), str(uuid4())
        ids = [str(uuid4()) for _ in range(5)]
        return cls(thread_id, run_id, *ids[:3], f"{thread_id}:{run_id}", *ids[3:])


def made_by(owner: httpx.Client) -> Things:
    """Things of this owner's: a thread that asks something, its run, a cron, an assistant, a stored item."""
    secret = {"secret": CANARY}
    assistant = {"graph_id": "steps", "name": CANARY, "metadata": secret, "context": secret}
    assistant_id = str(owner.post("/assistants", json=assistant).json()["assistant_id"])
    thread_id = new_thread(owner, metadata=secret)
    run_id = start(owner, thread_id, "approve", input={"log": [CANARY]})
    join(owner, thread_id, run_id)
    checkpoint_id = owner.get(f"/threads/{thread_id}/state").json()["checkpoint_id"]
    cron = {"assistant_id": "approve", "schedule": "0 0 1 1 *", "metadata": secret, "input": {"log": [CANARY]}}
    cron_id = owner.post(f"/threads/{thread_id}/runs/crons", json=cron).json()["cron_id"]
    key = str(uuid4())
    owner.put("/store/items", json={"namespace": ["notes"], "key": key, "value": secret})
    [approval] = owner.get(f"/threads/{thread_id}/approvals").json()
    task_id, approval_id = f"{thread_id}:{run_id}", approval["approval_id"]
    return Things(thread_id, run_id, checkpoint_id, cron_id, assistant_id, task_id, approval_id, key)


def snapshot(owner: httpx.Client, things: Things) -> Mapping[str, Any]:
    """All that the owner can see of them."""
    thread = f"/threads/{things.thread_id}"
    paths = [thread, *(f"{thread}/{part}" for part in ("state", "runs", "history", "approvals"))]
    paths += [f"/runs/crons/{things.cron_id}", f"/assistants/{things.assistant_id}"]
    seen = {path: owner.get(path).json() for path in paths}
    item = {"namespace": "notes", "key": things.key}
    return {**seen, "item": owner.get("/store/items", params=item).json()}


def rows() -> Iterator[tuple[str, str, Ask]]:
    for (method, path), asks in ROWS.items():
        for ask in asks:
            yield method, path, ask


def asked(client: httpx.Client, method: str, path: str, ask: Ask, things: Things) -> tuple[int, str]:
    """Status and body; of a stream that goes on, what there is in the first moment."""
    ids = asdict(things)
    request = client.build_request(
        method,
        path.format(**ids),
        params={name: _filled(value, ids) for name, value in ask.query.items()},
        json=_filled(ask.body, ids) if ask.body is not None else None,
        headers=ask.headers,
    )
    answer = client.send(request, stream=True)
    try:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return answer.status_code, next(answer.iter_text(), "")
        answer.read()
        return answer.status_code, answer.text
    finally:
        answer.close()


def without_ids(text: str, things: Things) -> str:
    """An answer with the names of ids in the place of ids, and without times and ids of new things."""
    for name, value in asdict(things).items():
        text = text.replace(value, f"<{name}>") if name != "namespace" else text
    return _UUID.sub("<new>", _VOLATILE.sub(r'"\1":"-"', text))


def _filled(template: Any, ids: Mapping[str, str]) -> Any:
    written = json.dumps(template)
    for name, value in ids.items():
        written = written.replace(f"{{{name}}}", value)
    return json.loads(written)
