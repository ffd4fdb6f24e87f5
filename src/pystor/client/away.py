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


class Away:
    """The hosts that gave no answer. URLs are of whatever is asked for at them."""

    def __init__(self) -> None:
        self._until: Final[dict[str, float]] = {}

    def note(self, url: str) -> None:
        """Note that somebody gave no answer."""
        self._until[urlsplit(url).netloc] = time.monotonic() + _SECONDS

    def back(self, url: str) -> None:
        """Note that somebody gave one."""
        if self._until:
            self._until.pop(urlsplit(url).netloc, None)

    def last(self, order: Sequence[T]) -> Sequence[T]:
        """Order those who are away behind the others, which stay in their order."""
        return sorted(order, key=self._is_away) if self._until else order

    def _is_away(self, asked: Asked) -> bool:
        return self._until.get(urlsplit(asked.url).netloc, 0.0) > time.monotonic()
