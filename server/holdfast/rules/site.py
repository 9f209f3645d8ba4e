"""Which names this server answers to, and for which other sites a browser may ask it.

Two attacks by a page that somebody happens to visit, from their own browser and behind their own firewall:

* DNS rebinding: a name of the attacker's suddenly means 127.0.0.1, and the page is of the "same origin" as this server.
  What gives it away is `Host`. The attacker owns a name in public DNS; addresses, names without a dot, and names below
  `.localhost` and `.internal` are nobody's to own.
* A request across origins, which the browser sends although the page may not read the answer. What gives it away is
  `Origin`. Browsers ask first (CORS) unless method and content type are such as forms have.

                                        nobody authenticates          callers authenticate
    a name that can be owned            refused on loopback           answered
    another site's page asks            refused                       CORS decides
    as a form could (text/plain, …)     refused                       refused
    opens a WebSocket                   refused                       refused

Where names are configured, no other name is answered to. Configured names and sites (`HOLDFAST_ALLOWED_HOSTS`,
`HOLDFAST_ALLOWED_ORIGINS`, `http.cors`) are let through. Who authenticates does so by a header that no other site's
page can make the browser send, so that a key is what counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

STUDIO = re.compile(r"https://([a-z0-9-]+\.)*smith\.langchain\.com")
"""LangGraph Studio's pages, which send JSON as text/plain."""

FORM_TYPES = frozenset({"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
"""What a browser sends across origins without asking first."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_NOBODYS = (".localhost", ".internal")
ANY = "*"


@dataclass(frozen=True, slots=True)
class Sites:
    """The rules of one server.

    `hosts` are names, or `*.example.com`; `origins` as in `Origin`, or "*"; `is_open`: nobody authenticates here;
    `is_loopback`: it listens where only this machine is; `cors_decides`: the project says itself who may ask.
    """

    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    origin_regex: str | None = None
    is_open: bool = False
    is_loopback: bool = False
    cors_decides: bool = False

    def answers_to(self, host: str) -> bool:
        """Whether this is a name of ours, with or without a port."""
        name = _name(host)
        if not self.hosts:
            return not (self.is_open and self.is_loopback) or _is_nobodys(name)
        # Probes and scrapers ask by address, which no page can be given.
        return _is_address(name) or name == "localhost" or any(_matches(name, pattern) for pattern in self.hosts)

    def lets(self, origin: str, host: str, method: str, content_type: str) -> bool:
        """Whether a page of this origin may ask; no origin is no browser, or a page of our own."""
        if not origin or self._trusts(origin, host):
            return True
        if self.is_open and not self.cors_decides:
            return False
        return method in SAFE_METHODS or content_type.partition(";")[0].strip().lower() not in FORM_TYPES

    def _trusts(self, origin: str, host: str) -> bool:
        if ANY in self.origins or origin in self.origins or STUDIO.fullmatch(origin):
            return True
        if self.origin_regex is not None and re.fullmatch(self.origin_regex, origin):
            return True
        place = _place(origin)
        return bool(place) and (place == host.lower() or (self.is_loopback and _is_local(_name(place))))


def _place(origin: str) -> str:
    """Its host and port; "" for what has none, such as `null`."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """Without port, brackets and final dot."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::\d*)?", host.strip())
    name = bracketed[1] if bracketed else host.strip().rpartition(":")[0] or host.strip()
    return name.lower().removesuffix(".")


def _is_nobodys(name: str) -> bool:
    """Whether no stranger can own it."""
    return _is_address(name) or "." not in name or name.endswith(_NOBODYS)


def _is_local(name: str) -> bool:
    """This machine."""
    return name == "localhost" or name.endswith(".localhost") or (_is_address(name) and ip_address(name).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return name.endswith(pattern[1:])
    return pattern in (ANY, name)
