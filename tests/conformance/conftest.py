"""Clients of the session's server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.support.server import Server
from tests.support.talk import new_thread


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    """Raw HTTP."""
    with server.http(timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
async def sdk(server: Server) -> AsyncIterator[LangGraphClient]:
    """The official SDK, unmodified."""
    async with server.client() as client:
        yield client


@pytest.fixture
def thread(http: httpx.Client) -> str:
    """The id of a new thread."""
    return new_thread(http)
