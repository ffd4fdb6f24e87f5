"""Where entries go on this machine: the screen, and files."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, Protocol

from pystor.adapters.logs.entries import Entry
from pystor.adapters.logs.formats import FORMATS, Style

_ATOMIC: Final = select.PIPE_BUF


class UnfinishedError(OSError):
    """Some entries could not be written; the first `written` of them were, and would come twice."""

    def __init__(self, error: OSError, written: int) -> None:
        super().__init__(*error.args)
        self.written: Final = written


class Sink(Protocol):
    """Where entries go; used by one thread, which may wait. Everything raises OSError when it cannot be done."""

    name: str

    def open(self) -> None:
        """Make ready, unless it is."""
        ...

    def write(self, entries: Sequence[Entry]) -> None:
        """Write entries down; raises `UnfinishedError` where it is known which of them are."""
        ...

    def close(self) -> None:
        """Let go; `open` may follow."""
        ...


class _Lines:
    """What a screen and a file have in common: a line that a full disk has torn is ended before the next."""

    def __init__(self, style: Style) -> None:
        self._format = FORMATS[style]
        self._handle = -1
        self._torn = False

    def _append(self, entries: Sequence[Entry], room: int) -> None:
        """Write lines, with no write longer than `room` bytes unless a line is."""
        lines = [self._format(entry).encode("utf-8", "backslashreplace") + b"\n" for entry in entries]
        whole = 0
        for piece in _pieces(lines, room):
            begin = b"\n" if self._torn else b""
            written, error = _write_all(self._handle, begin + b"".join(piece))
            ends = list(accumulate(map(len, piece), initial=len(begin)))
            if written:
                self._torn = written not in ends
            if error is not None:
                raise UnfinishedError(error, whole + max(0, bisect_right(ends, written) - 1)) from error
            whole += len(piece)


class Screen(_Lines):
    """Standard error, or standard output."""

    def __init__(self, handle: int, style: Style) -> None:
        super().__init__(style)
        self.name = "Screen"
        self._handle = handle

    def open(self) -> None:
        """Find it open."""

    def write(self, entries: Sequence[Entry]) -> None:
        """Write lines; all workers share the pipe, so no write is longer than what goes into it in one piece."""
        self._append(entries, _ATOMIC)

    def close(self) -> None:
        """Leave it open."""


class File(_Lines):
    """A file that is appended to, and opened anew when it was moved away."""

    def __init__(self, path: str, permissions: int, style: Style) -> None:
        super().__init__(style)
        self.name = f"File {path}"
        self._path = path
        self._permissions = permissions
        self._doubtful = False

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
        if self._doubtful:  # the torn line may be another worker's, or that may have ended ours
            self._torn = self._ends_within_a_line()
        self._doubtful = True
        self._append(entries, sys.maxsize)
        self._doubtful = False

    def _ends_within_a_line(self) -> bool:
        found = os.fstat(self._handle)
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            return False
        try:
            with open(self._path, "rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
        except OSError:  # may be written and not read: better an empty line than two in one
            return True

    def close(self) -> None:
        """Close it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _pieces(lines: Sequence[bytes], room: int) -> Iterator[list[bytes]]:
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > room:
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield piece


def _write_all(handle: int, content: bytes) -> tuple[int, OSError | None]:
    """Tell how many bytes were written, and what kept the rest from it."""
    rest = memoryview(content)
    while rest:
        try:
            rest = rest[os.write(handle, rest) :]
        except BlockingIOError:  # somebody else made it so
            waiting = select.poll()
            waiting.register(handle, select.POLLOUT)
            waiting.poll(1000)
        except OSError as error:
            return len(content) - len(rest), error
    return len(content), None
