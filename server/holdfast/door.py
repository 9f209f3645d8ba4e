"""The door, as the environment has it: which ways there are to come in."""

from __future__ import annotations

from contextlib import AsyncExitStack

import httpx

from holdfast import __version__
from holdfast.api.apikeys import StoredKeys
from holdfast.api.auth import ConfiguredKeys, KeyGate, Way
from holdfast.api.jsonrpc import loaded
from holdfast.db.apikeys import ApiKeys
from holdfast.db.pool import Database
from holdfast.errors import SettingsError
from holdfast.process import Tasks
from holdfast.project import Project
from holdfast.rules.caller import LOCAL, SERVER
from holdfast.rules.scope import ALL, unknown
from holdfast.settings import Settings


async def way_in(
    settings: Settings, project: Project, database: Database, stack: AsyncExitStack, tasks: Tasks
) -> KeyGate:
    """The gate of a server that knows its callers by their credentials.

    Raises:
        SettingsError: a scope that there is not, or a key for the server itself.
    """
    if SERVER.owner in settings.api_keys.values():
        raise SettingsError(f"HOLDFAST_API_KEYS: no key may be named {SERVER.owner!r}, which is the server itself")
    ways: list[Way] = [ConfiguredKeys(settings.api_keys)]
    if settings.auth == "keys":
        ways.append(StoredKeys(ApiKeys(database)))
    if settings.jwt_issuer is not None:
        ways.append(await _tokens(settings, stack, tasks))
    # The local owner is given a store of the project's own as it is, other owners' trees included (ADR 5).
    nobody = {SERVER.owner, *([LOCAL.owner] if project.sections.store.path else [])}
    return KeyGate(ways, nobody=frozenset(nobody))


async def _tokens(settings: Settings, stack: AsyncExitStack, tasks: Tasks) -> Way:
    if strange := unknown(settings.jwt_default_scopes):
        known = ", ".join(sorted(ALL))
        raise SettingsError(f"HOLDFAST_JWT_DEFAULT_SCOPES: {', '.join(strange)}: must be some of {known}")
    # A fifth of a second, for the cryptography, that nobody else's start pays for.
    tokens = await loaded("holdfast.api.tokens")
    client = httpx.AsyncClient(follow_redirects=False, headers={"user-agent": f"holdfast/{__version__}"})
    issuer = tokens.issuer_of(settings, await stack.enter_async_context(client))
    tasks.start("token-issuer", issuer.watch())
    way: Way = tokens.Tokens(issuer, tokens.terms_of(settings))
    return way
