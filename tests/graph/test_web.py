"""Pages are read from the public web, and from nowhere else."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from langchain_core.messages import ToolCall

from graph import web
from graph.errors import BusinessRuleError
from graph.tools import RESULT_LIMIT, Retry, execute, standard_tools

pytestmark = pytest.mark.anyio
REFUSED = "only pages of the public web"


@dataclass
class Site:
    """A web server on 127.0.0.1: what it was asked, and the whole answers it gives, by path."""

    port: int = 0
    pages: dict[str, list[bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def page(
        self, path: str, body: bytes = b"", kind: str = "text/plain", status: str = "200 OK", **headers: str
    ) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.pages.setdefault(path, []).append("\r\n".join([*lines, "", ""]).encode() + body)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            request = ""
        if request:
            self.asked.append(request)
            answers = self.pages[request.split()[1]]
            writer.write(answers.pop(0) if len(answers) > 1 else answers[0])
        writer.close()


@asynccontextmanager
async def served(tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    site = Site()
    server = await asyncio.start_server(site.answer, "127.0.0.1", 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    async with server:
        yield site


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A site that may be fetched although it is private."""
    async with served() as site:
        monkeypatch.setenv("FETCH_ALLOW_PRIVATE", f"192.0.2.1:1, 127.0.0.1:{site.port}")
        yield site


def names(*answers: str, calls: list[str] | None = None) -> web.Resolver:
    """A resolver that has one set of addresses for every question, separated by spaces; the last one stays."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        if calls is not None:
            calls.append(f"{host}:{port}")
        return (left.pop(0) if len(left) > 1 else left[0]).split()

    return resolve


CORPUS = [
    "http://127.0.0.1/",
    "http://127.0.0.1:443/",
    "https://127.8.9.10/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://127\u30020\u30020\u30021/",
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://100.100.100.200/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://[::ffff:a9fe:a9fe]/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://192.0.0.192/opc/v2/instance/",
    "http://192.0.0.8/",
    "http://192.0.2.1/",
    "http://192.88.99.1/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b:1::a00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25lo]/",
    "http://[fc00::1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://metadata.google.internal./computeMetadata/v1/",
    "http://user:password@127.0.0.1/",
    "http://user@93.184.215.14/",
    "http://93.184.215.14@127.0.0.1/",
    "http://127.0.0.1:80\\@93.184.215.14/",
    "http://93.184.215.14:22/",
    "http://93.184.215.14:6379/",
    "https://93.184.215.14:8443/",
    "http://93.184.215.14:0/",
    "http://93.184.215.14:-1/",
    "http://93.184.215.14:99999/",
    "//93.184.215.14/",
    "93.184.215.14",
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "ftp://93.184.215.14/",
    "gopher://127.0.0.1:6379/_INFO",
    "dict://127.0.0.1:11211/stats",
    "data:text/plain,hello",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "http://",
    "http:///",
    "http://xn--/",
    "http://a..b/",
    "http://" + "a" * 300 + "/",
    "http://[::1/",
    "http://\udcff/",
    "\x00",
    " ",
]


@pytest.mark.parametrize("url", CORPUS, ids=ascii)
async def test_A13_what_is_not_the_public_web_is_refused_in_the_same_words(url: str) -> None:
    with pytest.raises(BusinessRuleError) as refused:
        await web.fetch(url)
    assert str(refused.value) == web._REFUSED


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_A13_public_addresses_are_public(address: str) -> None:
    assert web.is_public(address)


@pytest.mark.parametrize("addresses", ["10.0.0.5", "93.184.215.14 10.0.0.5", "2606:4700::1111 ::1", ""])
async def test_A13_a_name_with_any_private_address_is_refused(addresses: str) -> None:
    asked: list[str] = []
    with pytest.raises(BusinessRuleError, match=REFUSED):
        await web.fetch("https://wiki.example/", names(addresses, calls=asked))
    assert asked == ["wiki.example:443"]


async def test_A13_a_name_that_changes_its_address_is_not_asked_again(site: Site) -> None:
    site.page("/", b"hello")
    asked: list[str] = []
    rebinding = names("127.0.0.1", "127.0.0.2", calls=asked)
    text = await web.fetch(f"http://rebind.example:{site.port}/", rebinding)
    assert text.endswith("hello")
    assert asked == [f"rebind.example:{site.port}"]
    assert f"Host: rebind.example:{site.port}\r\n" in site.asked[0]


@pytest.mark.parametrize(
    "place",
    [
        "http://127.0.0.2/",
        "http://169.254.169.254/",
        "//127.0.0.2/",
        "file:///etc/passwd",
        "http://u:p@127.0.0.1/",
        "http://[/",
    ],
)
async def test_A13_a_redirect_is_looked_at_like_any_address(site: Site, place: str) -> None:
    site.page("/", status="302 Found", Location=place)
    with pytest.raises(BusinessRuleError, match=REFUSED):
        await web.fetch(site.url)
    assert len(site.asked) == 1


async def test_A13_a_redirect_to_a_name_of_a_private_address_is_refused(site: Site) -> None:
    site.page("/", status="301 Moved Permanently", Location=f"http://inside.example:{site.port}/")
    with pytest.raises(BusinessRuleError, match=REFUSED):
        await web.fetch(f"http://outside.example:{site.port}/", names("127.0.0.1", "127.0.0.2"))
    assert len(site.asked) == 1


async def test_A13_redirects_are_followed_without_cookies(site: Site) -> None:
    site.page("/", status="302 Found", Location="/a/b", Set_Cookie="session=1; Path=/")
    site.page("/a/b", status="307 Temporary Redirect", Location="c")
    site.page("/a/c", b"arrived")
    assert await web.fetch(site.url) == f"{site.url}/a/c\n\narrived"
    assert len(site.asked) == 3
    assert not any("cookie" in request.lower() for request in site.asked)


async def test_A13_redirects_end(site: Site) -> None:
    site.page("/", status="302 Found", Location="/")
    with pytest.raises(BusinessRuleError, match="redirects too often"):
        await web.fetch(site.url)
    assert len(site.asked) == web.MOST_REDIRECTS + 1


async def test_A13_a_proxy_of_the_environment_is_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    site.page("/", b"direct")
    assert (await web.fetch(site.url)).endswith("direct")


PAGE = b"""<!doctype html><html><head><title>Fish &amp; chips</title><style>p {color: red}</style>
<script>var hidden = "<p>no</p>";</script></head><body><h1>Menu</h1>
<p>Cod <b>with
salt</b>.</p><ul><li>One</li><li>Two<br>Three</ul>the <a href="/">end</a>"""


async def test_A13_html_becomes_the_text_that_a_reader_sees(site: Site) -> None:
    site.page("/", PAGE, "text/html; charset=utf-8")
    text = (await web.fetch(site.url)).partition("\n\n")[2]
    assert text.split("\n") == ["Fish & chips", "Menu", "Cod with salt.", "One", "Two", "Three", "the end"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["<a ", "<!--", "</", "<a a='", "<a b", "<?", "<", "<!", "&#", "<script>"])
def test_A13_hostile_markup_costs_no_more_than_its_length(piece: str) -> None:
    assert len(web.plain_text(piece * (web.MOST_BYTES // len(piece)))) <= web.MOST_BYTES


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("text/plain; charset=iso-8859-1", "caf\u00e9".encode("latin-1"), "caf\u00e9"),
        ("text/plain; charset=punycode", "caf\u00e9".encode(), "caf\u00e9"),
        ("TEXT/Markdown", b"# hi\xff", "# hi\ufffd"),
        ("application/json", b'{"a": 1}', '{"a": 1}'),
    ],
)
async def test_A13_text_is_decoded_as_it_says(site: Site, kind: str, body: bytes, text: str) -> None:
    site.page("/", body, kind)
    assert (await web.fetch(site.url)).endswith(f"\n\n{text}")


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "application/pdf", ""])
async def test_A13_what_is_no_text_is_refused(site: Site, kind: str) -> None:
    site.page("/", b"\x89PNG", kind)
    with pytest.raises(BusinessRuleError, match="no text"):
        await web.fetch(site.url)


async def test_A13_what_was_sent_compressed_is_not_unpacked(site: Site) -> None:
    site.page("/", gzip.compress(b"0" * 10**7), Content_Encoding="gzip")
    with pytest.raises(BusinessRuleError, match="compressed"):
        await web.fetch(site.url)
    assert "Accept-Encoding: identity\r\n" in site.asked[0]


async def test_A13_a_page_without_end_is_read_up_to_the_limit(site: Site) -> None:
    site.pages["/"] = [b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + b"x" * (2 * web.MOST_BYTES)]
    text = await web.fetch(site.url)
    assert text.count("x") == web.MOST_BYTES
    assert f"[Only the first {web.MOST_BYTES} bytes were read.]" in text


def call(url: str) -> ToolCall:
    return ToolCall(type="tool_call", name="fetch_page", args={"url": url}, id="call-1")


async def test_A13_the_tool_cuts_what_it_read(site: Site) -> None:
    site.page("/", b"x" * 2 * RESULT_LIMIT)
    text = await execute(standard_tools()["fetch_page"], call(site.url), None)
    assert text.startswith(f"{site.url}\n\nxxx")
    assert "[cut: the first" in text


async def test_A13_a_site_that_is_busy_is_asked_again(site: Site) -> None:
    site.page("/", status="503 Service Unavailable")
    site.page("/", status="429 Too Many Requests", Retry_After="0")
    site.page("/", b"hello")
    assert (await execute(standard_tools()["fetch_page"], call(site.url), None)).endswith("hello")
    assert len(site.asked) == Retry().times + 1


async def test_A13_a_page_that_is_not_there_is_not_asked_for_again(site: Site) -> None:
    site.page("/", status="404 Not Found")
    with pytest.raises(BusinessRuleError, match="HTTP status 404"):
        await execute(standard_tools()["fetch_page"], call(site.url), None)
    assert len(site.asked) == 1


@pytest.mark.parametrize("failure", ["down", "refused"])
async def test_A13_a_failure_tells_the_model_nothing_of_the_network(
    site: Site, talk: Callable, llmock, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    site.page("/", b"secret of 127.0.0.1", status="500 Internal Server Error")
    url = {"down": f"{site.url}/", "refused": "http://10.1.2.3/"}[failure]
    llmock.call_tool("fetch_page", {"url": url}).reply("sorry")
    thread = talk()
    await thread.say("read it")
    (result,) = await thread.results()
    assert (result.status, result.text) == {
        "down": ("error", "tool_failure: the tool failed (HTTP 500)."),
        "refused": ("error", f"business_validation: {web._REFUSED}"),
    }[failure]


# --- TLS ---


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate, with its key, for pages.example."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    kind = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    names = ("-subj", "/CN=test", "-addext", "subjectAltName=DNS:pages.example")
    subprocess.run(
        ["openssl", "req", *kind, *names, "-keyout", str(file), "-out", f"{file}.crt"],
        check=True,
        capture_output=True,
    )
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


@pytest.mark.parametrize("name", ["pages.example", "other.example"])
async def test_A13_the_certificate_is_checked_for_the_name_at_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch, certificate: Path, name: str
) -> None:
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate)
    heard: list[str] = []
    ours.sni_callback = lambda _socket, name, _context: heard.append(str(name))
    theirs = ssl.create_default_context(cafile=str(certificate))
    async with served(ours) as site:
        site.page("/", b"private words")
        monkeypatch.setenv("FETCH_ALLOW_PRIVATE", f"127.0.0.1:{site.port}")
        fetching = web.fetch(f"https://{name}:{site.port}/", names("127.0.0.1"), theirs)
        if name == "pages.example":
            assert (await fetching).endswith("private words")
        else:
            with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                await fetching
        assert heard == [name]
        assert len(site.asked) == (name == "pages.example")


async def test_A13_by_default_only_public_authorities_are_trusted(
    monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    web._public_authorities.cache_clear()
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate)
    async with served(ours) as site:
        monkeypatch.setenv("FETCH_ALLOW_PRIVATE", f"127.0.0.1:{site.port}")
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await web.fetch(f"https://pages.example:{site.port}/", names("127.0.0.1"))
