"""Much work in a thread, in slices between which the other threads have their turn.

A thread that does not pause has the interpreter for 5 ms at a time, and who answers a request needs it several times.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

_SLICE: Final = 64
"""Items, which take some 0.2 ms."""

_PAUSE_SECONDS: Final = 0.0001
"""Without any, this thread would have the interpreter back before another has woken up."""


def sliced(items: Iterable[T]) -> Iterator[T]:
    """Give the items, with a pause every now and then."""
    for number, item in enumerate(items, 1):
        if number % _SLICE == 0:
            time.sleep(_PAUSE_SECONDS)
        yield item


class Sliced(list[T]):
    """A list whose items are given so."""

    def __iter__(self) -> Iterator[T]:
        """Go through them in slices."""
        return sliced(super().__iter__())
