"""A circuit breaker: a storage that hangs or fails as a whole is left alone until a probe of it succeeds.

One that fails to write is left alone by writes; what it gives is as good as ever, since it is verified.

Beside that, all who have the same storage tell each other here what it failed with, and whether somebody waits for
its disk.
"""

from __future__ import annotations

import contextlib
import enum
import mmap
import os
import struct
import time
import zlib
from typing import Final

from pystor import posix

_LATELY: Final = 0.25
"""Seconds for which somebody counts as waiting for the disk who said so."""

_WHEN: Final = struct.Struct("d")  # seconds of the clock that all processes share
_LONGEST: Final = 1020  # bytes of a reason
_REASON: Final = struct.Struct(f"I{_LONGEST}s")  # its checksum, since two may write at once; and the text
_RECORD: Final = struct.Struct(f"{_WHEN.size}s{_WHEN.size}sB7x{_REASON.size}s")


class State(enum.IntEnum):
    """How far a storage is out."""

    IN = 0
    UNWRITABLE = 1
    OUT = 2


class SharedSwitches:
    """A record for each storage, which all workers have in memory."""

    def __init__(self, path: str | None, count: int) -> None:
        """Make the file, or join those who have. Without a path, or without room there, the records are one's own."""
        size = max(count, 1) * _RECORD.size
        self.memory: Final = shared_memory(path, size)

    def switch(self, index: int) -> Switch:
        """Give the switch of one storage."""
        return Switch(self.memory, index * _RECORD.size)


def shared_memory(path: str | None, size: int) -> mmap.mmap:
    """Map so many bytes of a file, which is made unless it is there; one's own without a path, or without room."""
    if path is not None:
        with contextlib.suppress(OSError), posix.opened(path, os.O_RDWR | os.O_CREAT) as fd:
            os.posix_fallocate(fd, 0, size)  # a page that cannot be had later would end the process
            return mmap.mmap(fd, size)
    return mmap.mmap(-1, size)


class Switch:
    """How far a storage is out and why, as all who share it have found out, and whether somebody waits for its disk."""

    def __init__(self, memory: mmap.mmap, start: int) -> None:
        """`start` is where the record of the storage begins."""
        self._memory: Final = memory
        self._hurry: Final = start
        self._turn: Final = start + _WHEN.size
        self._state: Final = self._turn + _WHEN.size
        self._reason: Final = self._state + 8

    def get(self) -> int:
        """Tell the state."""
        return self._memory[self._state]

    def set(self, state: State) -> None:
        """Tell all others."""
        self._memory[self._state] = state

    def blame(self, reason: str) -> None:
        """Tell all others what the storage failed with."""
        text = reason.encode("utf-8", "replace")[:_LONGEST]
        _REASON.pack_into(self._memory, self._reason, zlib.crc32(text), text)

    @property
    def reason(self) -> str | None:
        """What it failed with last, whoever saw that; None if it never did."""
        checksum, padded = _REASON.unpack_from(self._memory, self._reason)
        text: bytes = padded.rstrip(b"\0")
        return str(text, "utf-8", "replace") if text and checksum == zlib.crc32(text) else None

    def hurry(self) -> None:
        """Tell all others that somebody waits for the disk: who has much for it should give it little at a time."""
        _WHEN.pack_into(self._memory, self._hurry, time.monotonic())

    @property
    def hurried(self) -> bool:
        """Whether somebody said so just now."""
        since: float = _WHEN.unpack_from(self._memory, self._hurry)[0]
        return time.monotonic() - since < _LATELY

    def is_turn(self, period: float) -> bool:
        """Tell whether it is time for what one of all does every `period` seconds: then it is whoever asked."""
        now = time.monotonic()
        last: float = _WHEN.unpack_from(self._memory, self._turn)[0]
        if last and now - last < period:
            return False
        _WHEN.pack_into(self._memory, self._turn, now)
        return bool(last)  # it counts from the first who asks
