"""What a process needs besides its parts: a socket, signals, background tasks with an owner, and uvicorn on top."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from holdfast.errors import SettingsError
from holdfast.patience import Patience, PatientProtocol
from holdfast.settings import Settings

logger = logging.getLogger(__name__)

CANCEL_AGAIN_SECONDS = 1.0
BACKLOG = 2048


class Tasks:
    """The background tasks of the process; one that dies stops the process loudly."""

    def __init__(self, failed: asyncio.Event) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Coroutine[Any, Any, None], *, may_end: bool = False) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda done: self._ended(done, may_end=may_end))
        self._tasks.append(task)

    async def stop(self) -> None:
        running = set(self._tasks)
        while running:
            # A cancellation that meets a query may come back as the database's error, which the task outlives.
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_SECONDS)

    def _ended(self, task: asyncio.Task[None], *, may_end: bool) -> None:
        if task.cancelled() or (may_end and task.exception() is None):
            return
        logger.critical("background task %s ended", task.get_name(), exc_info=task.exception())
        self._failed.set()


class Server(uvicorn.Server):
    """uvicorn on our socket; signals are ours, not its."""

    def __init__(self, app: ASGIApp, listener: socket.socket, patience: Patience | None = None) -> None:
        config = uvicorn.Config(
            app,
            http=partial(PatientProtocol, patience=patience or Patience()),  # type: ignore[arg-type]  # called like a class
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=3,
            # Longer than proxies keep theirs (60 s, most of them): nobody writes to a connection that we just close.
            timeout_keep_alive=75,
        )
        super().__init__(config)
        self._listener = listener
        host, port = listener.getsockname()[:2]
        try:
            listener.listen(BACKLOG)  # from now on nobody is refused
        except OSError as error:  # somebody else was faster
            raise _cannot_listen(host, port, error) from error
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve(sockets or [self._listener])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int, setting: str = "PORT") -> socket.socket:
    """A socket at this address, which HOST and `setting` give.

    It takes connections from when it is served: one that waited in a queue meanwhile would not go to another replica,
    which has time for it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        door.bind((host, port))
    except OSError as error:
        door.close()
        raise _cannot_listen(host, port, error, setting) from error
    return door


def _cannot_listen(host: str, port: int, error: OSError, setting: str = "PORT") -> SettingsError:
    return SettingsError(f"cannot listen on {host}:{port} (set HOST, {setting}): {error.strerror}")


def shared_door(settings: Settings) -> socket.socket:
    """Keeps an address for several processes, each of which makes a socket of its own of it (`own_door`).

    On Linux every process has a queue of its own (SO_REUSEPORT) and the kernel deals connections out by their hash.
    With one queue for all, whoever wakes first accepts all that wait: of 32 clients who connected at once, one of two
    processes got 23 to 31, and all of 8; with two queues 14 to 18, and 3 to 5. Connections stay, so that is how it
    remains. Nobody waits in the queue of a process that is not there either: this socket does not listen.
    """
    alone = listen(settings.host, settings.port)
    if sys.platform != "linux":
        return alone
    # That came to be without SO_REUSEPORT, which would have let us in beside another server.
    family, address = alone.family, alone.getsockname()
    alone.close()
    return _bound(family, address)


def own_door(shared: socket.socket) -> socket.socket:
    """This process's socket at the address of `shared`; it listens from when it is served."""
    if sys.platform != "linux":
        return shared
    door = _bound(shared.family, shared.getsockname())
    # A forked child (multiprocessing) would keep it open after our death, and the kernel send connections to nobody.
    os.register_at_fork(after_in_child=door.close)
    return door


def _bound(family: int, address: Any) -> socket.socket:
    door = socket.socket(family)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        door.setsockopt(socket.SOL_SOCKET, option, 1)
    door.bind(address)
    return door


class Tether:
    """What ties one of several processes to the one that started it: a socket between the two.

    Up goes that this one is ready. Down comes a byte for every signal, so that a signal to the whole group, as from a
    terminal or systemd, is not heard twice. It breaks when the other one dies, however it does; then this one ends at
    once, as if it had been killed itself.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._heard: Callable[[], object] = partial(os._exit, 0)  # nothing has begun yet
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # ignored by us, and not by programs that the project starts
        threading.Thread(target=self._listen, name="holdfast-tether", daemon=True).start()

    def ready(self, url: str) -> None:
        with suppress(OSError):  # the other one has died, which the thread knows
            self._socket.sendall(f"{url}\n".encode())

    def signals(self) -> asyncio.Queue[None]:
        """What is `signals()` elsewhere."""
        stop: asyncio.Queue[None] = asyncio.Queue()
        self._heard = partial(asyncio.get_running_loop().call_soon_threadsafe, stop.put_nowait, None)
        return stop

    def _listen(self) -> None:
        with suppress(OSError):
            while self._socket.recv(1):
                with suppress(RuntimeError):  # the event loop has ended, and the process is about to
                    self._heard()
        os._exit(1)


def allow_many_files() -> None:
    """Every open stream is a file to the kernel: take as many as this process may ask for."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS promises more than it gives.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def own_url(settings: Settings, listener: socket.socket | None) -> str:
    """Where this machine reaches its server; a worker alone takes it for the one that its settings describe."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    port = listener.getsockname()[1] if listener else settings.port
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def signals() -> asyncio.Queue[None]:
    stop: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.put_nowait, None)
    return stop


async def first(stop: asyncio.Queue[None], *events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(stop.get()), *(asyncio.create_task(event.wait()) for event in events)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def leave_within(seconds: float, status: int) -> None:
    """End the process after so long, whatever still runs in it.

    A synchronous node is a thread, and Python waits for its threads; a task may ignore that it was cancelled.
    """

    def end() -> None:
        logger.warning("something does not end; leaving without it")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)

    watchdog = threading.Timer(seconds, end)
    watchdog.daemon = True
    watchdog.start()
