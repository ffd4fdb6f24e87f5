"""Clients that read without a pause, and how it went."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Final

from tests.contract.disk import sha
from tests.contract.house import House
from tests.support.clients import Clients

CLIENTS: Final = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it began, how many seconds it took, and what came of it."""

    began: float
    seconds: float
    outcome: str
    """`ok`, `wrong`, `cut`, or a status."""


class Repeated(Clients):
    """Requests by some clients, each one after the other, for as long as the block lasts."""

    def __init__(self, ask: Callable[[], str], clients: int, pause: float = 0.0) -> None:
        """`ask` sends a request and tells what came of it."""
        self._ask = ask
        self._pause = pause
        super().__init__([self._repeat] * clients)
        self.asked: Final[list[Asked]] = []

    def _repeat(self) -> None:
        while not self.over.wait(self._pause):
            began = time.monotonic()
            try:
                outcome = self._ask()
            except (OSError, HTTPException) as error:
                outcome = f"cut: {error}"
            self.asked.append(Asked(began, time.monotonic() - began, outcome))

    def outcomes(self) -> set[str]:
        """Everything that came of a request."""
        return {asked.outcome for asked in self.asked}

    def worst(self) -> float:
        """Seconds of the slowest."""
        return max(asked.seconds for asked in self.asked)

    def p99(self, since: float = 0.0) -> float:
        """Seconds within which 99 of 100 were answered, of those that began after `since`."""
        return statistics.quantiles([asked.seconds for asked in self.asked if asked.began >= since], n=100)[-1]


def reads(stor: House, contents: Sequence[bytes], clients: int = CLIENTS) -> Repeated:
    """Read blobs, any of them, and compare the bytes."""

    def read() -> str:
        content = random.choice(contents)
        answer = stor.get(content)
        if answer.status != 200:
            return str(answer.status)
        return "ok" if answer.body == content else "wrong"

    return Repeated(read, clients)


def page(stor: House, target: str) -> Repeated:
    """Ask for a page five times a second."""
    return Repeated(lambda: str(stor.ask("GET", target).status), 1, pause=0.2)


def read_once(stor: House, content: bytes) -> str:
    """Read a blob: `ok`, `wrong`, a status, or `cut`: shorter than declared, so that nobody takes it for the whole."""
    with stor.wire() as wire:
        wire.send(f"GET /{sha(content)} HTTP/1.1\r\nHost: stor\r\nConnection: close\r\n\r\n".encode())
        head, _, body = wire.rest().partition(b"\r\n\r\n")
    status = head.partition(b" ")[2][:3].decode()
    if status != "200":
        return status
    if body == content:
        return "ok"
    return "cut" if len(body) < len(content) else "wrong"
