"""A queue of digests as a directory of empty files: durable, idempotent, and to be looked at with `ls`."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from typing import Final

from pystor import posix, tree
from pystor.digest import Digest, digests_in


class Entries:
    """The entries below one directory: none if it is not there. Every method raises `OSError`."""

    def __init__(self, directory: str) -> None:
        self._directory: Final = directory

    def add(self, digest: Digest) -> None:
        """Note a digest, or note it anew; it is on stable storage when this returns."""
        path = f"{self._directory}/{_names(digest)[0]}"
        while not self._renew(path):
            pass  # it was removed in this very moment
        tree.sync(self._directory)

    def _renew(self, path: str) -> bool:
        with _opened(path, os.O_WRONLY | os.O_CREAT) as fd:
            now = time.time_ns()
            os.utime(fd, ns=(now, now))
            return _leads_to(path, fd)

    def remove(self, digest: Digest, noted_before: float) -> None:
        """Forget a digest, unless it was noted anew since a moment, in seconds since the epoch.

        One that was noted in the future was noted when the clock was wrong. It may come back after a power cut:
        whatever is done about it may be done twice.
        """
        for name in _names(digest):
            path = f"{self._directory}/{name}"
            with suppress(FileNotFoundError), _opened(path, os.O_RDONLY) as fd:
                is_news = noted_before <= os.fstat(fd).st_mtime <= time.time()
                if not is_news and _leads_to(path, fd):
                    os.unlink(path)

    def list(self, most: int, beyond: int = 0) -> list[Digest]:
        """Tell the digests that are noted, at most `most`, leaving out the first `beyond`, in the directory's order."""
        with suppress(FileNotFoundError), os.scandir(self._directory) as files:
            names = (file.name for file in files if _is_entry(file))
            return list(islice(digests_in(names), beyond, beyond + most))
        return []

    def take_turn(self) -> ExitStack | None:
        """Lock the directory until what is returned is closed, or the process ends; None if somebody else has."""
        with ExitStack() as turn:
            try:
                fcntl.flock(turn.enter_context(posix.opened(self._directory)), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:
                pass  # nothing is noted, so there is nothing to lock
            except BlockingIOError:
                return None
            return turn.pop_all()


def _names(digest: Digest) -> tuple[str, str]:
    """Tell the name of an entry, and the one that an operator may give it, who has it from `sha256sum`."""
    return digest.hex.upper(), digest.hex


def _is_entry(file: os.DirEntry[str]) -> bool:
    """Tell whether it may be one; what is no file, such as a pipe, is somebody else's, whatever its name."""
    return file.name in (file.name.upper(), file.name.lower()) and file.is_file(follow_symlinks=False)


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    """Open an entry and keep others from it."""
    with posix.opened(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW) as fd:
        with suppress(OSError):  # where there are no locks, it is a race that is rarely lost
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd


def _leads_to(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
