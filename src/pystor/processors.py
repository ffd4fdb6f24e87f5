"""Which processors the threads of a process run on.

The threads of an interpreter take turns. On several processors they still do, and each turn wakes another processor:
small uploads take a fifth more time by it. So a worker that may have a processor for itself keeps to that, with all
that is quick; what works without the interpreter (hashes, copies much, waits for a disk) roams.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

_all: Final[set[int]] = set()
"""Where threads may roam; empty if this process does not keep to one."""


def are_taken_by(workers: int) -> bool:
    """Tell whether there is a worker for each processor: then none is idle because they keep to theirs."""
    return workers >= len(os.sched_getaffinity(0))


def keep_to_one(number: int) -> None:
    """Keep this thread, and those that it starts, to one of the processors; to which, a worker's number tells."""
    allowed = os.sched_getaffinity(0)
    with suppress(OSError):  # what is forbidden is not needed either
        os.sched_setaffinity(0, {sorted(allowed)[number % len(allowed)]})
        _all.update(allowed)


def roam() -> None:
    """Let this thread run on any processor again."""
    if _all:
        with suppress(OSError):
            os.sched_setaffinity(0, _all)
