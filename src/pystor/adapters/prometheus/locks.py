"""Locks of files: who lives, and who may touch the files of the dead."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path


def is_dead(path: Path, *, share: bool = False) -> bool:
    """Whether nobody holds a file or directory any more.

    Those that only read look with `share`: several at once must not take each other for the owner.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if share else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


@contextlib.contextmanager
def locked(directory: Path, *, share: bool) -> Iterator[bool]:
    """Keep readers, which share, and a worker that takes over apart, for 20 ms at most; tells whether that worked."""
    kind = fcntl.LOCK_SH if share else fcntl.LOCK_EX
    try:
        handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # there is no room for it, or somebody removed the directory
        yield False
        return
    try:
        yield any(_try(handle, kind) for _ in range(20))
    finally:
        os.close(handle)


def _try(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.001)
        return False
    return True
