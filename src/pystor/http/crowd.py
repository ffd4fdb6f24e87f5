"""How many connections a worker has at most: half of its descriptors are for the files that are asked for.

Whoever opens connections and asks for nothing would else keep those who ask from every file.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from itertools import islice
from typing import Final, Protocol

_LOOKED_AT: Final = 1000
"""Connections among which an idle one is looked for."""

_TOLD_EVERY: Final = 60.0  # seconds

_log: Final = logging.getLogger("pystor")


class Guest(Protocol):
    """A connection, as far as it may have to make room for another."""

    @property
    def idle(self) -> bool:
        """Whether nothing is under way on it."""
        ...

    def dismiss(self) -> None:
        """Close it."""
        ...


class Crowd:
    """The connections of a worker, which must not become too many."""

    def __init__(self, descriptors: int) -> None:
        """Take no more than half of so many descriptors for connections."""
        self._most: Final = descriptors // 2
        self._guests: Final[OrderedDict[Guest, None]] = OrderedDict()
        self._told_at = -math.inf

    def join(self, newcomer: Guest) -> None:
        """Take one in; if that is too many an idle one is closed for it, or, if there is none, the newcomer."""
        if len(self._guests) >= self._most:
            (self._find_idle() or newcomer).dismiss()
            self._tell()
        self._guests[newcomer] = None

    def leave(self, guest: Guest) -> None:
        """Take note that one is closed."""
        self._guests.pop(guest, None)

    def _find_idle(self) -> Guest | None:
        """Look at some, those at last that were looked at last."""
        for guest in tuple(islice(self._guests, _LOOKED_AT)):
            if guest.idle:
                return guest
            self._guests.move_to_end(guest)
        return None

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told_at > _TOLD_EVERY:
            self._told_at = now
            _log.warning(
                "there are %d connections, half of what the limit of open files (LimitNOFILE) allows: "
                "idle ones are closed for new ones",
                self._most,
            )
