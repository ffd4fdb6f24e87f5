"""The directory, in memory if possible, in which all workers of a supervisor keep what they share."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PREFIX: Final = "stor-metrics-"  # though it has the switches of the breakers, too: operators know it by this name
_MINUTE: Final = 60.0


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """Make one, for a supervisor that runs within the block, and remove it afterwards.

    Raises `OSError` if there is no room for it, not even among the temporary files.
    """
    path = _made()
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield path
    finally:
        os.close(lock)
        shutil.rmtree(path, ignore_errors=True)


def _made() -> Path:
    with contextlib.suppress(OSError):
        return _made_in(Path("/dev/shm"))
    return _made_in(Path(tempfile.gettempdir()))


def _made_in(parent: Path) -> Path:
    _sweep(parent)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))


def _sweep(parent: Path) -> None:
    """Remove what supervisors left that were killed; a new directory has a moment to be locked."""
    for path in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            mine = path.stat().st_uid == os.geteuid() and not path.is_symlink()
            if mine and time.time() - path.stat().st_mtime > _MINUTE and is_dead(path):
                shutil.rmtree(path, ignore_errors=True)


def is_dead(path: Path, *, share: bool = False) -> bool:
    """Tell whether the process that keeps a file or directory locked has ended.

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
