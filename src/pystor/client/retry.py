"""When to ask again, and when to give up: exponential delays with jitter."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pystor.client.errors import BadContent, ClientError, NotFound, Unavailable

T = TypeVar("T")

_log: Final = logging.getLogger("pystor.client")

_LONGEST_WISH: Final = 300.0  # seconds of a Retry-After that are believed


@dataclass(frozen=True, slots=True)
class Retry:
    """How often something is tried in all, and the delays between: `delay` seconds, then twice that, to `longest`."""

    attempts: int = 10
    delay: float = 0.1
    longest: float = 30.0

    def wait(self, failures: int, wish: float = 0.0, rng: Callable[[], float] = random.random) -> float:
        """Tell the seconds to wait after so many failures: half of them at random, and never less than `wish`.

        Of a wish for more than 300 seconds, 300 are heeded.
        """
        full = min(self.longest, self.delay * 2.0 ** min(failures - 1, 32))
        return max(full * (0.5 + rng() / 2), min(wish, _LONGEST_WISH))


class Tries(Generic[T]):
    """The tries of one request, over everyone who may be asked, the best first.

    They are asked in turn; when all that are left have failed, a delay is due, and `attempts` such rounds are made. One
    that said no, in a way that asking again does not change, is not asked again.
    """

    def __init__(self, retry: Retry, order: Sequence[T]) -> None:
        self._retry = retry
        self._order = list(order)
        self._round = list(order)
        self._rounds = 0
        self._bad_rounds = 0
        self._bad = False  # something in this round
        self._wish = 0.0  # seconds, the longest that one of this round has asked for
        self._no: ClientError | None = None
        self._passing: ClientError | None = None  # the last failure that asking again may change

    @property
    def target(self) -> T:
        """Who is asked now."""
        return self._round[0]

    def progress(self) -> None:
        """Note that much has come since the last failure: those before it count no more.

        Bad content does: of that there may be as much as there is of the good, each time.
        """
        self._rounds = self._bad_rounds

    def after(self, error: ClientError) -> float:
        """Go on to the next after a failure, and tell the seconds to wait before; raises when there is none left.

        "Not found" is raised only if all said so: another's failure means that nobody knows.
        """
        target = self._round.pop(0)
        self._bad = self._bad or isinstance(error, BadContent)
        self._wish = max(self._wish, error.retry_after if isinstance(error, Unavailable) else 0.0)
        if isinstance(error, Unavailable | BadContent):
            self._passing = error
            return self._turn()
        self._order.remove(target)
        if self._no is None or isinstance(self._no, NotFound):
            self._no = error
        if not self._order:
            raise self._no
        return self._turn()

    def _turn(self) -> float:
        if self._round:
            return 0.0
        assert self._passing is not None  # who failed in another way is out of the order, which is not empty
        self._rounds += 1
        self._bad_rounds += self._bad
        self._bad = False
        if self._rounds >= self._retry.attempts:
            raise self._passing
        self._round = list(self._order)
        seconds, self._wish = self._retry.wait(self._rounds, self._wish), 0.0
        _log.debug("%s; trying again in %.1f s", self._passing, seconds)
        return seconds
