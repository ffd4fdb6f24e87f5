"""A ring of the kernel's (io_uring): several system calls for the price of one.

Sources: io_uring(7), io_uring_setup(2), io_uring_enter(2).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from typing import Final

from pystor import posix

ENTRY: Final = struct.Struct("=BBHiQQIIQ24x")
"""What is submitted: opcode, flags, priority, descriptor, two addresses, a length, flags of the call, user data."""

ANSWER: Final = struct.Struct("=QiI")
"""What is answered: user data, the result or minus the errno, flags."""

_SYS_SETUP: Final = 425  # the same numbers on every architecture
_SYS_ENTER: Final = 426
_GET_EVENTS: Final = 1
_SINGLE_MMAP: Final = 1
_ENTRIES_AT: Final = 0x10000000  # in what is mapped; the rings are at 0
_WORD: Final = 0xFFFFFFFF

_PARAMS: Final = struct.Struct("=30I")
"""`io_uring_params`: 0 and 1 the lengths of the rings, 5 the features, from 10 and 20 where what is in each of them."""


class Ring:
    """Entries that are prepared once, and submitted again and again. For one thread, and calls that do not wait."""

    def __init__(self, least: int) -> None:
        """Make room for at least so many entries; raises `OSError` where the kernel has no rings, or forbids them."""
        filled = bytearray(_PARAMS.size)
        self._fd: Final = posix.call(_SYS_SETUP, least, (ctypes.c_char * len(filled)).from_buffer(filled))
        params = _PARAMS.unpack(filled)
        if not params[5] & _SINGLE_MMAP:
            raise OSError(errno.ENOSYS, "The kernel's io_uring is too old")
        self._length, self._most = params[0:2]
        self._tail, self._array = params[11] // 4, params[16] // 4
        self._seen, self._done, self._answers = params[20] // 4, params[21] // 4, params[25]
        size = max(params[16] + 4 * self._length, self._answers + ANSWER.size * self._most)
        self._rings: Final = mmap.mmap(self._fd, size)
        self._words: Final = memoryview(self._rings)[: size // 4 * 4].cast("I")
        self.entries: Final = mmap.mmap(self._fd, self._length * ENTRY.size, offset=_ENTRIES_AT)
        """To be filled with `ENTRY`."""

    def submit(self, numbers: memoryview) -> bytes:
        """Have the kernel do entries, by their numbers as `I`; returns an `ANSWER` for each. Raises `OSError`.

        When there are fewer answers than entries, the others were not done: the kernel had no memory for them. They
        are still in the ring, which is not to be used any more.
        """
        words, count = self._words, len(numbers)
        tail, seen = words[self._tail], words[self._seen]
        self._put(tail & (self._length - 1), numbers)
        words[self._tail] = (tail + count) & _WORD
        posix.call(_SYS_ENTER, self._fd, count, count, _GET_EVENTS, None, 0)
        done = (words[self._done] - seen) & _WORD
        answers = self._get(seen & (self._most - 1), done)
        words[self._seen] = (seen + done) & _WORD
        return answers

    def _put(self, begin: int, numbers: memoryview) -> None:
        """Write into the ring of what is submitted, from a place on, and round its end."""
        array, end = self._array, begin + len(numbers)
        if end <= self._length:
            self._words[array + begin : array + end] = numbers
        else:
            first = self._length - begin
            self._words[array + begin : array + self._length] = numbers[:first]
            self._words[array : array + end - self._length] = numbers[first:]

    def _get(self, begin: int, count: int) -> bytes:
        """Read from the ring of what is answered, in the same way."""
        at, end, size = self._answers, begin + count, ANSWER.size
        if end <= self._most:
            return self._rings[at + begin * size : at + end * size]
        return (
            self._rings[at + begin * size : at + self._most * size] + self._rings[at : at + (end - self._most) * size]
        )

    def __del__(self) -> None:
        if (fd := getattr(self, "_fd", -1)) >= 0:
            os.close(fd)
