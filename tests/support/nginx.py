"""Debian's nginx before several servers, with the configuration that deploy/ ships."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template

from tests.support.proxies import Certificate, listening
from tests.support.server import ROOT, free_port

SHIPPED = ROOT / "deploy" / "nginx.conf"
SHIPPED_TLS = ROOT / "deploy" / "nginx-tls.conf"
AROUND = """
daemon off;
{user}
pid {directory}/nginx.pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/conf.d/*.conf;
}}
"""


def binary() -> str | None:
    """Where nginx is, if it is installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def nginx(ports: Sequence[int], certificate: Certificate | None = None) -> Iterator[str]:
    """The URL at which nginx hands requests to servers at these local ports; with a certificate over TLS and HTTP/2."""
    port = free_port()
    variables = {
        "HOLDFAST_SERVERS": " ".join(f"server 127.0.0.1:{each} max_fails=1 fail_timeout=2s;" for each in ports),
        "HOLDFAST_LISTEN": f"127.0.0.1:{port}{' ssl http2' if certificate else ''}",
    }
    files = [SHIPPED]
    if certificate:
        files.append(SHIPPED_TLS)
        variables |= {
            "HOLDFAST_LISTEN_PLAIN": f"127.0.0.1:{free_port()}",
            "HOLDFAST_CERTIFICATE": str(certificate.file),
            "HOLDFAST_CERTIFICATE_KEY": str(certificate.key),
        }

    def command(directory: Path) -> list[str]:
        (directory / "conf.d").mkdir()
        for file in files:
            (directory / "conf.d" / file.name).write_text(Template(file.read_text()).safe_substitute(variables))
        user = "user root;" if os.geteuid() == 0 else ""
        (directory / "nginx.conf").write_text(AROUND.format(directory=directory, user=user))
        return [str(binary()), "-c", f"{directory}/nginx.conf", "-p", str(directory)]

    with listening(port, command):
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
