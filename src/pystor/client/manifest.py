"""What was uploaded before, so that it need not be done again: a file that `sha256sum -c` reads."""

from __future__ import annotations

import bisect
import errno
import fcntl
import os
import re
import stat
from typing import Final, Self

from pystor.client import sums

_BEGUN: Final = b"# begun at %d.%09d by stor put; a file that was changed since is uploaded again\n"
_BEGAN: Final = re.compile(rb"# begun at (\d+)\.(\d{9}) by stor put\b.*\n")
_STRUCK: Final = b"#"  # in the place of a line's first byte, it makes a comment of it


class Manifest:
    """A file of `sha256sum`'s lines, one for each path that was uploaded, and a comment for each run that wrote some.

    The comment has the time at which the run began. A file that was changed before that is what the run has read. A
    line that is replaced by another for the same path is made a comment.
    """

    def __init__(self, path: str) -> None:
        self._path: Final = path
        self._lines: Final[dict[str, int]] = {}  # where they begin
        self._runs: Final[list[tuple[int, int]]] = [(0, 0)]  # where their lines begin, and when they began themselves
        self._begun = False
        self._torn: int | None = None  # where a line begins that was not written to its end

    def __enter__(self) -> Self:
        """Open it, or make it, for this process alone; raises `OSError`."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise OSError(errno.EINVAL, "is no regular file")
            self._lock()
            self._read()
            os.utime(self._file)  # by the clock that the files next to it have, and as coarse
            self._now = os.fstat(self._file).st_mtime_ns
        except BaseException:
            os.close(self._file)
            raise
        return self

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # its lines would be taken for those of a run that began at another time
            raise OSError(errno.EAGAIN, "is in use by another stor put") from None

    def _read(self) -> None:
        at = 0
        with open(self._path, "rb") as file:
            for line in file:
                if (run := _BEGAN.fullmatch(line)) is not None:
                    self._runs.append((at, int(run[1] + run[2])))
                if not line.endswith(b"\n"):  # by a power cut
                    self._torn = at
                elif (entry := sums.parse(line[:-1])) is not None:
                    self._take(entry[1], at)
                at += len(line)

    def _take(self, path: str, at: int) -> None:
        if (before := self._lines.get(path)) is not None:
            self._strike(before)
        self._lines[path] = at

    def _strike(self, at: int) -> None:
        """Make a line a comment."""
        mark = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)  # the other descriptor only appends
        try:
            os.pwrite(mark, _STRUCK, at)
        finally:
            os.close(mark)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def has(self, path: str, changed: int) -> bool:
        """Tell whether a file was uploaded as it is; `changed` is when it was, in nanoseconds since 1970."""
        at = self._lines.get(path)
        if at is None:
            return False
        _, began = self._runs[bisect.bisect(self._runs, at, key=lambda run: run[0]) - 1]
        return changed < began

    def is_it(self, path: str) -> bool:
        """Tell whether a file is the manifest itself; raises `OSError`."""
        return os.path.samestat(os.stat(path), os.fstat(self._file))

    def note(self, digest: str, path: str) -> None:
        """Add a line; raises `OSError`, which names the manifest."""
        try:
            if not self._begun:
                self._runs.append((self._append(_BEGUN % divmod(self._now, 10**9)), self._now))
                self._begun = True
            self._take(path, self._append(os.fsencode(f"{sums.line(digest, path)}\n")))
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from None

    def _append(self, line: bytes) -> int:
        """Write a line; returns where it begins."""
        if self._torn is not None:
            self._strike(self._torn)  # while it has no end; with one it would be a line
            self._write(b"\n")
        self._torn = at = os.fstat(self._file).st_size
        self._write(line)
        self._torn = None
        return at

    def _write(self, text: bytes) -> None:
        if os.write(self._file, text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
