"""What the terminal shows when the server is ready."""

from __future__ import annotations

import os
from urllib.parse import quote, urlsplit

from holdfast.settings import Settings

STUDIO = "https://smith.langchain.com/studio/?baseUrl="


def welcome(settings: Settings, part: str, url: str, database_url: str, auth: str | None) -> str:
    """The URLs that matter, which database, which model, who may come in (`auth`: the project's own `auth.path`)."""
    several = f", {settings.processes} processes" if part == "serve" and settings.processes > 1 else ""
    lines = [f"Holdfast is ready ({part}{several})", ""]
    if url:
        lines += [
            f"  API       {url}",
            f"  Docs      {url}/docs",
            f"  Studio    {STUDIO}{quote(url, safe=':/')}",
        ]
    lines += [
        f"  Project   {settings.config}",
        f"  Database  {_database(settings, database_url)}",
        f"  Model     {_model()}",
        f"  Access    {_access(settings, auth)}",
        "",
    ]
    return "\n".join(lines)


def _database(settings: Settings, url: str) -> str:
    if settings.database_url is None:
        return f"embedded Postgres in {settings.data_dir}/"
    parts = urlsplit(url)
    return f"{parts.hostname or 'local socket'}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _model() -> str:
    if not os.environ.get("OPENAI_API_KEY"):
        return "no OPENAI_API_KEY: the reference agent answers with its offline stand-in"
    base = os.environ.get("OPENAI_BASE_URL")
    return f"OpenAI-compatible API{f' at {base}' if base else ''} (OPENAI_API_KEY is set)"


def _access(settings: Settings, auth: str | None) -> str:
    if auth is not None:
        return f"whom the project lets in ({auth})"
    ways = []
    if settings.api_keys:
        ways.append(f"API keys of {', '.join(sorted(set(settings.api_keys.values())))}")
    if settings.auth == "keys":
        ways.append("API keys of the database (holdfast keys)")
    if settings.jwt_issuer is not None:
        ways.append(f"tokens of {settings.jwt_issuer}")
    if ways:
        return "; ".join(ways)
    return "open: everybody who can reach it is the one local user"
