"""The directory in which all workers of a supervisor keep their counts."""

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

from pystor.adapters.prometheus.locks import is_dead

_PREFIX: Final = "stor-metrics-"
_MINUTE: Final = 60.0


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """Keep a directory for the counts of all workers, in memory if possible, for as long as the supervisor runs.

    Raises `OSError` if there is room for none, among the temporary files neither.
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
