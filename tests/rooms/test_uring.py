"""A ring goes on when its counters, which are of 32 bits, begin anew: after a day of many answers."""

from __future__ import annotations

import struct

import pytest

from pystor import posix
from pystor.uring import CQE, Ring

LAST = (1 << 32) - 2


class Kernel:
    """What the kernel does with a ring, whose counters nobody else can bring so far. A result is the entry's number."""

    def __init__(self, ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ring = ring
        self._taken = LAST
        self._memory = bytearray(len(ring._rings))
        self._memory[:] = ring._rings[:]
        self.words = memoryview(self._memory)[: len(self._memory) // 4 * 4].cast("I")
        for counter in (ring._sq_tail, ring._cq_head, ring._cq_tail):
            self.words[counter] = LAST
        monkeypatch.setattr(ring, "_rings", self._memory)
        monkeypatch.setattr(ring, "_words", self.words)
        monkeypatch.setattr(posix, "call", self._enter)

    def _enter(self, *arguments: object) -> int:
        ring, words = self._ring, self.words
        while self._taken != words[ring._sq_tail]:
            number = words[ring._sq_array + self._taken % ring._sq_length]
            at = ring._cqes + words[ring._cq_tail] % ring._cq_length * CQE.size
            CQE.pack_into(self._memory, at, number, number, 0)
            self._taken = (self._taken + 1) % (1 << 32)
            words[ring._cq_tail] = (words[ring._cq_tail] + 1) % (1 << 32)
        return len(arguments)


def test_a_ring_goes_on_when_its_counters_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(4)
    kernel = Kernel(ring, monkeypatch)
    for numbers in ([0, 1, 2], [3], [3, 2, 1, 0]):
        chosen = memoryview(struct.pack(f"={len(numbers)}I", *numbers)).cast("I")
        answers = [(number, result) for number, result, _ in CQE.iter_unpack(ring.submit(chosen))]
        assert answers == [(number, number) for number in numbers]
    assert [kernel.words[counter] for counter in (ring._sq_tail, ring._cq_head, ring._cq_tail)] == [6, 6, 6]
