"""The sheets of all workers: added up by whoever is asked, and continued when their owner is dead."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from pystor.adapters.prometheus.families import BY_NAME
from pystor.adapters.prometheus.sheet import Counts, Key, Reader, Sheet
from pystor.adapters.prometheus.slices import sliced
from pystor.shared_directory import is_dead

Totals: TypeAlias = dict[Key, list[float]]

_SUFFIX: Final = ".counts"


class Workers:
    """The sheet of this worker among those of the others."""

    def __init__(self, directory: Path | None) -> None:
        """Begin a sheet in the directory; without one, or without room there, this worker is alone."""
        unique = f"{os.getpid()}-{time.monotonic_ns():x}"
        self.sheet: Final = Sheet(None if directory is None else directory / f"{unique}{_SUFFIX}")
        self._directory: Final = directory if self.sheet.shared else None
        self._readers: dict[Path, Reader] = {}
        self._others: tuple[Totals, int] = {}, 0

    def totals(self) -> tuple[Totals, int]:
        """Add up what all counted, and tell how many workers live."""
        if self._directory is not None:
            # Without descriptors the others are what they were: if some were left out, their counts would seem to fall.
            with contextlib.suppress(OSError):
                self._others = self._read_others(self._directory)
        others, workers = self._others
        totals = dict(others)
        _add(totals, self.sheet.own(), gauges=True)
        return totals, workers + 1

    def _read_others(self, directory: Path) -> tuple[Totals, int]:
        totals: Totals = {}
        workers = 0
        with _locked(directory, share=True):
            paths = directory.glob(f"*{_SUFFIX}")
            self._readers = {path: self._readers.get(path) or Reader(path) for path in paths}
            for path, reader in self._readers.items():
                with contextlib.suppress(FileNotFoundError, ValueError):  # it ended, or begins, just now
                    if path != self.sheet.path:
                        alive = not is_dead(path, share=True)
                        _add(totals, reader.read(), gauges=alive)
                        workers += alive
        return totals, workers

    def take_over(self) -> None:
        """Continue the counts of workers that are dead, so that their files do not pile up."""
        if self._directory is None:
            return
        with _locked(self._directory, share=False) as is_locked:
            for path in self._directory.glob(f"*{_SUFFIX}") if is_locked else ():
                with contextlib.suppress(OSError, ValueError):
                    if path != self.sheet.path and is_dead(path):
                        left = Reader(path).read()
                        path.unlink()
                        self._continue(left)

    def _continue(self, left: Counts) -> None:
        for (name, labels), numbers in left:
            if name in BY_NAME and BY_NAME[name].kind != "gauge":
                slot = self.sheet.slot(name, labels, len(numbers))
                for offset, number in enumerate(numbers):
                    self.sheet.values[slot + offset] += number


def _add(totals: Totals, more: Counts, *, gauges: bool) -> None:
    for key, numbers in sliced(more):
        if key[0] not in BY_NAME or (BY_NAME[key[0]].kind == "gauge" and not gauges):
            continue
        so_far = totals.get(key)
        totals[key] = numbers if so_far is None else [a + b for a, b in zip(so_far, numbers, strict=True)]


@contextlib.contextmanager
def _locked(directory: Path, *, share: bool) -> Iterator[bool]:
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
