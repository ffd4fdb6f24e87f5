"""Where downloads go: a file that appears whole or not at all, an open file, or memory."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import stat
from collections.abc import Iterator
from typing import IO, Any, Final, Self

from pystor import unnamed

SYNCED: Final = 1 << 20
"""Bytes from which a file is on stable storage before it has its name. For smaller ones that would take too long."""

_NEVER_REPLACED: Final = frozenset({stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK})
_OURS: Final = os.urandom(8).hex()  # drafts of other processes, on other machines even, have other names
_numbers: Final = itertools.count()


class Draft:
    """A file without a name, or with a temporary one beside its final one; it vanishes unless it was kept."""

    rewinds: Final = True

    def __init__(self, path: str) -> None:
        self._path = path
        self._directory = path[: path.rfind("/") + 1]
        self._name: str | None = None

    def __enter__(self) -> Self:
        file = unnamed.make(self._directory or ".", 0o666)
        self._file = self._make_named() if file is None else file
        return self

    def _make_named(self) -> int:
        name = self._random_name()
        try:
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            self._name = name
        except BaseException:  # also if it is made, and an interruption comes
            _remove(name)
            raise
        return file

    def _random_name(self) -> str:
        return f"{self._directory}.stor-{_OURS}-{next(_numbers)}.part"

    def __exit__(self, *_: object) -> None:
        try:
            os.close(self._file)
        finally:
            if self._name is not None:
                _remove(self._name)

    def write(self, piece: bytes) -> None:
        """Append, however many calls it takes."""
        written = os.write(self._file, piece)
        while written < len(piece):
            written += os.write(self._file, memoryview(piece)[written:])

    def restart(self) -> None:
        """Begin anew."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)

    def sync(self) -> None:
        """Wait until all of it is on stable storage; a power cut leaves a file of that name empty otherwise."""
        os.fdatasync(self._file)

    def keep(self, modified: float | None) -> None:
        """Give it its final name, in the place of what has that now, and its time if that is known."""
        os.close(os.dup(self._file))  # a network filesystem may tell at a close only that it has no room for the bytes
        if modified is not None:
            os.utime(self._file, (modified, modified))
        if self._name is not None or not unnamed.link(self._file, self._path):
            _check_replaced(self._path)
            os.rename(self._name or self._name_it(), self._path)
        self._name = None

    def _name_it(self) -> str:
        """Give it a name that can be renamed: a link replaces nothing."""
        self._name = self._random_name()  # before it has it: an interruption may come then
        unnamed.link(self._file, self._name)
        return self._name


def _check_replaced(path: str) -> None:
    """Raise `FileExistsError` for a device, a pipe or a socket: /dev/null would be a file from then on."""
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except OSError:  # nothing has that name, or the rename tells why
        return
    if kind in _NEVER_REPLACED:
        raise FileExistsError(errno.EEXIST, "is no regular file, and stays; open it, and give the open file", path)


def _remove(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # it has another name by now, or none yet, and an interruption came
        os.unlink(name)


def save(path: str, content: bytes, modified: float | None) -> None:
    """Write a blob that is here as a whole to a file; raises `OSError`."""
    with Draft(path) as draft:
        draft.write(content)
        draft.keep(modified)


class Given:
    """An open file of the caller's, written from where it stands."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._start = file.tell() if file.seekable() else None
        self._touched = False

    @property
    def rewinds(self) -> bool:
        """Whether it is a file, and no pipe."""
        return self._start is not None

    def write(self, piece: bytes) -> None:
        """Append, however many calls it takes; raises `BlockingIOError` when the file does not wait for its reader.

        A `write` that tells nothing has taken all, as files do that are none of Python's own.
        """
        self._touched = True
        rest = memoryview(piece)
        while rest:
            taken: Any = self._file.write(rest)
            if taken is None and not isinstance(self._file, io.RawIOBase):
                return
            if not taken:
                raise BlockingIOError(errno.EAGAIN, "the file takes nothing now; give one that waits until it can")
            rest = rest[taken:]

    def restart(self) -> None:
        """Cut off what was written; raises `io.UnsupportedOperation` if the file cannot do that."""
        if not self._touched:
            return
        if self._start is None:
            raise io.UnsupportedOperation("this file cannot be rewound, so what it got of a bad download stays")
        self._file.seek(self._start)
        self._file.truncate()


@contextlib.contextmanager
def given(file: IO[bytes]) -> Iterator[Given]:
    """Write to the caller's file; what fails within the block leaves nothing there, if the file can be rewound."""
    sink = Given(file)
    try:
        yield sink
    except BaseException:
        with contextlib.suppress(OSError):
            sink.restart()
        raise


class Memory:
    """Bytes in memory."""

    rewinds: Final = True

    def __init__(self) -> None:
        self._buffer = io.BytesIO()

    def write(self, piece: bytes) -> None:
        """Append."""
        self._buffer.write(piece)

    def restart(self) -> None:
        """Begin anew."""
        self._buffer = io.BytesIO()

    @property
    def content(self) -> bytes:
        """All of it, which is not copied if nothing is written any more."""
        return self._buffer.getvalue()


class Nowhere:
    """Takes everything and keeps nothing."""

    rewinds: Final = True

    def write(self, piece: bytes) -> None:
        """Drop it."""

    def restart(self) -> None:
        """There is nothing to begin anew."""
