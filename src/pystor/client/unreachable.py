"""Who gave no answer a moment ago, and is asked last therefore."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar
from urllib.parse import urlsplit

_SECONDS: Final = 10.0  # for which it is remembered


class Asked(Protocol):
    """Somebody who is asked by a URL."""

    @property
    def url(self) -> str:
        """Where."""


T = TypeVar("T", bound=Asked)


class Unreachable:
    """The hosts that gave no answer. URLs are of whatever is asked for at them.

    When one was away for a while, a single one of those who ask is let through to it, and the others wait for what that
    finds out.
    """

    def __init__(self, timeout: float) -> None:
        """Take the seconds after which an answer is known not to come."""
        self._timeout: Final = timeout
        self._until: Final[dict[str, float]] = {}

    def note(self, url: str) -> None:
        """Note that somebody gave no answer."""
        self._until[_host(url)] = time.monotonic() + _SECONDS

    def back(self, url: str) -> None:
        """Note that somebody gave one."""
        if self._until:
            self._until.pop(_host(url), None)

    def last(self, order: Sequence[T]) -> Sequence[T]:
        """Order those who are away behind the others, which stay in their order. To be called once for a request."""
        if not self._until:
            return order
        now = time.monotonic()
        order = sorted(order, key=lambda asked: self._until.get(_host(asked.url), 0.0) > now)
        first = _host(order[0].url)
        if self._until.get(first, now) < now:
            self._until[first] = now + max(_SECONDS, self._timeout)
        return order


def _host(url: str) -> str:
    return urlsplit(url).netloc
