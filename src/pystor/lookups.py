"""Many look-ups in one system call: whether a blob's path is missing below all of many directories.

A look-up in the kernel's cache takes it a microsecond, and to ask for each from Python takes another. Where a disk has
to be asked, a thread for each would take fifty.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from pystor import posix
from pystor.digest import Digest
from pystor.uring import CQE, SQE, Ring

MANY: Final = 3
"""Directories that are asked in less time at once than one by one."""

_OP_OPENAT2: Final = 28
_LENGTH: Final = len(Digest.of(b"").path)
_MISSING: Final = frozenset({-errno.ENOENT, -errno.ENOTDIR})


class _Lookups:
    """Looks for each `Digest.path`, all of which have one length. For one thread at a time.

    No directory is held open, so no mount is busy.
    """

    def __init__(self, directories: Sequence[str], how: ctypes.Structure) -> None:
        """Prepare to look below each directory; raises `OSError` without io_uring."""
        prefixes = [os.fsencode(directory) + b"/" for directory in directories]
        self._ring: Final = Ring(len(prefixes))
        self._parts: Final = [*prefixes, b""]
        self._paths: Final = ctypes.create_string_buffer(sum(len(prefix) + _LENGTH + 1 for prefix in prefixes))
        self._room: Final = memoryview(self._paths).cast("B")
        at = ctypes.addressof(self._paths)
        for number, prefix in enumerate(prefixes):
            entry = (_OP_OPENAT2, 0, 0, posix.AT_FDCWD, ctypes.addressof(how), at, ctypes.sizeof(how), 0, number)
            SQE.pack_into(self._ring.entries, number * SQE.size, *entry)
            at += len(prefix) + _LENGTH + 1

    def _set(self, name: bytes) -> None:
        self._room[:] = (name + b"\0").join(self._parts)


class Choice(NamedTuple):
    """Some of the directories, to be asked in one go."""

    numbers: memoryview
    """Which ones, by their numbers."""
    missing: bytes
    """The completions when none of them has the name."""


class CachedLookups(_Lookups):
    """Looks for names in the kernel's caches, without waiting."""

    def __init__(self, directories: Sequence[str]) -> None:
        """Prepare to look below each directory; raises `OSError` without io_uring."""
        super().__init__(directories, posix.READ_CACHED)

    def choose(self, numbers: Sequence[int]) -> Choice:
        """Choose the directories, by their numbers, that are asked in one go."""
        missing = b"".join(CQE.pack(number, -errno.ENOENT, 0) for number in numbers)
        return Choice(_words(numbers), missing)

    def none_has(self, name: bytes, choice: Choice) -> bool:
        """Tell whether the kernel knows of each that it has no such file; False also if it would have to ask a disk.

        Raises `OSError` when this way does not work any more.
        """
        self._set(name)
        answers = self._ring.submit(choice.numbers)
        if answers == choice.missing:
            return True
        for _, result, _ in CQE.iter_unpack(answers):
            if result >= 0:
                os.close(result)
        if len(answers) != len(choice.missing):
            raise OSError(errno.EIO, "io_uring did not answer all that it was asked")
        return False


class WaitingLookups(_Lookups):
    """Looks for names on the disks, on all of them at once."""

    def __init__(self, directories: Sequence[str]) -> None:
        """Prepare to look below each directory; raises `OSError` without io_uring."""
        super().__init__(directories, posix.LOOK)
        self._ring.let_wait(len(directories))
        self.late: frozenset[int] = frozenset()
        """The numbers of those that have not answered in time."""

    def missing(self, name: bytes, numbers: Sequence[int], seconds: float) -> frozenset[int]:
        """Tell which of the directories, by their numbers, have no such file; what takes over `seconds` is `late`.

        As long as something is, nothing more can be asked. Raises `OSError` when this way does not work any more.
        """
        self._set(name)
        self.late, missing = self._left(set(numbers), self._ring.submit_and_wait(_words(numbers), seconds))
        return missing

    def hear(self) -> None:
        """See which of those that were late have answered since."""
        self.late, _ = self._left(set(self.late), self._ring.completed())

    @staticmethod
    def _left(asked: set[int], answers: bytes) -> tuple[frozenset[int], frozenset[int]]:
        """Tell who of those that were asked has not answered, and who has no such name."""
        missing = set()
        for number, result, _ in CQE.iter_unpack(answers):
            asked.discard(number)
            if result in _MISSING:
                missing.add(number)
            elif result >= 0:
                os.close(result)
        return frozenset(asked), frozenset(missing)


def _words(numbers: Sequence[int]) -> memoryview:
    return memoryview(struct.pack(f"={len(numbers)}I", *numbers)).cast("I")
