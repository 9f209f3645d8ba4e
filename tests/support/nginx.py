"""Debian's nginx before several servers, with the configuration that deploy/ ships."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template

from tests.support.server import ROOT, free_port
from tests.support.talk import until

SHIPPED = ROOT / "deploy" / "nginx.conf"
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
    include {directory}/holdfast.conf;
}}
"""


def binary() -> str | None:
    """Where nginx is, if it is installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def nginx(ports: Sequence[int]) -> Iterator[str]:
    """The URL at which nginx hands requests to servers at these local ports."""
    port = free_port()
    servers = " ".join(f"server 127.0.0.1:{each} max_fails=1 fail_timeout=2s;" for each in ports)
    with tempfile.TemporaryDirectory(prefix="holdfast-nginx-") as place, tempfile.TemporaryFile("w+") as log:
        directory = Path(place)
        variables = {"HOLDFAST_SERVERS": servers, "HOLDFAST_LISTEN": f"127.0.0.1:{port}"}
        (directory / "holdfast.conf").write_text(Template(SHIPPED.read_text()).safe_substitute(variables))
        user = "user root;" if os.geteuid() == 0 else ""
        (directory / "nginx.conf").write_text(AROUND.format(directory=directory, user=user))
        process = subprocess.Popen([str(binary()), "-c", f"{directory}/nginx.conf", "-p", place], stderr=log)
        try:
            until(lambda: (directory / "nginx.pid").exists() or process.poll() is not None, "nginx listens")
            log.seek(0)
            assert process.poll() is None, log.read()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)
