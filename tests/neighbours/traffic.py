"""A steady mixed load over connections that are kept, and what came of every request."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeAlias

from tests.contract.disk import fresh, sha
from tests.contract.house import House
from tests.contract.wire import Answer, Wire, request
from tests.support.clients import Clients

READERS: Final = 4
SEEKERS: Final = 3
_PAUSE: Final = 0.004
"""Seconds that a client rests between two requests: the load is steady, and leaves the machine room to breathe."""

_LARGE: Final = 100_000  # bytes; such a blob is never answered at once

Kind: TypeAlias = Literal["read", "store", "miss", "archived"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: of which kind, from when to when, and what came of it."""

    kind: Kind
    began: float
    ended: float
    outcome: str
    """`ok`, `away` (503 with Retry-After), or what is wrong."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Traffic(Clients):
    """Clients that read what the pool has, store more, and ask for what is in the archive only, or nowhere.

    Each has one connection, which it keeps. `pooled` are in the pool already, `archived` in the archive only.
    """

    def __init__(self, stor: House, pooled: Sequence[bytes], archived: Sequence[bytes]) -> None:
        self._stor = stor
        self._pooled = {sha(content): content for content in pooled}
        self._archived = {sha(content): content for content in archived}
        self._asked: list[Asked] = []
        clients = [*[self._read] * READERS, *[self._seek] * SEEKERS, self._store]
        super().__init__(partial(self._go_on, client) for client in clients)

    def between(self, began: float, ended: float) -> list[Asked]:
        """What was asked, and answered, within that time."""
        return [asked for asked in self._asked if began <= asked.began and asked.ended <= ended]

    def during(self, seconds: float) -> list[Asked]:
        """Let so many seconds pass, and tell what was asked meanwhile."""
        began = time.monotonic()
        time.sleep(seconds)
        return self.between(began, time.monotonic())

    # The clients

    def _go_on(self, client: Callable[[_Client], Iterator[None]]) -> None:
        talk = _Client(self._stor, self._asked)
        while not self.over.is_set():
            for _ in client(talk):
                if self.over.wait(_PAUSE):
                    break
        talk.hang_up()

    def _read(self, client: _Client) -> Iterator[None]:
        digest, content = random.choice(list(self._pooled.items()))
        client.ask("read", random.choice(("GET", "GET", "GET", "HEAD")), digest, content)
        yield

    def _store(self, client: _Client) -> Iterator[None]:
        """Store a blob and read it again: the workers do not know yet where it is."""
        content = fresh(random.choice((1_000, _LARGE)))
        client.ask("store", "POST", sha(content), content)
        yield
        client.ask("read", "GET", sha(content), content)
        yield

    def _seek(self, client: _Client) -> Iterator[None]:
        client.ask("miss", "GET", sha(fresh()), None)
        yield
        digest, content = random.choice(list(self._archived.items()))
        client.ask("archived", "GET", digest, content)
        yield


class _Client:
    def __init__(self, stor: House, asked: list[Asked]) -> None:
        self._stor = stor
        self._asked = asked
        self._wire: Wire | None = None

    def ask(self, kind: Kind, method: str, digest: str, content: bytes | None) -> None:
        """Ask for a blob, or store it; `content` is None if nobody has it."""
        began = time.monotonic()
        try:
            outcome = _judge(method, content, self._talk(method, digest, content))
        except OSError as error:
            outcome = f"{type(error).__name__}: {error}"
            self.hang_up()
        self._asked.append(Asked(kind, began, time.monotonic(), outcome))

    def _talk(self, method: str, digest: str, content: bytes | None) -> Answer:
        if self._wire is None:
            self._wire = self._stor.wire()
        storing = method == "POST"
        fields = self._stor.login if storing else {}
        self._wire.send(request(method, f"/{digest}", fields, content if storing else None))
        return self._wire.answer(head=method == "HEAD")

    def hang_up(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None


def _judge(method: str, content: bytes | None, answer: Answer) -> str:
    if answer.status == 503 and "retry-after" in answer.headers and method != "POST":
        return "away"
    wanted = 201 if method == "POST" else 404 if content is None else 200
    if answer.status != wanted:
        return f"{method}: {answer.status} {answer.body[:200]!r}"
    if method == "HEAD" and answer.headers["content-length"] != str(len(content or b"")):
        return f"HEAD: {answer.headers['content-length']} bytes"
    return "ok" if method != "GET" or content is None or answer.body == content else "GET: wrong bytes"


def slowest(asked: Sequence[Asked]) -> float:
    """The 99th percentile of the seconds."""
    assert len(asked) >= 100, f"{len(asked)} requests tell little"
    return sorted(each.seconds for each in asked)[len(asked) * 99 // 100]
