"""The numbers of one worker, in a file that is mapped into memory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

from pystor.adapters.prometheus.families import BY_NAME, WIDTH
from pystor.adapters.prometheus.slices import sliced

Key: TypeAlias = tuple[str, tuple[str, ...]]
"""The name of a metric and the values of its labels."""

Counts: TypeAlias = Iterable[tuple[Key, list[float]]]

_SLOTS: Final = 8192
"""Numbers that one worker can count, each 8 bytes; the last are for what finds no room."""

_SIZE: Final = 8 * _SLOTS


class Sheet:
    """The numbers of one worker: an array of doubles, followed in the file by a line for each name.

    A store of eight aligned bytes is never seen half done, so a reader needs no lock.
    """

    def __init__(self, path: Path | None) -> None:
        """Begin an empty sheet. Without a path, or without room there, the numbers are this process's own."""
        self.path: Final = path
        self._file = -1
        self._used = 0
        self._slots: Final[dict[Key, int]] = {}
        self._memory: Final = mmap.mmap(self._open(), _SIZE)
        self.values: Final = memoryview(self._memory).cast("d")

    def _open(self) -> int:
        if self.path is None:
            return -1
        new = self.path.with_suffix(".new")  # nobody may see it before it is locked: it would look dead
        with contextlib.ExitStack() as undo:
            try:
                file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
                undo.callback(os.close, file)
                undo.callback(new.unlink, missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_EX)
                os.posix_fallocate(file, 0, _SIZE)  # a page that cannot be had later would end the process
                new.rename(self.path)
            except OSError:
                return -1
            undo.pop_all()
        self._file = file
        return file

    def slot(self, name: str, labels: tuple[str, ...], width: int = 1) -> int:
        """Tell where a number (or `width` of them) is counted."""
        key = (name, labels)
        found = self._slots.get(key)
        if found is not None:
            return found
        if self._used + width > _SLOTS - WIDTH:
            return _SLOTS - WIDTH  # counted, and told to nobody
        position, self._used = self._used, self._used + width
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.write(self._file, json.dumps([name, labels, position, width]).encode() + b"\n")
        self._slots[key] = position
        return position

    def own(self) -> Counts:
        """Go through the numbers of this worker, which need no file."""
        for key, position in list(self._slots.items()):  # a thread may read while names are added
            yield key, list(self.values[position : position + BY_NAME[key[0]].width])

    @property
    def shared(self) -> bool:
        """Whether others can read these numbers."""
        return self._file >= 0

    def close(self) -> None:
        """Let go of the lock: this worker counts no more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self.values.release()
        self._memory.close()


class Slots(dict[Any, int]):
    """The places of a family's numbers by the values of its labels; made when they are first counted."""

    def __init__(self, sheet: Sheet, name: str) -> None:
        super().__init__()
        self._sheet = sheet
        self._family = BY_NAME[name]

    def __missing__(self, key: Any) -> int:
        labels = key if isinstance(key, tuple) else (key,)
        slot = self._sheet.slot(self._family.name, tuple(map(str, labels)), self._family.width)
        self[key] = slot
        return slot


class Reader:
    """Reads the numbers of a worker, dead or alive, again and again; what it read of the names it remembers."""

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self._places: Final[list[tuple[Key, int, int]]] = []
        self._end = _SIZE

    def read(self) -> list[tuple[Key, list[float]]]:
        """Read them; a name that is not written in full yet has none.

        Raises OSError if the worker has ended, and ValueError if something else is there.
        """
        with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            new, newline, _ = memory[self._end :].rpartition(b"\n")
            self._places.extend([_place(line) for line in sliced(new.split(b"\n") if newline else ())])
            self._end += len(new) + len(newline)
            with memoryview(memory) as raw, raw[:_SIZE] as head, head.cast("d") as values:
                return [(key, list(values[start : start + width])) for key, start, width in sliced(self._places)]


def _place(line: bytes) -> tuple[Key, int, int]:
    name, labels, position, width = json.loads(line)
    return (name, tuple(labels)), position, width
