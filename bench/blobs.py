"""The blobs that are read and stored: laid down as the original Stor would have done, or named before they are sent."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NUMBER = 16
"""Bytes that a body ends with, which make it another one than the others: a number in digits."""


def path_of(digest: str) -> str:
    """Where a replica lies in its storage."""
    name = digest.upper()
    return f"{name[:2]}/{name[2:4]}/{name[4:6]}/{name}.dat"


def lay(pair: Sequence[Path], count: int, size: int) -> list[str]:
    """Put blobs of random bytes into all storages of a pair; returns their digests."""
    digests = []
    for _ in range(count):
        content = os.urandom(size)
        digests.append(hashlib.sha256(content).hexdigest())
        for storage in pair:
            path = storage / path_of(digests[-1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return digests


@dataclass(slots=True)
class Bodies:
    """Bodies of one size that have never been sent before: the same random bytes, and a number."""

    size: int
    filler: bytes = field(init=False)
    _hashed: hashlib._Hash = field(init=False)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        """Make the bytes that all have in common."""
        self.filler = os.urandom(self.size - NUMBER)
        self._hashed = hashlib.sha256(self.filler)

    def name(self, count: int) -> tuple[int, list[str]]:
        """Tell the number of the first of so many fresh bodies, and the digests of all."""
        numbers = list(itertools.islice(self._numbers, count))
        return numbers[0], [self._digest(number) for number in numbers]

    def _digest(self, number: int) -> str:
        hasher = self._hashed.copy()
        hasher.update(b"%016d" % number)
        return hasher.hexdigest()

    def body(self, number: int) -> bytes:
        """One of them."""
        return self.filler + b"%016d" % number
