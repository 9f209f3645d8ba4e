"""Starts a server that sends its traces to a place that takes everything and looks at nothing:

    python -m bench.sink langfuse|otlp|hole COMMAND...

`hole` is a Langfuse that never answers. The place is a process beside the server's, and counted with it: it is asked
once for some hundred spans.
"""

from __future__ import annotations

import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NEVER_SECONDS = 3600


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    is_hole = False

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if self.is_hole:
            time.sleep(NEVER_SECONDS)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


def environment(kind: str, url: str) -> dict[str, str]:
    """What makes a server send its traces to `url`."""
    if kind == "otlp":
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
    return {"LANGFUSE_BASE_URL": url, "LANGFUSE_PUBLIC_KEY": "pk-lf-bench", "LANGFUSE_SECRET_KEY": "sk-lf-bench"}


def main() -> None:
    kind, *command = sys.argv[1:]
    _Sink.is_hole = kind == "hole"
    sink = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    url = f"http://127.0.0.1:{sink.server_address[1]}"
    if os.fork() == 0:
        sink.serve_forever()
    sink.server_close()
    os.execvpe(command[0], command, {**os.environ, **environment(kind, url)})


if __name__ == "__main__":
    main()
