"""Where downloads go: a file that appears whole or not at all, an open file, or memory."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Iterator
from typing import BinaryIO, Final, Self

_OURS: Final = os.urandom(8).hex()  # drafts of other processes, on other machines even, have other names
_numbers: Final = itertools.count()


class Draft:
    """A file with a temporary name beside its final one; it vanishes at the end of the `with` unless it was kept."""

    def __init__(self, path: str) -> None:
        self._path = path
        directory, slash, _ = path.rpartition("/")
        self._draft = f"{directory}{slash}.stor-{_OURS}-{next(_numbers)}.part"

    def __enter__(self) -> Self:
        self._file = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        if self._draft != self._path:
            os.unlink(self._draft)

    def write(self, piece: bytes) -> None:
        """Append, however many calls it takes."""
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def restart(self) -> None:
        """Begin anew."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)

    def keep(self, modified: float | None) -> None:
        """Give it its final name, and its time if that is known."""
        if modified is not None:
            os.utime(self._file, (modified, modified))
        os.rename(self._draft, self._path)
        self._draft = self._path


class Given:
    """An open file of the caller's, written from where it stands."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = file.tell() if file.seekable() else None

    def write(self, piece: bytes) -> None:
        """Append."""
        rest = memoryview(piece)
        while rest:
            rest = rest[self._file.write(rest) :]

    def restart(self) -> None:
        """Cut off what was written; raises `io.UnsupportedOperation` if the file cannot do that."""
        if self._start is None:
            raise io.UnsupportedOperation("this file cannot be rewound, so what it got of a bad download stays")
        self._file.seek(self._start)
        self._file.truncate()


@contextlib.contextmanager
def given(file: BinaryIO) -> Iterator[Given]:
    """Leave nothing of a failed download in a file that can be rewound."""
    sink = Given(file)
    try:
        yield sink
    except BaseException:
        with contextlib.suppress(OSError):
            sink.restart()
        raise


class Memory:
    """Bytes in memory."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        """Append."""
        self._pieces.append(piece)

    def restart(self) -> None:
        """Begin anew."""
        self._pieces.clear()

    @property
    def content(self) -> bytes:
        """All of it."""
        return b"".join(self._pieces)


class Nowhere:
    """Takes everything and keeps nothing."""

    def write(self, piece: bytes) -> None:
        """Drop it."""

    def restart(self) -> None:
        """There is nothing to begin anew."""
