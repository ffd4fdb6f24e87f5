"""Of which second a blob is, since its replicas are written one after the other, and clients are told the second."""

from __future__ import annotations

import time
from typing import Final

_REALTIME_COARSE: Final = 5  # a clock of Linux that `time` does not name
_SECOND: Final = 10**9  # in nanoseconds


def now() -> int:
    """Tell the time, in nanoseconds since the epoch, by the clock that files get theirs from.

    That lags behind by some milliseconds: nothing that is written from now on is of a time before.
    """
    return time.clock_gettime_ns(_REALTIME_COARSE)


def is_over(moment: int) -> bool:
    """Tell whether its second is over: of what was written since then, some may be of another one."""
    return time.time_ns() // _SECOND != moment // _SECOND
