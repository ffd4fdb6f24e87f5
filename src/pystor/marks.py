"""Which replicas were found good: a million of them, in eight bytes each."""

from __future__ import annotations

from mmap import mmap
from typing import Final

from pystor.blob import Fingerprint

_MOST: Final = 1 << 20
_SPREAD: Final = 0x9E3779B1
"""Devices have small numbers, and the files of disks that were filled alike have like ones."""


class Marks:
    """Remembers which file was which blob. What is new may push out what is old, and is only to be hashed again.

    Of both is kept a number of 64 bits, which Python's `hash` makes of them in another way in each process: what was
    never marked is taken for marked one time in 10^19.
    """

    def __init__(self, most: int = _MOST) -> None:
        """Remember at most so many, a power of two. Memory is taken as it is used."""
        self._marks: Final = memoryview(mmap(-1, 8 * most)).cast("q")
        self._pairs: Final = most - 2

    def has(self, fingerprint: Fingerprint, name: str) -> bool:
        """Tell whether this file was marked as this blob."""
        mark, at = hash((fingerprint, name)), self._place(fingerprint)
        marks = self._marks
        return marks[at] == mark or marks[at + 1] == mark

    def add(self, fingerprint: Fingerprint, name: str) -> None:
        """Mark it; of three that have the same place the oldest is forgotten."""
        mark, at = hash((fingerprint, name)), self._place(fingerprint)
        marks = self._marks
        if marks[at] != mark:
            marks[at + 1], marks[at] = marks[at], mark

    def drop(self, fingerprint: Fingerprint, name: str) -> None:
        """Forget it."""
        mark, at = hash((fingerprint, name)), self._place(fingerprint)
        for each in (at, at + 1):
            if self._marks[each] == mark:
                self._marks[each] = 0

    def _place(self, fingerprint: Fingerprint) -> int:
        device, inode, *_ = fingerprint
        return (2 * inode + device * _SPREAD) & self._pairs
