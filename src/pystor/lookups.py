"""Many look-ups in one system call: whether a name is missing below all of many directories.

A look-up in the kernel's cache takes it a microsecond, and to ask for each from Python takes another.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from pystor import posix
from pystor.uring import CQE, SQE, Ring

_OP_OPENAT2: Final = 28


class Choice(NamedTuple):
    """Some of the directories, to be asked in one go."""

    numbers: memoryview
    """Which ones, by their numbers."""
    missing: bytes
    """The completions when none of them has the name."""


class Lookups:
    """Looks for names that are all of one length. For one thread. No directory is held open, so no mount is busy."""

    def __init__(self, prefixes: Sequence[bytes], length: int) -> None:
        """Prepare to look for names of `length` bytes behind each prefix; raises `OSError` without io_uring."""
        self._ring: Final = Ring(len(prefixes))
        self._parts: Final = [*prefixes, b""]
        self._paths: Final = ctypes.create_string_buffer(sum(len(prefix) + length + 1 for prefix in prefixes))
        self._room: Final = memoryview(self._paths).cast("B")
        how, size = ctypes.addressof(posix.READ_CACHED), ctypes.sizeof(posix.READ_CACHED)
        at = ctypes.addressof(self._paths)
        for number, prefix in enumerate(prefixes):
            entry = (_OP_OPENAT2, 0, 0, posix.AT_FDCWD, how, at, size, 0, number)
            SQE.pack_into(self._ring.entries, number * SQE.size, *entry)
            at += len(prefix) + length + 1

    def choose(self, numbers: Sequence[int]) -> Choice:
        """Choose the prefixes, by their numbers, that are asked in one go."""
        missing = b"".join(CQE.pack(number, -errno.ENOENT, 0) for number in numbers)
        return Choice(memoryview(struct.pack(f"={len(numbers)}I", *numbers)).cast("I"), missing)

    def none_has(self, name: bytes, choice: Choice) -> bool:
        """Tell whether the kernel knows of each that it has no such file; False also if it would have to ask a disk.

        Raises `OSError` when this way does not work any more.
        """
        self._room[:] = (name + b"\0").join(self._parts)
        answers = self._ring.submit(choice.numbers)
        if answers == choice.missing:
            return True
        for _, result, _ in CQE.iter_unpack(answers):
            if result >= 0:
                os.close(result)
        if len(answers) != len(choice.missing):
            raise OSError(errno.EIO, "io_uring did not answer all that it was asked")
        return False
