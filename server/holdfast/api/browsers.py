"""What browsers are kept from: strangers' pages that ask this server (`rules/site.py`), and more than ours need."""

from __future__ import annotations

import base64
import hashlib
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.api import problems
from holdfast.rules.site import Sites

_INLINE = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.+?)</script>", re.DOTALL)

_POLICY_VIOLATION = 1008

_REFUSED_HOST = (
    "This server does not answer to that name: without authentication, a page that somebody visits could have given it"
    " to this machine. Set HOLDFAST_ALLOWED_HOSTS to the names it has."
)
_REFUSED_ORIGIN = (
    "Pages of that origin may not ask this server. Set HOLDFAST_ALLOWED_ORIGINS, or http.cors in langgraph.json, if"
    " they shall."
)


def guarded(app: ASGIApp, sites: Sites) -> ASGIApp:
    """`app`, which answers to its own names and to whoever may ask."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None if scope["type"] == "lifespan" else _refusal(Headers(scope=scope), scope, sites)
        if refusal is None:
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await refusal(scope, receive, send)

    return answered


def _refusal(headers: Headers, scope: Scope, sites: Sites) -> Response | None:
    hosts = headers.getlist("host")
    if not all(map(sites.answers_to, hosts)):
        return problems.detail(421, _REFUSED_HOST)
    # A browser opens a WebSocket anywhere, without asking first.
    method = scope.get("method", "POST")
    origin, content_type = headers.get("origin", ""), headers.get("content-type", "")
    if not sites.lets(origin, (hosts or [""])[0], method, content_type):
        return problems.detail(403, _REFUSED_ORIGIN)
    return None


def confined(app: ASGIApp) -> ASGIApp:
    """`app`, whose pages run no script but their own, load nothing from elsewhere, and stand in nobody's frame."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        held: list[Message] = []

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                if Headers(raw=message["headers"]).get("content-type", "").startswith("text/html"):
                    held.append(message)
                    return
            elif held:
                start = held.pop()
                headers = MutableHeaders(raw=start["headers"])
                headers.update(_page_headers(message.get("body", b"")))
                await send({**start, "headers": headers.raw})
            await send(message)

        await app(scope, receive, with_policy)

    return answered


def _page_headers(page: bytes) -> dict[str, str]:
    """Of a page that comes in one piece; its inline scripts are known by what they say."""
    inline = " ".join(f"'sha256-{_digest(script)}'" for script in _INLINE.findall(page))
    policy = {
        "default-src": "'self'",
        "script-src": f"'self' {inline}".strip(),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "x-frame-options": "DENY",
    }


def _digest(script: bytes) -> str:
    return base64.b64encode(hashlib.sha256(script).digest()).decode()
