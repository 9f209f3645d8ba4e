"""An issuer of tokens: a real HTTP server with its metadata and its keys, which sign and rotate."""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.server import free_port

AUDIENCE = "holdfast"
CURVES: dict[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def new_key(kind: str) -> PrivateKey:
    """A key for this algorithm."""
    if kind.startswith("ES"):
        return ec.generate_private_key(CURVES[kind])
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Issuer:
    """As a context manager it answers on loopback; `paths` is what it was asked for so far.

    `listed` are the keys of its key set, `broken` what it answers in place of everything (status, headers, body).
    """

    listed: dict[str, tuple[str, PrivateKey]] = field(default_factory=dict)
    broken: tuple[int, dict[str, str], bytes] | None = None
    paths: list[str] = field(default_factory=list)
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, kid: str, algorithm: str = "ES256") -> None:
        """List a new key."""
        self.listed[kid] = (algorithm, new_key(algorithm))

    def token(
        self, kid: str = "one", *, key: Any = None, algorithm: str = "", headers: Any = None, **claims: Any
    ) -> str:
        """A good token of `ada`, but for what is said otherwise; a claim that is None is left out."""
        now = int(time.time())
        good = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 300, "scope": "read write run"}
        known, own = self.listed.get(kid, ("ES256", None))
        said = {name: value for name, value in {**good, **claims}.items() if value is not None}
        return jwt.encode(said, key or own, algorithm or known, headers={"kid": kid} if headers is None else headers)

    def jwks(self) -> dict[str, Any]:
        return {"keys": [_jwk(kid, algorithm, key) for kid, (algorithm, key) in self.listed.items()]}

    def __enter__(self) -> Self:
        answers, this = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with answers:
                    this.paths.append(self.path)
                    status, headers, body = this.broken or this._answer(self.path)
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                del args

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        documents = {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            "/keys": self.jwks(),
        }
        if path not in documents:
            return 404, {}, b""
        return 200, {"content-type": "application/json"}, json.dumps(documents[path]).encode()


def _jwk(kid: str, algorithm: str, key: PrivateKey) -> dict[str, Any]:
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, "kid": kid, "use": "sig"}


def unsigned(claims: dict[str, Any], header: dict[str, Any], signature: bytes = b"") -> str:
    """A token as somebody writes one by hand."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
