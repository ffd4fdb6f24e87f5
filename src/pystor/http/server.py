"""The server: one listening socket, and uvicorn in several worker processes.

A worker ends when its supervisor is gone. Its event loop answers pings: one that is busy does so in its turn, and
one that hangs in a disk does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from pystor import processors
from pystor.hosts import join_address
from pystor.http.connection import SharedState
from pystor.http.crowd import Crowd
from pystor.http.dispatch import Application
from pystor.http.protocol import StorProtocol
from pystor.http.supervisor import PARTED, READY, STOPPING, Line, Supervisor, tell
from pystor.http.wire import Limits
from pystor.outbox import Outbox

BACKLOG: Final = 2048
"""Connections that may wait to be accepted."""

MOST_OPEN: Final = 1 << 20
"""Descriptors that a process never needs more of; where there is no limit, who goes through all would not end."""

KILL_AFTER: Final = 2.0
"""Seconds that a worker has after its shutdown_timeout, before it is killed."""

PARTING: Final = 0.1
"""Seconds in which a server that ends still takes requests of those who are connected: they may be on their way."""

_log: Final = logging.getLogger(__name__)


def serve(
    application: Callable[[], Application],
    listener: socket.socket,
    *,
    host: str,
    workers: int,
    limits: Limits,
    shutdown_timeout: float,
    announce: Callable[[str], None],
) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status: 0, or 1 when no worker could be started.

    `application` is called in every worker process, so it must be picklable. `listener` is what `listen` returned; it
    is closed at the end. `announce` is called once with the URL at this `host`, when requests are answered. Raises
    OSError when the system has no room for the workers.
    """
    _allow_descriptors()
    url = _url(host, listener.getsockname()[1])
    task = Task(application, listener, limits, shutdown_timeout, settled=processors.are_taken_by(workers))
    grace = shutdown_timeout + KILL_AFTER
    supervisor = Supervisor(task.run, workers, grace=grace, on_ready=lambda: announce(url))
    return supervisor.run(on_stop=partial(close, listener))


def _allow_descriptors() -> None:
    """Let this process, and those that it starts, have as many files and connections open as they may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_OPEN if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError):  # then it has what it has
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _descriptors() -> int:
    """Tell how many files and connections this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if soft == resource.RLIM_INFINITY else soft


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen; a name with addresses of both families is served on the first IPv4 one.

    Port 0 takes a free one. Raises OSError when the address cannot be bound.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # from now on clients wait instead of being refused
    except OSError:
        listener.close()
        raise
    return listener


def close(listener: socket.socket) -> None:
    """Listen no more, in no process: a worker that a hung disk keeps from ending would hold the port for ever."""
    with contextlib.suppress(OSError):  # it is closed
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def _url(host: str, port: int) -> str:
    return f"http://{join_address(host, port)}"


@dataclass(frozen=True)
class Task:
    """What a worker does; it is pickled and runs in the worker's process."""

    application: Callable[[], Application]
    listener: socket.socket
    limits: Limits
    shutdown_timeout: float
    settled: bool
    """Whether each worker keeps to a processor of its own."""

    def run(self, line: Line, number: int) -> None:
        """Serve until SIGTERM, or until the supervisor is gone."""
        server = Server(self._config(), partial(tell, line), number if self.settled else None)
        for stopping in STOPPING:
            # For the time before uvicorn handles them; and after, when it raises them again, which must not end
            # this process before its exit handlers have run.
            signal.signal(stopping, lambda *_: setattr(server, "should_exit", True))
        threading.Thread(target=self._answer_pings, args=(server, line), name="supervised", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # blocked by the supervisor until someone listens
        try:
            server.run([self.listener])
        except RuntimeError:
            # The event loop closes its executor by a thread, and the system may have none to give now.
            if not server.ended:
                raise

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._build,
            factory=True,
            http=StorProtocol,
            loop="uvloop",
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=math.ceil(self.limits.keep_alive_timeout),
            timeout_graceful_shutdown=self.shutdown_timeout,  # type: ignore[arg-type]  # a float does as well
        )

    def _build(self) -> Application:
        try:
            return self.application()
        except Exception:  # noqa: BLE001  # whatever it is: the next attempt would fail alike
            _log.exception("The application could not be built")
            sys.exit(STARTUP_FAILURE)

    def _answer_pings(self, server: Server, line: Line) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                server.in_turn(partial(tell, line, line.recv_bytes()))
        server.should_exit = True  # the supervisor is gone
        time.sleep(self.shutdown_timeout + KILL_AFTER)
        os._exit(STARTUP_FAILURE)


class Server(uvicorn.Server):
    """uvicorn's server, which tells when it is ready and when it ends, and leaves no connection open when it ends."""

    def __init__(self, config: uvicorn.Config, say: Callable[[bytes], None], processor: int | None = None) -> None:
        """`say` is called with READY and, later, with PARTED.

        `processor` is the number of the one that it keeps to as soon as it serves, or None.
        """
        super().__init__(config)
        self.server_state: SharedState = SharedState()
        self._processor = processor
        self._say = say
        self.ended = False
        """Whether it has served, and does not any more."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def in_turn(self, action: Callable[[], None]) -> None:
        """Have the event loop do something in its turn; do it here before it serves, which may take long, and after."""
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(action)
                return
        except RuntimeError:  # it is closed
            pass
        action()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve."""
        if self._processor is not None:
            processors.keep_to_one(self._processor)  # not before: it starts sooner wherever there is room
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="stor", initializer=processors.roam))
        self.server_state.outbox = Outbox(loop)
        self.server_state.crowd = Crowd(_descriptors())
        await super().startup(sockets)
        # What was made by now stays: looking through it for garbage took up to a tenth of the time.
        gc.collect()
        gc.freeze()
        self._loop = loop
        self._say(READY)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop serving: a moment to part, then uvicorn's grace, then the end of whoever is still connected."""
        await self._part()
        await super().shutdown(sockets)
        for connection_ in list(self.server_state.connections):
            if isinstance(connection_, StorProtocol):
                connection_.transport.abort()
        await asyncio.sleep(0)  # for the connections to hear of it
        self.ended = True

    async def _part(self) -> None:
        """Take no more connections, and answer those that are there once more.

        Who has just been accepted, here and not by the worker that goes on, has asked for nothing yet.
        """
        for server in self.servers:
            server.close()
        self.server_state.parting = True
        self._say(PARTED)
        until = time.monotonic() + PARTING
        await asyncio.sleep(PARTING / 10)
        # uvicorn does not tell when a connection ends.
        while self.server_state.connections and time.monotonic() < until and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(PARTING / 10)
