"""Caddy and Traefik before several servers, with the files that deploy/ ships; what any proxy of a test needs."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from tests.support.server import ROOT, free_port
from tests.support.talk import until

DEPLOY = ROOT / "deploy"


@dataclass(frozen=True, slots=True)
class Certificate:
    """Of 127.0.0.1, signed by itself."""

    file: Path
    key: Path

    @classmethod
    def made(cls, place: Path) -> Certificate:
        made = cls(place / "certificate.pem", place / "key.pem")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        command += ["-keyout", str(made.key), "-out", str(made.file)]
        subprocess.run(command, check=True, capture_output=True)
        return made


def binary(name: str) -> str | None:
    """Where `caddy` or `traefik` is: from this environment, or installed."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


@contextmanager
def caddy(ports: Sequence[int], certificate: Certificate) -> Iterator[str]:
    """The URL at which Caddy hands requests to servers at these local ports."""
    url = f"https://127.0.0.1:{(port := free_port())}"
    given = {
        "HOLDFAST_SITE": url,
        "HOLDFAST_SERVERS": " ".join(f"127.0.0.1:{each}" for each in ports),
        "HOLDFAST_TLS": f"tls {certificate.file} {certificate.key}",
    }
    # Over HTTPS it also listens at port 80 to say so.
    elsewhere = f"\thttp_port {free_port()}\n\tadmin off"

    def command(directory: Path) -> list[str]:
        file = directory / "Caddyfile"
        file.write_text((DEPLOY / "Caddyfile").read_text().replace("\tadmin off", elsewhere))
        return [str(binary("caddy")), "run", "--adapter", "caddyfile", "--config", str(file)]

    with listening(port, command, given):
        yield url


@contextmanager
def traefik(ports: Sequence[int], certificate: Certificate) -> Iterator[str]:
    """The URL at which Traefik hands requests to servers at these local ports."""
    port = free_port()

    def command(directory: Path) -> list[str]:
        static = yaml.safe_load((DEPLOY / "traefik.yml").read_text())
        dynamic = yaml.safe_load((DEPLOY / "traefik.dynamic.yml").read_text())
        static["entryPoints"]["web"]["address"] = f"127.0.0.1:{free_port()}"
        static["entryPoints"]["websecure"]["address"] = f"127.0.0.1:{port}"
        static["providers"]["file"]["filename"] = str(directory / "traefik.dynamic.yml")
        servers = [{"url": f"http://127.0.0.1:{each}"} for each in ports]
        dynamic["http"]["services"]["holdfast"]["loadBalancer"]["servers"] = servers
        dynamic["tls"] = {"certificates": [{"certFile": str(certificate.file), "keyFile": str(certificate.key)}]}
        for name, document in (("traefik.yml", static), ("traefik.dynamic.yml", dynamic)):
            (directory / name).write_text(yaml.safe_dump(document))
        return [str(binary("traefik")), f"--configfile={directory}/traefik.yml"]

    url = f"https://127.0.0.1:{port}"
    trusting = ssl.create_default_context(cafile=certificate.file)
    with listening(port, command), httpx.Client(base_url=url, verify=trusting) as http:
        # It listens before it has read where requests go.
        until(lambda: _is_ready(http), "it knows the servers")
        yield url


@contextmanager
def listening(
    port: int, command: Callable[[Path], Sequence[str]], environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A program that listens at `port`, in a directory of its own, which `command` is given and may write to."""
    with tempfile.TemporaryDirectory(prefix="holdfast-proxy-") as place, tempfile.TemporaryFile("w+") as log:
        given = {**os.environ, "HOME": place, "XDG_DATA_HOME": place, "XDG_CONFIG_HOME": place, **(environment or {})}
        process = subprocess.Popen(command(Path(place)), env=given, cwd=place, stdout=log, stderr=subprocess.STDOUT)
        try:
            until(lambda: _answers(port) or process.poll() is not None, "the proxy listens")
            log.seek(0)
            assert process.poll() is None, log.read()
            yield
        finally:
            process.terminate()
            process.wait(10)


def _is_ready(http: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return http.get("/ready").status_code == 200
    return False


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
