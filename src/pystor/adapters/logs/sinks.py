"""Where entries go on this machine: the screen, and files."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence
from typing import Final, Protocol

from pystor.adapters.logs.entries import Entry
from pystor.adapters.logs.formats import FORMATS, Style

_ATOMIC: Final = select.PIPE_BUF


class Sink(Protocol):
    """Where entries go; used by one thread, which may wait. Everything raises OSError when it cannot be done."""

    name: str

    def open(self) -> None:
        """Make ready, unless it is."""
        ...

    def write(self, entries: Sequence[Entry]) -> None:
        """Write entries down."""
        ...

    def close(self) -> None:
        """Let go; `open` may follow."""
        ...


class Screen:
    """Standard error, or standard output."""

    def __init__(self, handle: int, style: Style) -> None:
        self.name = "Screen"
        self._handle = handle
        self._format = FORMATS[style]

    def open(self) -> None:
        """Find it open."""

    def write(self, entries: Sequence[Entry]) -> None:
        """Write lines; all workers share the pipe, so no write is longer than what goes into it in one piece."""
        pending = b""
        for entry in entries:
            line = self._format(entry).encode("utf-8", "backslashreplace") + b"\n"
            if len(pending) + len(line) > _ATOMIC:
                _write_all(self._handle, pending)
                pending = b""
            pending += line
        _write_all(self._handle, pending)

    def close(self) -> None:
        """Leave it open."""


class File:
    """A file that is appended to, and opened anew when it was moved away."""

    def __init__(self, path: str, permissions: int, style: Style) -> None:
        self.name = f"File {path}"
        self._path = path
        self._permissions = permissions
        self._format = FORMATS[style]
        self._handle = -1

    def open(self) -> None:
        """Open it, or make it."""
        if self._handle >= 0 and self._is_in_place():
            return
        self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._handle = os.open(self._path, flags, self._permissions)

    def _is_in_place(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self._path), os.fstat(self._handle))
        return False

    def write(self, entries: Sequence[Entry]) -> None:
        """Append lines."""
        lines = "".join(f"{self._format(entry)}\n" for entry in entries)
        _write_all(self._handle, lines.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Close it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _write_all(handle: int, content: bytes) -> None:
    while content:
        try:
            content = content[os.write(handle, content) :]
        except BlockingIOError:  # somebody else made it so
            waiting = select.poll()
            waiting.register(handle, select.POLLOUT)
            waiting.poll(1000)
