"""Clients that do not say what they want, or take for ever to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import until

HEAD = b"POST /threads HTTP/1.1\r\nhost: localhost\r\n"
SECONDS = "1"


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Server]:
    short = {"HOLDFAST_HEAD_SECONDS": SECONDS, "HOLDFAST_BODY_SECONDS": SECONDS, "HOLDFAST_MAX_HEAD_BYTES": "4096"}
    with cluster.database() as url, Server(database_url=url, config=PROJECT, **short) as running:
        yield running


@pytest.fixture
def connection(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        yield connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_a_connection_that_says_nothing_is_closed(connection: socket.socket) -> None:
    assert everything(connection) == b""


def test_a_head_that_drips_is_given_up_however_often_it_drips(connection: socket.socket) -> None:
    connection.sendall(HEAD)
    connection.settimeout(0.2)
    answer = b""
    for _ in range(100):
        try:
            answer = connection.recv(65536)
            break
        except TimeoutError:
            connection.sendall(b"x-a: b\r\n")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b'{"detail": "The request did not come"}')


def test_a_head_that_drips_behind_an_answer_says_nothing_into_it(connection: socket.socket) -> None:
    body = b'{"assistant_id": "steps", "input": {"count": 1000, "pause": 0.05}}'
    head = b"POST /runs/stream HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    connection.sendall(head % len(body) + body)
    assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    connection.sendall(b"GET /ok HTTP/1.1\r\nhost: loc")
    assert b"HTTP/1.1" not in everything(connection)


def test_a_head_without_end_is_refused(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"x-a: " + b"b" * 5000)
    assert everything(connection).startswith(b"HTTP/1.1 431 ")


def test_a_body_that_stops_is_given_up_and_changes_nothing(server: Server, connection: socket.socket) -> None:
    with server.http() as http:
        before = http.post("/threads/count", json={}).json()
        connection.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        assert everything(connection) == b""
        assert http.post("/threads/count", json={}).json() == before


def test_a_body_that_says_that_it_is_too_long_is_refused_before_it_comes(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"connection: close\r\ncontent-length: 300000000\r\n\r\n")
    assert b"HTTP/1.1 413 " in everything(connection)


def test_a_body_that_takes_its_time_is_read(connection: socket.socket) -> None:
    body = b'{"metadata": {"slow": "body"}}'
    connection.sendall(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body))
    connection.settimeout(0.2)
    for at in range(len(body)):
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.sendall(body[at : at + 1])
        if at == 8:
            connection.sendall(body[at + 1 :])
            break
    connection.settimeout(20)
    assert everything(connection).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_was_answered_already_is_not_read_for_ever(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    piece = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    sent = 0
    with suppress(OSError):
        for _ in range(300):
            connection.sendall(piece)
            sent += len(piece)
    assert sent < 100 * 2**20
    assert b"HTTP/1.1 413 " in everything(connection)


def test_a_connection_between_requests_is_kept(server: Server) -> None:
    kept = HTTPConnection("127.0.0.1", server.port, timeout=20)
    kept.request("POST", "/threads", b"{}")
    assert kept.getresponse().read()
    ours = kept.sock
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as silent:
        assert everything(silent) == b""  # as long as a new one has
    kept.request("POST", "/threads", b"{}")
    assert kept.getresponse().read()
    assert kept.sock is ours
    kept.close()


def test_a_thousand_connections_that_say_nothing_keep_nobody_waiting_and_go(server: Server) -> None:
    files = Path(f"/proc/{server.pid}/fd")
    before = len(list(files.iterdir()))
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1000)]
    try:
        with server.http(timeout=10) as http:
            assert http.get("/ok").status_code == 200
        until(lambda: len(list(files.iterdir())) <= before + 5, "the server has let them go", seconds=30)
    finally:
        for one in silent:
            one.close()
