"""Requests to addresses that callers chose.

The host is resolved here, every address that it has is judged by `rules/webhook.py`, and the connection goes to a
judged address, not to a name that might resolve to another one a moment later. `Host` and the name in the TLS handshake
stay those of the URL. Connections are not kept: a kept one is found again by its address, which several names may
share.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

import httpx

from holdfast.rules.webhook import UrlPolicy

_UNPOOLED = httpx.Limits(max_keepalive_connections=0)


class GuardedTransport(httpx.AsyncBaseTransport):
    """An httpx transport that connects to nothing that the policy forbids.

    Raises:
        Invalid: the request's host, or one of its addresses, is refused.
    """

    def __init__(self, policy: UrlPolicy) -> None:
        self._policy = policy
        self._inner = httpx.AsyncHTTPTransport(limits=_UNPOOLED)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.raw_host.decode("ascii")
        self._policy.check_host(host)
        addresses = await _resolved(host, request.url.port or 443)
        for address in addresses:
            self._policy.check_address(ip_address(address))
        request.extensions = {**request.extensions, "sni_hostname": host}
        url = request.url
        for address in addresses[:-1]:
            request.url = url.copy_with(host=address)
            try:
                return await self._inner.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        request.url = url.copy_with(host=addresses[-1])
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _resolved(host: str, port: int) -> list[str]:
    """The addresses of a host, in the order in which to try them."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"cannot resolve {host}: {error}") from error
    # A zone (fe80::1%eth0) belongs to link-local addresses, which are refused anyway.
    addresses = dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in found)
    if not addresses:
        raise httpx.ConnectError(f"cannot resolve {host}")
    return list(addresses)
