"""Requests to addresses that callers chose go only where they may, and there by the address that was judged."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest

from holdfast.errors import Invalid
from holdfast.rules.webhook import UrlPolicy
from holdfast.worker.egress import GuardedTransport
from tests.support.receiver import Receiver

pytestmark = pytest.mark.anyio
OPEN = UrlPolicy(disable_loopback=False)


class Resolver:
    """A name server's answers for this event loop: what `getaddrinfo` says, one answer after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)
        loop = asyncio.get_running_loop()
        self._real = loop.getaddrinfo
        monkeypatch.setattr(loop, "getaddrinfo", self._resolve)

    async def _resolve(self, host: str, port: int, **options: Any) -> list[Any]:
        if _is_address(host):
            return await self._real(host, port, **options)
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]


def _is_address(host: str) -> bool:
    return host.replace(".", "").isdigit() or ":" in host


async def post(url: str, policy: UrlPolicy = OPEN) -> httpx.Response:
    async with httpx.AsyncClient(transport=GuardedTransport(policy), timeout=5) as client:
        return await client.post(url, content=b"{}")


async def test_a_name_that_resolves_to_an_allowed_address_is_reached_under_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = Resolver(monkeypatch, ["127.0.0.1"])
    with Receiver() as receiver:
        answer = await post(f"http://hooks.example:{receiver.port}/done?a=1")
        assert answer.status_code == 200
        [call] = receiver.calls
        assert (call.path, call.headers["host"]) == ("/done?a=1", f"hooks.example:{receiver.port}")
    assert resolver.asked == ["hooks.example"]


async def test_a_name_that_changes_its_address_after_the_look_is_still_reached_at_the_judged_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = Resolver(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    with Receiver() as receiver:
        assert (await post(f"http://hooks.example:{receiver.port}/")).status_code == 200
    assert resolver.asked == ["hooks.example"]


@pytest.mark.parametrize("addresses", [["169.254.169.254"], ["127.0.0.1"], ["93.184.216.34", "127.0.0.1"]])
async def test_one_forbidden_address_forbids_the_name(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    Resolver(monkeypatch, addresses)
    with Receiver() as receiver:
        with pytest.raises(Invalid, match=r"not allowed|disable_loopback"):
            await post(f"http://hooks.example:{receiver.port}/", UrlPolicy())
        assert receiver.calls == []


async def test_the_next_address_is_tried_where_nobody_listens_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    Resolver(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    with Receiver() as receiver:
        assert (await post(f"http://hooks.example:{receiver.port}/")).status_code == 200


async def test_numbers_that_the_system_takes_for_loopback_are_refused_too() -> None:
    for host in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(Invalid):
            await post(f"http://{host}:1/", UrlPolicy())


async def test_a_name_that_nobody_knows_is_an_error_of_the_connection() -> None:
    for host in ("nobody.invalid", "a" * 70 + ".example"):
        with pytest.raises(httpx.ConnectError):
            await post(f"http://{host}/")


async def test_an_ipv6_address_is_reached() -> None:
    with pytest.raises(httpx.ConnectError):
        await post("http://[::1]:1/")


async def test_tls_is_asked_for_under_the_name_of_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    Resolver(monkeypatch, ["127.0.0.1"])
    hello = bytearray()

    async def greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello.extend(await reader.read(4096))
        writer.close()

    server = await asyncio.start_server(greeted, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(httpx.TransportError):
            await post(f"https://hooks.example:{port}/")
    assert b"hooks.example" in hello
