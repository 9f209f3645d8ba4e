"""Graph factories: functions of the user that make a graph for one run.

A factory may be a plain function, a coroutine function, or either kind of context manager
(`contextlib.contextmanager`, `contextlib.asynccontextmanager`), whose exit then frees what the graph used.
It may ask for the run's config and for LangGraph's `ServerRuntime`, recognised by annotation or else by
name; a lone parameter that says nothing gets the config.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langgraph_sdk.runtime import ServerRuntime

_Role = Literal["config", "runtime"]


class Factory:
    """A user's factory, called anew for every use.

    Raises:
        TypeError: on construction, when the function needs an argument that we do not have.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._roles = _roles(function)

    @property
    def wants_runtime(self) -> bool:
        return "runtime" in self._roles.values()

    @asynccontextmanager
    async def made(self, config: RunnableConfig, runtime: ServerRuntime[Any] | None) -> AsyncIterator[object]:
        """What the factory makes, for as long as it lasts. What the user's code raises goes through."""
        result = await self._call({"config": config, "runtime": runtime})
        if isinstance(result, AbstractAsyncContextManager):
            async with result as value:
                yield value
        elif isinstance(result, AbstractContextManager):
            async with _in_threads(result) as value:
                yield value
        else:
            yield result

    async def _call(self, values: dict[_Role, Any]) -> object:
        signature = inspect.signature(self._function)
        bound = signature.bind_partial()
        bound.arguments.update({name: values[role] for name, role in self._roles.items()})
        if _returns_at_once(self._function):
            result = self._function(*bound.args, **bound.kwargs)
        else:
            # It may well do blocking I/O, and the loop carries everybody else's runs.
            result = await asyncio.to_thread(self._function, *bound.args, **bound.kwargs)
        return await result if inspect.isawaitable(result) else result


def _returns_at_once(function: Callable[..., Any]) -> bool:
    """Coroutine functions and decorated generators do nothing yet when they are called."""
    inner = inspect.unwrap(function)
    return any(
        test(inner) for test in (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    )


def _roles(function: Callable[..., Any]) -> dict[str, _Role]:
    parameters = list(inspect.signature(function).parameters.values())
    roles: dict[str, _Role] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        role = _role(parameter)
        if role is None and parameter.default is parameter.empty:
            if len(parameters) > 1 or parameter.annotation is not parameter.empty:
                raise TypeError(
                    f"the factory asks for {parameter}; it may take a RunnableConfig ('config') "
                    "and a ServerRuntime ('runtime')"
                )
            role = "config"
        if role is not None:
            roles[parameter.name] = role
    return roles


def _role(parameter: inspect.Parameter) -> _Role | None:
    # By the annotation's text: it may be a string that does not resolve here, an alias, or one side of a
    # union.
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    if "ServerRuntime" in text:
        return "runtime"
    if "RunnableConfig" in text:
        return "config"
    if parameter.name == "runtime":
        return "runtime"
    return "config" if parameter.name == "config" else None


@asynccontextmanager
async def _in_threads(manager: AbstractContextManager[Any]) -> AsyncIterator[object]:
    """A synchronous context manager, entered and left where it may block."""
    value = await asyncio.to_thread(manager.__enter__)
    try:
        yield value
    except BaseException as error:
        if not await asyncio.to_thread(manager.__exit__, type(error), error, error.__traceback__):
            raise
    else:
        await asyncio.to_thread(manager.__exit__, None, None, None)
