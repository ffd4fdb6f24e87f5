"""What is sent over sockets in one turn of an event loop, sent in one system call.

Each send wakes the client, which takes the processor from the worker where all processors are busy. Answers that are
sent together wake it once: two workers beside a busy client answer a third more by it.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pystor.uring import CQE, SQE, Ring

LARGEST: Final = 8 << 10
"""Bytes that are posted at most: to copy more takes longer than it saves."""

_NONE: Final = -1
"""No bytes are as few: the end of an answer may be none."""

_MOST: Final = 64
"""Answers that one call sends."""

_FEW: Final = 4
"""If fewer than this are posted in a turn, the next ones are sent at once: a client that is slower than the server had
better hear of each answer early."""
_LOOKS: Final = 32
"""So many are sent at once then, before answers are posted again."""

_OP_SEND: Final = 26
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_WORDS: Final = SQE.size // 4
_FD: Final = 1  # which word of an entry that is
_LENGTH: Final = 6


class Outbox:
    """Sends what was posted when the loop turns, or earlier if it is asked to. To be used in the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Without io_uring nothing is taken."""
        self.turn = 0
        """The number of this turn; it changes as soon as what was posted in the turn is sent."""
        self._largest = LARGEST
        self._at_once = 0  # so many more are to be sent at once
        self._in_this_turn = 0
        self._call_soon: Final = loop.call_soon
        self._posted: list[tuple[int, Callable[[bytes], object]]] = []
        self._memory: Final = mmap.mmap(-1, _MOST * LARGEST)
        self._ring: Ring | None = None
        try:
            self._ring = ring = Ring(_MOST)
        except OSError:
            self._largest = _NONE
            return
        at = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for number in range(_MOST):
            entry = (_OP_SEND, 0, 0, -1, 0, at + number * LARGEST, 0, _FLAGS, number)
            SQE.pack_into(ring.entries, number * SQE.size, *entry)
        self._entries: Final = memoryview(ring.entries).cast("i")
        self._numbers: Final = memoryview(struct.pack(f"={_MOST}I", *range(_MOST))).cast("I")

    def takes(self, size: int) -> bool:
        """Tell whether to post so many bytes; else it is better to send them at once."""
        if self._at_once:
            self._at_once -= 1
            return False
        return size <= self._largest

    def post(self, fd: int, head: bytes, body: bytes | memoryview, unsent: Callable[[bytes], object]) -> int:
        """Have a head and a body sent over a non-blocking socket at the end of the turn; returns the turn's number.

        `unsent` is given what the socket did not take, whatever the reason. As long as `turn` is that number, nothing
        else may be sent over the socket, and it must not be closed.
        """
        if not self._in_this_turn:
            self._call_soon(self._end_turn)
        self._in_this_turn += 1
        if len(self._posted) == _MOST:
            self.flush()
        number = len(self._posted)
        begin = number * LARGEST
        middle = begin + len(head)
        end = middle + len(body)
        self._memory[begin:middle] = head
        self._memory[middle:end] = body
        entry = number * _WORDS
        self._entries[entry + _FD] = fd
        self._entries[entry + _LENGTH] = end - begin
        self._posted.append((end, unsent))
        return self.turn

    def _end_turn(self) -> None:
        if self._in_this_turn < _FEW:
            self._at_once = _LOOKS
        self._in_this_turn = 0
        self.flush()

    def flush(self) -> None:
        """Send what was posted."""
        posted, self._posted = self._posted, []
        self.turn += 1
        if not posted:
            return
        rests = [
            (unsent, self._memory[begin:end])
            for begin, (end, unsent) in zip(self._sent(len(posted)), posted, strict=True)
            if begin < end
        ]
        for unsent, rest in rests:
            unsent(rest)

    def _sent(self, count: int) -> list[int]:
        """Send so many, and tell for each how far that went, as a place in the memory."""
        begins = list(range(0, count * LARGEST, LARGEST))
        for number, size, _ in CQE.iter_unpack(self._submit(count)):
            if size > 0:
                begins[number] += size
        return begins

    def _submit(self, count: int) -> bytes:
        """Send so many; what is not answered is not sent, and then the ring is not used any more."""
        answers = b""
        if self._ring is not None:
            with suppress(OSError):
                answers = self._ring.submit(self._numbers[:count])
        if len(answers) < count * CQE.size:
            self._ring, self._largest = None, _NONE
        return answers
