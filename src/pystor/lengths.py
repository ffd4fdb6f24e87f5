"""How many blobs wait on a queue, told to all processes that work on it by the one that looked last.

What fails stays on the queue and is tried by each of them in turn, so that what each has found must not be added up.
"""

from __future__ import annotations

from typing import Final

from pystor.breaker import shared_memory

_SIZE: Final = 8  # bytes of a number


class Lengths:
    """A number for each replica set, which all workers have in memory."""

    def __init__(self, path: str | None, count: int) -> None:
        """Make the file, or join those who have. Without a path, or without room there, the numbers are one's own."""
        self._numbers: Final = memoryview(shared_memory(path, max(count, 1) * _SIZE)).cast("Q")

    def tell(self, index: int, length: int) -> None:
        """Tell all others how many wait for a set; to be done by who has its turn."""
        self._numbers[index] = length

    def total(self) -> int:
        """How many wait for all sets."""
        return sum(self._numbers)
