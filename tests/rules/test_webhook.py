"""Where webhooks may go, and when they are tried again."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Invalid
from holdfast.rules.webhook import (
    LONGEST_RETRY_SECONDS,
    MOST_ATTEMPTS,
    UrlPolicy,
    retry_pause,
    worth_retrying,
)

DEFAULT = UrlPolicy(own_url="http://127.0.0.1:2024")
LOOPBACK = UrlPolicy(disable_loopback=False, own_url="http://127.0.0.1:2024")
STRICT = UrlPolicy(disable_private_ips=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://example.com:8080/hook?token=a%20b#x",
        "HTTPS://EXAMPLE.COM/",
        "https://xn--bcher-kva.example/",
        "http://8.8.8.8/",
        "http://10.0.0.5/",
        "http://192.168.1.1:9000/",
        "http://[2606:4700::1111]/",
        "http://[fd12:3456::1]/",
        "http://localhost.example.com/",
        "http://1password.example/",
    ],
)
def test_what_lies_outside_or_in_the_private_network_is_allowed(url: str) -> None:
    assert DEFAULT.checked(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nope",
        "example.com/hook",
        "//example.com/hook",
        "ftp://example.com",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http:///hook",
        "http://",
        "http://?x",
        "http://.",
        "http://example.com:99999/",
        "http://example.com:port/",
        "http://[::1/",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://@example.com/",
        "http://example.com\\@127.0.0.1/",
        "http://exa mple.com/",
        "http://example.com/\r\nHost: x",
        "http://example.com/\x00",
        "http://exämple.com/",
        " http://example.com/",
        "http://example.com/" + "a" * 2048,
    ],
)
def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    for policy in (DEFAULT, LOOPBACK):
        with pytest.raises(Invalid, match=r"^Invalid webhook: "):
            policy.checked(url)


ALWAYS_REFUSED = [
    "169.254.169.254",
    "169.254.1.1",
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "[::]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[ff02::1]",
    "[fd00:ec2::254]",
    "[::ffff:169.254.169.254]",
    "[::169.254.169.254]",
    "[2002:a9fe:a9fe::]",
    "[64:ff9b::169.254.169.254]",
    "metadata",
    "metadata.google.internal",
    "Metadata.Google.Internal.",
    "api.default.svc.cluster.local",
    "api.default.SVC.cluster.local.",
]


@pytest.mark.requirement("webhooks.guarded")
@pytest.mark.parametrize("host", ALWAYS_REFUSED)
def test_metadata_link_local_and_cluster_addresses_are_never_allowed(host: str) -> None:
    for policy in (DEFAULT, LOOPBACK, STRICT):
        with pytest.raises(Invalid):
            policy.checked(f"http://{host}/latest/meta-data")


ITSELF = [
    "127.0.0.1",
    "127.8.8.8",
    "localhost",
    "LOCALHOST.",
    "app.localhost",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[2002:7f00:1::]",
    "[64:ff9b::7f00:1]",
    "[2001:0:7f00:1::f5ff:fffe]",
]


@pytest.mark.parametrize("host", ITSELF)
def test_the_machine_itself_is_allowed_only_where_the_project_says_so(host: str) -> None:
    with pytest.raises(Invalid, match="disable_loopback"):
        DEFAULT.checked(f"http://{host}:8000/hook")
    assert LOOPBACK.checked(f"http://{host}:8000/hook") == f"http://{host}:8000/hook"


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "1.2.3.4.5"])
def test_an_address_in_an_unusual_form_is_refused(host: str) -> None:
    for policy in (DEFAULT, LOOPBACK):
        with pytest.raises(Invalid, match="usual form"):
            policy.checked(f"http://{host}/")


@pytest.mark.parametrize(
    "host", ["10.0.0.5", "172.16.0.1", "192.168.1.1", "100.64.0.1", "[fd12:3456::1]", "[::ffff:10.0.0.5]"]
)
def test_private_ranges_can_be_shut(host: str) -> None:
    assert DEFAULT.checked(f"http://{host}/")
    with pytest.raises(Invalid, match="disable_private_ips"):
        STRICT.checked(f"http://{host}/")
    assert STRICT.checked("http://[::ffff:8.8.8.8]/")


def test_a_path_is_one_of_this_servers_own_where_loopback_is_allowed() -> None:
    assert LOOPBACK.checked("/hooks/done") == "http://127.0.0.1:2024/hooks/done"
    with pytest.raises(Invalid, match="relative"):
        DEFAULT.checked("/hooks/done")


def test_https_domains_ports_and_length_can_be_prescribed() -> None:
    policy = UrlPolicy(
        require_https=True,
        allowed_domains=["example.com", "*.Trusted.example"],
        allowed_ports=[443, 8443],
        max_url_length=40,
    )
    for url in ("https://example.com/a", "https://EXAMPLE.com:8443/", "https://a.b.trusted.example/"):
        assert policy.checked(url) == url
    for url, why in [
        ("http://example.com:443/", "require_https"),
        ("https://www.example.com/", "allowed_domains"),
        ("https://trusted.example/", "allowed_domains"),
        ("https://untrusted.example/", "allowed_domains"),
        ("https://8.8.8.8/", "allowed_domains"),
        ("https://example.com:9000/", "allowed_ports"),
        ("https://example.com/" + "a" * 21, "longer than 40"),
    ]:
        with pytest.raises(Invalid, match=why):
            policy.checked(url)


@given(st.ip_addresses())
def test_an_allowed_address_is_none_of_this_machines_or_its_links(address: object) -> None:
    judged = ip_address(str(address))
    try:
        DEFAULT.check_address(judged)
    except Invalid:
        return
    assert [judged.is_loopback, judged.is_link_local, judged.is_multicast, judged.is_unspecified] == [False] * 4


def test_what_a_receiver_may_take_later_is_tried_again() -> None:
    assert [status for status in (200, 301, 400, 401, 404, 408, 410, 422, 429, 500, 503) if worth_retrying(status)] == [
        408,
        429,
        500,
        503,
    ]


@given(st.floats(0, 1, exclude_max=True))
def test_pauses_grow_up_to_an_hour_and_end_after_some_nine_hours(jitter: float) -> None:
    pauses = [retry_pause(attempt, retry_after=None, jitter=jitter) for attempt in range(1, MOST_ATTEMPTS)]
    assert all(pause is not None and 1 <= pause <= LONGEST_RETRY_SECONDS for pause in pauses)
    assert pauses == sorted(pauses)  # type: ignore[type-var]
    assert retry_pause(MOST_ATTEMPTS, retry_after=None, jitter=jitter) is None
    assert 4 * 3600 < sum(pause or 0 for pause in pauses) < 9.5 * 3600


def test_a_receiver_may_ask_for_a_longer_pause_but_not_for_days() -> None:
    assert retry_pause(1, retry_after=120, jitter=0) == 120
    assert retry_pause(1, retry_after=10**9, jitter=0) == LONGEST_RETRY_SECONDS
    assert retry_pause(1, retry_after=0, jitter=0) == 1
    assert retry_pause(MOST_ATTEMPTS, retry_after=5, jitter=0) is None
