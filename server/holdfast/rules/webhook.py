"""Where webhooks may go, and when a delivery is tried again.

A webhook makes this server send a request to an address that a caller chose, from inside the operator's network. What
must not be reached that way is decided twice: by the URL when a run asks for it, and by the addresses that its host
turns out to have when it is sent (`worker/egress.py`).

    address                                                         allowed
    unspecified, link-local, multicast, reserved, cloud metadata    never
    loopback                                                        with disable_loopback: false
    private and shared ranges                                       unless disable_private_ips
    anything else                                                   yes

An IPv6 address that carries an IPv4 address (mapped, compatible, 6to4, Teredo, NAT64) is judged by that too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from holdfast.errors import Invalid

Address = IPv4Address | IPv6Address

METADATA_ADDRESSES = frozenset(
    map(ip_address, ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"))
)
"""Where clouds answer a machine's questions about its own credentials: the link-local one, Alibaba's, Azure's,
Oracle's, and Amazon's in IPv6."""

METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "instance-data"})

DEFAULT_PORTS = {"http": 80, "https": 443}

FIRST_RETRY_SECONDS = 2.0
GROWTH = 3.0
LONGEST_RETRY_SECONDS = 3600.0
MOST_ATTEMPTS = 16
"""With the pauses between them this is about nine hours."""

_EMBEDDING = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
_NO_URL_CHARACTER = re.compile(r"[^\x21-\x7e]|\\")
_ENDS_IN_A_NUMBER = re.compile(r"(^|\.)(\d+|0x[0-9a-f]*)$")


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """`webhooks.url` of langgraph.json, and the URL at which this process itself is reached."""

    require_https: bool = False
    allowed_domains: Sequence[str] = ()
    """Exact names, or `*.example.com` for every name below example.com (not itself); empty is any."""
    allowed_ports: Sequence[int] = ()
    max_url_length: int = 2048
    disable_loopback: bool = True
    disable_private_ips: bool = False
    own_url: str | None = None

    def checked(self, url: str) -> str:
        """The URL to deliver to; a path is one of this server's own, where loopback is allowed.

        Raises:
            Invalid: nothing may be sent there.
        """
        if len(url) > self.max_url_length:
            raise _refused(f"the URL is longer than {self.max_url_length} characters")
        if _NO_URL_CHARACTER.search(url):
            raise _refused("the URL must be ASCII without spaces, control characters and backslashes")
        if url.startswith("/") and not url.startswith("//"):
            if self.disable_loopback or self.own_url is None:
                raise _refused("relative URLs are not allowed unless webhooks.url.disable_loopback is false")
            return self.checked(self.own_url + url)
        parts, port = _split(url)
        self._check_scheme(parts, port)
        self.check_host(parts.hostname or "")
        return url

    def check_host(self, host: str) -> None:
        """Judge a name, or an address written out.

        Raises:
            Invalid: nothing may be sent there.
        """
        name = host.lower().rstrip(".")
        if not name:
            raise _refused("the URL must name a host")
        if (address := _literal(name)) is not None:
            self.check_address(address)
        elif _ENDS_IN_A_NUMBER.search(name):
            raise _refused(f"{host} is no address in its usual form")
        elif name in METADATA_NAMES or name.endswith(".svc.cluster.local"):
            raise _refused(f"{host} is not allowed")
        elif self.disable_loopback and (name == "localhost" or name.endswith(".localhost")):
            raise _loopback(host)
        if self.allowed_domains and not any(_within(name, domain.lower()) for domain in self.allowed_domains):
            raise _refused(f"{host} is not one of webhooks.url.allowed_domains")

    def check_address(self, address: Address) -> None:
        """Judge an address, in all the ways in which it can be read.

        Raises:
            Invalid: nothing may be sent there.
        """
        for read in _readings(address):
            if read.is_loopback:
                if self.disable_loopback:
                    raise _loopback(str(address))
            elif _never(read):
                raise _refused(f"{address} is not allowed")
            elif self.disable_private_ips and not read.is_global:
                raise _refused(f"{address} is a private address (webhooks.url.disable_private_ips)")

    def _check_scheme(self, parts: SplitResult, port: int) -> None:
        if self.require_https and parts.scheme != "https":
            raise _refused("the URL must be https (webhooks.url.require_https)")
        if parts.username is not None or parts.password is not None:
            raise _refused("the URL must not contain a user name or a password")
        if self.allowed_ports and port not in self.allowed_ports:
            raise _refused(f"port {port} is not one of webhooks.url.allowed_ports")


def worth_retrying(status: int) -> bool:
    """Whether a receiver that answered with this status may take the same delivery later."""
    return status in (408, 429) or status >= 500


def retry_pause(attempt: int, *, retry_after: float | None, jitter: float) -> float | None:
    """Seconds until the next try after `attempt` of them failed, or None: it is given up.

    Args:
        retry_after: what the receiver asked for; followed up to an hour.
        jitter: from [0, 1), so that deliveries which failed together do not come back together.
    """
    if attempt >= MOST_ATTEMPTS:
        return None
    pause = min(FIRST_RETRY_SECONDS * GROWTH ** (attempt - 1), LONGEST_RETRY_SECONDS)
    pause *= 0.5 + jitter / 2
    return max(pause, min(retry_after or 0.0, LONGEST_RETRY_SECONDS))


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused(str(error)) from None
    if parts.scheme not in DEFAULT_PORTS or not parts.netloc:
        raise _refused("the URL must start with http:// or https://")
    return parts, DEFAULT_PORTS[parts.scheme] if port is None else port


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _readings(address: Address) -> Iterator[Address]:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    yield address
    if isinstance(address, IPv4Address):
        return
    for inner in (address.sixtofour, *(address.teredo or ())):
        if inner is not None:
            yield inner
    # ::1 itself lies in the range of the compatible addresses; it carries none.
    if any(address in network for network in _EMBEDDING) and not (address.is_loopback or address.is_unspecified):
        yield IPv4Address(int(address) & 0xFFFF_FFFF)


def _never(address: Address) -> bool:
    return (
        address.is_unspecified
        or address.is_link_local
        or address.is_multicast
        or (isinstance(address, IPv4Address) and (address.is_reserved or int(address) < 2**24))
        or address in METADATA_ADDRESSES
    )


def _within(name: str, domain: str) -> bool:
    return name.endswith(domain[1:]) if domain.startswith("*.") else name == domain


def _loopback(host: str) -> Invalid:
    return _refused(f"{host} is this machine itself (webhooks.url.disable_loopback)")


def _refused(why: str) -> Invalid:
    return Invalid(f"Invalid webhook: {why}")
