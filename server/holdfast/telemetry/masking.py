"""Secrets and personal data, taken out of what leaves the process as logs or traces.

One way: what is masked is gone. There are two sources. `known_secrets` finds what this process itself was given, and
masks it by value; `PATTERNS` knows by their shape what others bring. Every repetition is bounded or cannot be entered
twice at one place, so that the time grows with the length of the text, whatever the text is.

What a pattern misses is in the log: this is the last line of defence, not the first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from holdfast.settings import Settings

MIN_SECRET = 6
"""Shorter values are no secrets, and masking them would take ordinary words out of every line."""

DEEPEST = 20
"""Values nested deeper are left out."""

_SECRET_VARIABLE = re.compile(r"(?:KEY|KEYS|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_SHAPE = re.compile(r"^[a-z]+\+")
_SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:authorization|cookie|credentials?|passw(?:or)?d|passphrase|secret|token|api[_-]?keys?|private[_-]?key)$",
    re.IGNORECASE,
)
_ASSIGNED = (
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|passw(?:or)?d|passphrase|secret|(?:access|refresh|auth|bearer)[_-]?token"
    r"|token|client[_-]?secret|(?:x-)?api[_-]?key|private[_-]?key)(['\"]?[ \t]{0,3}[:=][ \t]{0,3}['\"]?)"
    r"(?:(?:bearer|basic|token|digest)[ \t]{1,3})?(?!\[)[^\s'\",;&}\])]++"
)

Replacement = str | Callable[[re.Match[str]], str]
Pattern = tuple[tuple[str, ...], re.Pattern[str], Replacement]
PERSONAL = frozenset({"email", "card", "phone"})


def _card(match: re.Match[str]) -> str:
    """Digits whose checksum is a card number's (ISO/IEC 7812-1)."""
    digits = [int(digit) for digit in match[0] if digit.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return "[card]" if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 else match[0]


PATTERNS: Mapping[str, Pattern] = {
    "private_key": (
        ("-----BEGIN",),
        re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:(?!-----)[\s\S]){0,10000}+(?:-----END[A-Z -]{0,50})?"),
        "[private key]",
    ),
    "url_password": (("://",), re.compile(r"(?<=://)([^\s/@:]{0,256}):[^\s/]{1,1024}@"), r"\1:[password]@"),
    "assigned": ((":", "="), re.compile(_ASSIGNED, re.IGNORECASE), r"\1\2[secret]"),
    "bearer": ((" ",), re.compile(r"\b(bearer|basic)[ \t]{1,3}[\w.~+/=-]{8,}+", re.IGNORECASE), r"\1 [secret]"),
    "jwt": (("eyJ",), re.compile(r"(?<![\w-])eyJ[\w-]{8,}+\.[\w-]{8,}+(?:\.[\w-]*+)?"), "[token]"),
    "provider_key": (
        ("-", "_", "AIza"),
        re.compile(
            r"(?<![\w-])(?:sk-|pk-lf-|sk_(?:live|test)_|rk_(?:live|test)_|lsv2_|gh[opsur]_|github_pat_|glpat-|xox[abeoprs]-"
            r"|hf_|whsec_|npm_|pypi-|AIza)[\w+/=-]{12,}+"
        ),
        "[key]",
    ),
    "aws_key": (("AKIA", "ASIA"), re.compile(r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])"), "[key]"),
    "email": (
        ("@",),
        re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}"),
        "[email]",
    ),
    "card": (("",), re.compile(r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d{2,6}){2,5}(?![\w-])"), _card),
    "phone": (
        ("",),
        re.compile(
            r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"
            r"|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}|1[3-9]\d{9})(?![\w-])"
        ),
        "[phone]",
    ),
}
"""By name: of what every such text has one (it saves looking), what it looks like, and what stands in its place. Those
that others contain come first."""


def known_secrets(settings: Settings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets that this process was given, longest first.

    API keys, the passwords in URLs, where alerts go and what they are reported with (such URLs are credentials), and
    every variable whose name ends in KEY, TOKEN, SECRET or PASSWORD.
    """
    found = {value for name, value in environment.items() if _SECRET_VARIABLE.search(name)}
    found.update(part.strip() for value in tuple(found) for part in value.split(","))
    found.update(settings.api_keys)
    for webhook in settings.alert_webhook.split(","):
        found.update(_SHAPE.sub("", webhook.strip()).split("#"))
    found.add(environment.get("SENTRY_DSN", ""))
    for url in (settings.database_url, settings.database_direct_url, settings.checkpointer_url):
        password = urlsplit(url or "").password or ""
        found.update((password, unquote(password)))
    return tuple(sorted((secret for secret in found if len(secret) >= MIN_SECRET), key=len, reverse=True))


def mask(text: str, secrets: Sequence[str] = ()) -> str:
    """`text` without these secrets, and without what looks like a secret or personal data."""
    if len(text) < MIN_SECRET:
        return text
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, "[secret]")
    return _sought(text, PATTERNS.values())


def _sought(text: str, patterns: Iterable[Pattern]) -> str:
    for signs, pattern, replacement in patterns:
        for sign in signs:
            if sign in text:
                text = pattern.sub(replacement, text)
                break
    return text


def without_secrets(text: str) -> str:
    """`text` without what looks like a secret; what people wrote of themselves stays."""
    return _sought(text, (PATTERNS[name] for name in PATTERNS if name not in PERSONAL))


def masked(value: Any, secrets: Sequence[str] = ()) -> Any:
    """A value as JSON data, all its texts masked; texts under a name like `password` or `api_key` entirely."""
    return _masked(value, secrets, DEEPEST)


def names_secret(name: str, value: object) -> bool:
    """Whether what stands under this name is a secret by its name: a text, called `password` or `api_key`."""
    return isinstance(value, str | bytes) and _SECRET_NAME.search(name) is not None


def _masked(value: Any, secrets: Sequence[str], depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return mask(value, secrets)
    if depth == 0:
        return "[too deep]"
    if isinstance(value, Mapping):
        return dict(_entries(value, secrets, depth))
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(item, secrets, depth - 1) for item in value]
    return mask(str(value), secrets)


def _entries(value: Mapping[Any, Any], secrets: Sequence[str], depth: int) -> Iterator[tuple[str, Any]]:
    for name, entry in value.items():
        known = str(name)
        hidden = names_secret(known, entry)
        yield mask(known, secrets), "[secret]" if hidden else _masked(entry, secrets, depth - 1)
