"""Exit status 0 when the Holdfast of this container answers 200: `healthcheck.py /ok` or `healthcheck.py /ready`.

The standard library alone, so that an image needs no curl.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT_SECONDS = 4.0


def main(path: str) -> int:
    # Only a worker alone has a health port, and no prefix there.
    worker, prefix = os.environ.get("HOLDFAST_HEALTH_PORT"), os.environ.get("MOUNT_PREFIX", "").strip("/")
    connection = HTTPConnection("127.0.0.1", int(worker or os.environ.get("PORT") or 2024), timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", f"/{prefix}{path}" if prefix and not worker else path)
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, HTTPException):
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
