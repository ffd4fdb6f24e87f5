"""Hosts by their names: looked up in threads of our own, and reached by whichever of their addresses answers.

An event loop looks names up in a few threads that all neighbours share. A name server that is silent holds each of them
for ten seconds and more, which no cancellation ends and the end of the process waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from typing import Any, Final, TypeAlias, TypeVar

from pystor.hosts import join_address

Address: TypeAlias = tuple[socket.AddressFamily, tuple[Any, ...]]
"""A family, and what a socket of that family connects to."""

T = TypeVar("T")


class Host:
    """A host by its name and port, and the addresses that were found last, of which the first is used.

    For datagrams, the IPv4 addresses come first: daemons listen there unless told otherwise, and a sender hardly learns
    that nobody listens.
    """

    def __init__(self, name: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
        self.name: Final = name
        self.port: Final = port
        self.addresses: Final = deque[Address]()
        self._kind: Final = kind
        self._answer: Future[list[Address]] | None = None
        self._limit: asyncio.Timeout | None = None

    @property
    def place(self) -> str:
        """The name and the port, as they are written."""
        return join_address(self.name, self.port)

    def ask(self) -> Future[list[Address]]:
        """Begin to look the host up, unless that is under way. The answer is an OSError if there is no address."""
        if self._answer is None or self._answer.done():
            self.hear()
            self._answer = _asked(self.name, self.port, self._kind)
        return self._answer

    def hear(self) -> None:
        """Take what was found meanwhile, whoever asked; addresses that were known keep their order, before new ones."""
        if self._answer is None or not self._answer.done() or self._answer.exception() is not None:
            return
        known, found = list(self.addresses), self._answer.result()
        self.addresses.clear()
        self.addresses.extend([address for address in known if address in found])
        self.addresses.extend([address for address in found if address not in known])

    def turn(self) -> None:
        """Have the next address used: the first one does not answer."""
        self.addresses.rotate(-1)

    async def look_up(self, seconds: float) -> None:
        """Ask, and wait so long for the answer; raises OSError without one, and leaves what was found earlier."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wrap_future(self.ask())
        except TimeoutError:
            raise _silence(seconds) from None
        self.hear()

    def look_up_in_a_thread(self, seconds: float) -> None:
        """Do the same where there is no event loop."""
        try:
            self.ask().result(seconds)
        except TimeoutError:
            raise _silence(seconds) from None
        self.hear()

    async def reach(self, attempt: Callable[[str, int], Awaitable[T]], seconds: float) -> T:
        """Make an attempt at each address, within so many seconds, until one succeeds: that one is used from then on.

        An attempt gets an address, written as a number, and the port. Raises what went wrong at the last one, or an
        OSError if the host cannot be looked up and never was.
        """
        end = time.monotonic() + seconds
        self.hear()
        try:
            await self.look_up(seconds / 2 if self.addresses else seconds)
        except OSError:
            if not self.addresses:
                raise
        for left in range(len(self.addresses) - 1, 0, -1):
            with contextlib.suppress(Exception):
                return await self._attempt(attempt, (end - time.monotonic()) / (left + 1))
        return await self._attempt(attempt, end - time.monotonic())

    async def _attempt(self, attempt: Callable[[str, int], Awaitable[T]], seconds: float) -> T:
        try:
            async with asyncio.timeout(seconds) as self._limit:
                return await attempt(_number(self.addresses[0]), self.port)
        except BaseException:
            self.turn()
            raise
        finally:
            self._limit = None

    def put_off(self, seconds: float) -> None:
        """Give the attempt that is under way, if there is one, so many seconds from now on: the host answers it."""
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + seconds)


def _asked(name: str, port: int, kind: socket.SocketKind) -> Future[list[Address]]:
    """Look a host up in a thread that nobody waits for, not even the end of the process."""
    answer = Future[list[Address]]()
    answer.set_running_or_notify_cancel()  # who gives up waiting for it must not end it for the others

    def find() -> None:
        try:
            found = socket.getaddrinfo(name, port, type=kind)
        except OSError as error:
            answer.set_exception(error)
        except UnicodeError:
            answer.set_exception(socket.gaierror(socket.EAI_NONAME, "no host has such a name"))
        else:
            answer.set_result(_sorted(((family, address) for family, _, _, _, address in found), kind))

    try:
        threading.Thread(target=find, name=f"look up {name}", daemon=True).start()
    except RuntimeError as error:
        answer.set_exception(OSError(errno.EAGAIN, str(error)))
    return answer


def _silence(seconds: float) -> socket.gaierror:
    return socket.gaierror(socket.EAI_AGAIN, f"no name server answered within {seconds:g} s")


def _number(address: Address) -> str:
    """Write an address as a number, with the interface that one of a link is reached by."""
    return socket.getnameinfo(address[1], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]


def _sorted(found: Iterable[Address], kind: socket.SocketKind) -> list[Address]:
    addresses = list(dict.fromkeys(found))
    if kind is socket.SOCK_DGRAM:
        addresses.sort(key=lambda address: address[0] != socket.AF_INET)
    return addresses


def datagrams_to(address: Address) -> socket.socket:
    """Make a socket that never waits, and that hears of it when nobody listens at the other end."""
    family, place = address
    made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        made.connect(place)
    except BaseException:
        made.close()
        raise
    return made
