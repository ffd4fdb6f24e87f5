"""A circuit breaker: a storage that hangs or fails as a whole is left alone until a probe of it succeeds.

One that fails to write is left alone by writes; what it gives is as good as ever, since it is verified.

Beside that, all who have the same storage tell each other here what it failed with, and whether somebody waits for
its disk.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
import time
import zlib
from typing import Final, Protocol

_LATELY: Final = 0.25
"""Seconds for which somebody counts as waiting for the disk who said so."""


class State(enum.IntEnum):
    """How far a storage is out."""

    IN = 0
    UNWRITABLE = 1
    OUT = 2


class Switch(Protocol):
    """How far a storage is out and why, as all who share it have found out, and whether somebody waits for its disk."""

    def get(self) -> int:
        """Tell the state."""
        ...

    def set(self, state: State) -> None:
        """Tell all others."""
        ...

    def blame(self, reason: str) -> None:
        """Tell all others what the storage failed with."""
        ...

    @property
    def reason(self) -> str | None:
        """What it failed with last, whoever saw that; None if it never did."""
        ...

    def hurry(self) -> None:
        """Tell all others that somebody waits for the disk: who has much for it should give it little at a time."""
        ...

    @property
    def hurried(self) -> bool:
        """Whether somebody said so just now."""
        ...


class OwnSwitch:
    """A switch of one process."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._state = State.IN
        self._hurry = 0.0

    def get(self) -> int:
        """Tell the state."""
        return self._state

    def set(self, state: State) -> None:
        """Take note."""
        self._state = state

    def blame(self, reason: str) -> None:
        """Take note."""
        self.reason = reason

    def hurry(self) -> None:
        """Take note."""
        self._hurry = time.monotonic()

    @property
    def hurried(self) -> bool:
        """Whether that was just now."""
        return time.monotonic() - self._hurry < _LATELY


class SharedSwitches:
    """A file with a record for each storage, which all workers have in memory."""

    def __init__(self, path: str, count: int) -> None:
        """Make the file, or join those who have. Raises `OSError`."""
        size = max(count, 1) * _RECORD.size
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            self.memory: Final = mmap.mmap(fd, size)
        finally:
            os.close(fd)

    def switch(self, index: int) -> Switch:
        """Give the switch of one storage."""
        return _SharedSwitch(self.memory, index * _RECORD.size)


_HURRY: Final = struct.Struct("d")  # seconds of the clock that all processes share
_LONGEST: Final = 1020  # bytes of a reason
_REASON: Final = struct.Struct(f"I{_LONGEST}s")  # its checksum, since two may write at once; and the text
_RECORD: Final = struct.Struct(f"{_HURRY.size}sB7x{_REASON.size}s")


class _SharedSwitch:
    def __init__(self, memory: mmap.mmap, start: int) -> None:
        self._memory: Final = memory
        self._hurry: Final = start
        self._state: Final = start + _HURRY.size
        self._reason: Final = self._state + 8

    def get(self) -> int:
        return self._memory[self._state]

    def set(self, state: State) -> None:
        self._memory[self._state] = state

    def blame(self, reason: str) -> None:
        text = reason.encode("utf-8", "replace")[:_LONGEST]
        _REASON.pack_into(self._memory, self._reason, zlib.crc32(text), text)

    @property
    def reason(self) -> str | None:
        checksum, padded = _REASON.unpack_from(self._memory, self._reason)
        text: bytes = padded.rstrip(b"\0")
        return str(text, "utf-8", "replace") if text and checksum == zlib.crc32(text) else None

    def hurry(self) -> None:
        _HURRY.pack_into(self._memory, self._hurry, time.monotonic())

    @property
    def hurried(self) -> bool:
        since: float = _HURRY.unpack_from(self._memory, self._hurry)[0]
        return time.monotonic() - since < _LATELY
