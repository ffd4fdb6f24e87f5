"""A circuit breaker: a storage that hangs or fails as a whole is left alone until a probe of it succeeds.

One that fails to write is left alone by writes; what it gives is as good as ever, since it is verified.
"""

from __future__ import annotations

import enum
import mmap
import os
from typing import Final, Protocol


class State(enum.IntEnum):
    """How far a storage is out."""

    IN = 0
    UNWRITABLE = 1
    OUT = 2


class Switch(Protocol):
    """How far a storage is out, as all who share the switch have found out."""

    def get(self) -> int:
        """Tell the state."""
        ...

    def set(self, state: State) -> None:
        """Tell all others."""
        ...


class OwnSwitch:
    """A switch of one process."""

    def __init__(self) -> None:
        self._state = State.IN

    def get(self) -> int:
        """Tell the state."""
        return self._state

    def set(self, state: State) -> None:
        """Take note."""
        self._state = state


class SharedSwitches:
    """A file of one byte a storage, which all workers have in memory."""

    def __init__(self, path: str, count: int) -> None:
        """Make the file, or join those who have. Raises `OSError`."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, max(count, 1))
            self.memory: Final = mmap.mmap(fd, max(count, 1))
        finally:
            os.close(fd)

    def switch(self, index: int) -> Switch:
        """Give the switch of one storage."""
        return _SharedSwitch(self.memory, index)


class _SharedSwitch:
    def __init__(self, memory: mmap.mmap, index: int) -> None:
        self._memory: Final = memory
        self._index: Final = index

    def get(self) -> int:
        return self._memory[self._index]

    def set(self, state: State) -> None:
        self._memory[self._index] = state
