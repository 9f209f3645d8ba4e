"""Environments of other servers, from PyPI, in `.bench/peers`: made on first use, and only if they can be.

BENCH_OFFICIAL or BENCH_AEGRA may name an environment that is there already. Where Pythons come from pyenv, it has to
offer the one that is needed: PYENV_VERSION=3.11.7:3.12.1 make bench.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = ROOT / ".bench"
INSTALL_SECONDS = 300


class Unavailable(Exception):
    """This server cannot be had here; the text says why."""


@dataclass(frozen=True)
class Peer:
    """What is installed, at which version, under which Python; `package` is the one whose version is reported."""

    name: str
    requirements: tuple[str, ...]
    python: str
    package: str


OFFICIAL = Peer(
    "official",
    ("langgraph-cli[inmem]==0.4.40", "langgraph-api==0.16.7", "langgraph==1.2.22", "langchain-core==1.7.2"),
    ">=3.11",
    "langgraph-api",
)
AEGRA = Peer("aegra", ("aegra-api==0.11.0", "langgraph==1.2.22", "langchain-core==1.7.2"), ">=3.12", "aegra-api")
PEERS = {peer.name: peer for peer in (OFFICIAL, AEGRA)}


def environment(peer: Peer) -> Path:
    """The directory of the peer's environment, made if it is missing.

    Raises:
        Unavailable: no such Python, no network, or it does not install; or nothing is where it is said to be.
    """
    given = os.environ.get(variable := f"BENCH_{peer.name.upper()}")
    if given:
        if not (Path(given) / "bin/python").exists():
            raise Unavailable(f"{peer.name}: {variable} names no environment: {given}")
        return Path(given)
    place = PLACE / "peers" / f"{peer.name}-{peer.requirements[0].rpartition('=')[2]}"
    if not (place / "ready").exists():
        uv = str(Path(sys.executable).parent / "uv")
        _run(peer, [uv, "venv", "--quiet", "--clear", "--no-python-downloads", "--python", peer.python, str(place)])
        _run(peer, [uv, "pip", "install", "--quiet", "--python", str(place / "bin/python"), *peer.requirements])
        (place / "ready").touch()
    return place


def version(peer: Peer) -> str:
    """The version of the peer's package in its environment."""
    code = f"from importlib.metadata import version; print(version({peer.package!r}))"
    asked = [str(environment(peer) / "bin/python"), "-c", code]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def _run(peer: Peer, command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except FileNotFoundError as missing:
        raise Unavailable(f"{peer.name}: {missing}") from missing
    except subprocess.TimeoutExpired as late:
        raise Unavailable(f"{peer.name}: not installed within {INSTALL_SECONDS} s") from late
    except subprocess.CalledProcessError as failed:
        reason = (failed.stderr or "").strip().splitlines() or [f"status {failed.returncode}"]
        raise Unavailable(f"{peer.name} (needs Python {peer.python} and PyPI): {reason[0]}") from failed
