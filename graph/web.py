"""Pages of the public web as plain text, and nothing of any network behind this machine.

The model chooses the address, and what it read before may have chosen it for the model. So a name is resolved once,
here; every address that it has must be public; and the connection goes to the very address that was looked at, with
the name kept for `Host` and for the certificate, which leaves no second resolution to cheat in. Each redirect is an
address like any other. Sent without cookies, credentials, or a proxy of the environment.

FETCH_ALLOW_PRIVATE: `address:port` pairs that may be fetched all the same, separated by commas.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from html.parser import HTMLParser
from typing import cast

import httpx

from graph.errors import BusinessRuleError

PORTS = {"http": 80, "https": 443}
MOST_REDIRECTS = 5
MOST_BYTES = 1_000_000
NETWORK_SECONDS = 10.0
"""Of silence. How long the whole may take is the tool's timeout."""

# The same words whatever the reason: they must not tell what there is in our own network.
_REFUSED = "this address cannot be fetched; only pages of the public web can, over http or https on the usual ports"
_HEADERS = {"User-Agent": "holdfast-agent/1", "Accept": "text/*, application/json", "Accept-Encoding": "identity"}
_CHARSET = re.compile(
    r"utf-?(8|16|32)|us-ascii|iso-8859-\d+|(windows|cp)-?\d+|shift_jis|euc-\w+|gb\w+|big5|koi8-\w", re.I
)
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# Special all the same: protocol assignments, 6to4 (which embeds an IPv4 address) and its relays, documentation.
_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2002::/16", "3fff::/20")))
_INLINE = frozenset({"a", "abbr", "b", "cite", "code", "em", "i", "kbd", "mark", "q", "small", "span", "strong", "u"})

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]


async def resolved(host: str, port: int) -> Sequence[str]:
    """The addresses of `host`, the best one first."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(place[0]) for *_, place in found]


async def fetch(url: str, resolve: Resolver = resolved, tls: ssl.SSLContext | None = None) -> str:
    """The text of the page at `url`, below the address at which it was found in the end.

    Raises:
        BusinessRuleError: it may not be fetched, or is no text; the message is for the model.
        httpx.HTTPError: the connection, or the other side, failed; another attempt may succeed.
    """
    if tls is None:
        tls = await asyncio.to_thread(_public_authorities)
    page = _page(httpx.URL(), url)
    for _ in range(MOST_REDIRECTS + 1):
        async with _answer(page, await _address(page, resolve), tls) as response:
            if not response.has_redirect_location:
                return f"{page}\n\n{await _text(response)}"
            page = _page(page, response.headers["location"])
    raise BusinessRuleError("the page redirects too often")


def is_public(address: str) -> bool:
    """Is this an address of the public internet? IPv6 that wraps an IPv4 address is not, unless plainly mapped."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6 and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.version == 6 and ip not in _GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _SPECIAL)


def _page(seen_on: httpx.URL, link: str) -> httpx.URL:
    try:
        page = seen_on.join(link)
    except (httpx.InvalidURL, ValueError) as error:
        raise BusinessRuleError(_REFUSED) from error
    if page.scheme not in PORTS or not page.raw_host or page.userinfo:
        raise BusinessRuleError(_REFUSED)
    return page


async def _address(page: httpx.URL, resolve: Resolver) -> str:
    port = PORTS[page.scheme] if page.port is None else page.port
    try:
        addresses = await resolve(page.raw_host.decode("ascii"), port)
    except (OSError, UnicodeError) as error:
        raise BusinessRuleError(_REFUSED) from error
    if not addresses or not all(_is_allowed(address, port) for address in addresses):
        raise BusinessRuleError(_REFUSED)
    return addresses[0]


def _is_allowed(address: str, port: int) -> bool:
    exceptions = {pair.strip() for pair in os.environ.get("FETCH_ALLOW_PRIVATE", "").split(",")}
    return f"{address}:{port}" in exceptions or (port in PORTS.values() and is_public(address))


@functools.cache
def _public_authorities() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


@asynccontextmanager
async def _answer(page: httpx.URL, address: str, tls: ssl.SSLContext) -> AsyncIterator[httpx.Response]:
    request = httpx.Request(
        "GET",
        page.copy_with(host=address),
        headers={**_HEADERS, "Host": page.netloc.decode("ascii")},
        extensions={
            "sni_hostname": page.raw_host.decode("ascii"),
            "timeout": httpx.Timeout(NETWORK_SECONDS).as_dict(),
        },
    )
    # A transport for each: a connection kept open would carry the certificate of another name of the same address.
    async with (
        httpx.AsyncHTTPTransport(verify=tls, trust_env=False) as transport,
        aclosing(await transport.handle_async_request(request)) as response,
    ):
        response.request = request
        yield response


async def _text(response: httpx.Response) -> str:
    if response.status_code == 429 or response.status_code >= 500:
        response.raise_for_status()
    if not response.is_success:
        raise BusinessRuleError(f"the page answers with HTTP status {response.status_code}")
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind.startswith("text/") or kind == "application/json"):
        raise BusinessRuleError(f"this is no text but {kind[:100] or 'of no stated type'}")
    if response.headers.get("content-encoding", "identity") != "identity":
        # What unpacks to a thousand times its size is not unpacked. It was asked for as it is.
        raise BusinessRuleError("the page was sent compressed")
    body = await _body(response)
    charset = response.charset_encoding or ""
    text = body[:MOST_BYTES].decode(charset if _CHARSET.fullmatch(charset) else "utf-8", "replace")
    note = f"[Only the first {MOST_BYTES} bytes were read.]\n" if len(body) > MOST_BYTES else ""
    return note + (await asyncio.to_thread(plain_text, text) if kind == "text/html" else text)


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async with aclosing(cast("AsyncGenerator[bytes]", response.aiter_raw())) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > MOST_BYTES:
                break
    return bytes(body)


def plain_text(html: str) -> str:
    """What a reader sees of `html`: one line per block, no markup, no scripts."""
    parser = _Reader()
    # Never closed: the standard library's parser takes minutes to close hostile markup, and the tag flushes the text.
    parser.feed(f"{html}<br>")
    lines = (" ".join(line.split()) for line in "".join(parser.seen).split("\n"))
    return "\n".join(line for line in lines if line)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, _: object) -> None:
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _INLINE:
            self.seen.append("\n")

    def handle_data(self, data: str) -> None:
        # Inside a script or a style sheet it is no text.
        if self.cdata_elem not in self.CDATA_CONTENT_ELEMENTS:
            self.seen.append(data.replace("\n", " "))
