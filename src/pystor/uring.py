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

SQE: Final = struct.Struct("=BBHiQQIIQ24x")
"""`struct io_uring_sqe`, an entry of the submission queue.

Opcode, flags, priority, descriptor, two addresses, a length, flags of the call, user data.
"""

CQE: Final = struct.Struct("=QiI")
"""`struct io_uring_cqe`, an entry of the completion queue: user data, the result or minus the errno, flags."""

_SYS_SETUP: Final = 425  # the same numbers on every architecture
_SYS_ENTER: Final = 426
_SYS_REGISTER: Final = 427
_ENTER_GETEVENTS: Final = 1
_ENTER_EXT_ARG: Final = 8
_FEATURES: Final = 1 | 1 << 8  # IORING_FEAT_SINGLE_MMAP, IORING_FEAT_EXT_ARG
_REGISTER_IOWQ_MAX_WORKERS: Final = 19
_OFF_SQES: Final = 0x10000000  # where the entries are mapped; both rings are at 0
_WORD: Final = 0xFFFFFFFF

_PARAMS: Final = struct.Struct("=30I")
"""`struct io_uring_params` as words: 0 and 1 are the lengths of both queues, 5 the features.

From 10 on are the offsets of what belongs to the submission queue, from 20 on those of the completion queue.
"""

_GETEVENTS_ARG: Final = struct.Struct("=QIIQqq")
"""`struct io_uring_getevents_arg`, and the `struct __kernel_timespec` to which its last word points."""


class Ring:
    """A pair of queues: entries are prepared once, and submitted again and again.

    For one thread at a time.
    """

    def __init__(self, least: int) -> None:
        """Make room for at least so many entries; raises `OSError` where the kernel has no rings, or forbids them."""
        filled = bytearray(_PARAMS.size)
        self._fd: Final = posix.call(_SYS_SETUP, least, (ctypes.c_char * len(filled)).from_buffer(filled))
        params = _PARAMS.unpack(filled)
        if params[5] & _FEATURES != _FEATURES:
            raise OSError(errno.ENOSYS, "The kernel's io_uring is too old")
        self._sq_length, self._cq_length = params[0:2]
        self._sq_tail, self._sq_array = params[11] // 4, params[16] // 4  # as indices of words
        self._cq_head, self._cq_tail, self._cqes = params[20] // 4, params[21] // 4, params[25]
        size = max(params[16] + 4 * self._sq_length, self._cqes + CQE.size * self._cq_length)
        self._rings: Final = mmap.mmap(self._fd, size)
        self._words: Final = memoryview(self._rings)[: size // 4 * 4].cast("I")
        self.entries: Final = mmap.mmap(self._fd, self._sq_length * SQE.size, offset=_OFF_SQES)
        """To be filled with `SQE`."""

    def let_wait(self, most: int) -> None:
        """Let so many entries wait for a disk at once, each in a thread of the kernel; raises `OSError`."""
        limits = (ctypes.c_uint32 * 2)(most, 0)  # the second is for what is no file
        posix.call(_SYS_REGISTER, self._fd, _REGISTER_IOWQ_MAX_WORKERS, limits, len(limits))

    def submit(self, numbers: memoryview) -> bytes:
        """Have the kernel do entries that do not wait, by their numbers as `I`; returns a `CQE` for each.

        Raises `OSError`. When fewer are returned than there are entries, the others were not done: the kernel had no
        memory for them. They are still in the ring, which is not to be used any more.
        """
        self._put(numbers)
        posix.call(_SYS_ENTER, self._fd, len(numbers), len(numbers), _ENTER_GETEVENTS, None, 0)
        return self.completed()

    def submit_and_wait(self, numbers: memoryview, seconds: float) -> bytes:
        """Have the kernel do entries that may wait; returns a `CQE` for each that was done within so many seconds.

        Other threads go on meanwhile. What takes longer is told by `completed`. Raises `OSError` if an entry was not
        begun: then the ring is not to be used any more.
        """
        self._put(numbers)
        arg = ctypes.create_string_buffer(_GETEVENTS_ARG.size)
        at, count = ctypes.addressof(arg), len(numbers)
        whole, part = divmod(int(seconds * 1e9), 10**9)
        _GETEVENTS_ARG.pack_into(arg, 0, 0, 0, 0, at + _GETEVENTS_ARG.size - 16, whole, part)
        flags, size = _ENTER_GETEVENTS | _ENTER_EXT_ARG, ctypes.c_size_t(_GETEVENTS_ARG.size - 16)
        begun = posix.call_and_wait(_SYS_ENTER, self._fd, count, count, flags, ctypes.c_void_p(at), size)
        if begun < count:
            raise OSError(errno.ENOMEM, "io_uring did not begin all that it was asked")
        return self.completed()

    def completed(self) -> bytes:
        """Return a `CQE` for each entry that was done since the last time."""
        words = self._words
        head = words[self._cq_head]
        done = (words[self._cq_tail] - head) & _WORD
        completions = self._get(head & (self._cq_length - 1), done)
        words[self._cq_head] = (head + done) & _WORD
        return completions

    def _put(self, numbers: memoryview) -> None:
        """Append to the submission queue, and round its end."""
        words, array, tail = self._words, self._sq_array, self._words[self._sq_tail]
        begin = tail & (self._sq_length - 1)
        end = begin + len(numbers)
        if end <= self._sq_length:
            words[array + begin : array + end] = numbers
        else:
            first = self._sq_length - begin
            words[array + begin : array + self._sq_length] = numbers[:first]
            words[array : array + end - self._sq_length] = numbers[first:]
        words[self._sq_tail] = (tail + len(numbers)) & _WORD

    def _get(self, begin: int, count: int) -> bytes:
        """Read from the completion queue from an index on, and round its end."""
        at, end, size, length = self._cqes, begin + count, CQE.size, self._cq_length
        if end <= length:
            return self._rings[at + begin * size : at + end * size]
        return self._rings[at + begin * size : at + length * size] + self._rings[at : at + (end - length) * size]

    def __del__(self) -> None:
        if (fd := getattr(self, "_fd", -1)) >= 0:
            os.close(fd)
