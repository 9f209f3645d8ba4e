"""Names that a stranger can own, and pages of other sites."""

from __future__ import annotations

import pytest

from holdfast.rules.site import Sites

OPEN = Sites(is_open=True, is_loopback=True)
GUARDED = Sites(is_loopback=True)
JSON, TEXT = "application/json", "text/plain;charset=UTF-8"
STUDIO, STRANGER = "https://smith.langchain.com", "https://evil.example"


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:2024", "LOCALHOST.", "127.0.0.1:2024", "127.9.9.9", "[::1]:2024", "[::1]", "holdfast",
     "agents.localhost:1", "192.168.1.7:2024", "8.8.8.8", "host.docker.internal:2024"],
)  # fmt: skip
def test_names_that_no_stranger_can_own_are_answered(host: str) -> None:
    assert OPEN.answers_to(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:2024",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1.",
        "1.2",
        "[x.y]",
    ],
)
def test_names_that_a_stranger_can_own_are_not(host: str) -> None:
    assert OPEN.answers_to(host) is (host == "127.0.0.1.")
    assert GUARDED.answers_to(host)
    assert Sites(is_open=True).answers_to(host)


def test_configured_names_are_the_only_ones_and_addresses_are_none() -> None:
    sites = Sites(hosts=("agents.example", "*.apps.example"), is_loopback=True)
    assert [sites.answers_to(host) for host in ("agents.example:443", "a.apps.example", "localhost")] == [True] * 3
    assert [sites.answers_to(host) for host in ("apps.example", "x.agents.example", "holdfast")] == [False] * 3
    assert [sites.answers_to(address) for address in ("10.1.2.3:2024", "[::1]:2024", "127.0.0.1")] == [True] * 3
    assert Sites(hosts=("*",), is_open=True, is_loopback=True).answers_to("evil.example")


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "origin", [STRANGER, "null", "https://smith.langchain.com.evil.example", "http://x", "https://[bad"]
)
def test_without_authentication_no_other_sites_page_may_ask(origin: str, method: str) -> None:
    assert not OPEN.lets(origin, "localhost:2024", method, JSON)


@pytest.mark.parametrize(
    "origin",
    ["", STUDIO, "https://eu.smith.langchain.com", "http://localhost:3000", "http://127.0.0.1:5173", "http://[::1]:1",
     "http://localhost:2024"],
)  # fmt: skip
def test_programs_this_machines_pages_and_studio_may(origin: str) -> None:
    assert OPEN.lets(origin, "localhost:2024", "POST", TEXT)


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", TEXT, "Text/Plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"],
)
def test_with_authentication_other_sites_change_nothing_as_a_form_could(kind: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert not GUARDED.lets(STRANGER, "agents.example", method, kind)
        assert GUARDED.lets(STUDIO, "agents.example", method, kind)
        assert GUARDED.lets("https://agents.example", "agents.example", method, kind)
    assert GUARDED.lets(STRANGER, "agents.example", "GET", kind)
    assert GUARDED.lets(STRANGER, "agents.example", "POST", JSON)


def test_configured_origins_may() -> None:
    for sites in (
        Sites(origins=(STRANGER,), is_open=True),
        Sites(origins=("*",), is_open=True),
        Sites(origin_regex=r"https://[a-z]+\.example", is_open=True),
    ):
        assert sites.lets(STRANGER, "localhost", "POST", TEXT)
    assert not Sites(origin_regex=r"https://evil", is_open=True).lets(STRANGER, "localhost", "POST", TEXT)


def test_an_application_with_cors_of_its_own_decides_what_is_asked_for_first() -> None:
    sites = Sites(is_open=True, cors_decides=True)
    assert sites.lets(STRANGER, "localhost", "POST", JSON)
    assert not sites.lets(STRANGER, "localhost", "POST", TEXT)


def test_a_page_of_a_remote_machine_is_not_local_because_it_says_localhost() -> None:
    remote = Sites(is_open=True)
    assert not remote.lets("http://localhost:3000", "agents.example", "POST", JSON)
