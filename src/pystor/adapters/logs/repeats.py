"""What an operator is told about events: each failure at once, and the same one again as a number."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Hashable, Mapping
from typing import Final

from pystor.events import Event, LeftoversSwept, NeighbourFailed, PromotionFailed, ReplicaBad, StorageFailed

REPEATED: Final = 10.0
"""Seconds in which the same failure is one line."""

TOLD: Final = frozenset({StorageFailed, ReplicaBad, PromotionFailed, NeighbourFailed, LeftoversSwept})
"""The events that are written down by `log`."""

KEYS: Final = 1000
"""Failures that are known at a time; with more, what is new counts as a repetition."""

_log: Final = logging.getLogger("pystor")


def log(event: Event, more: int = 0) -> None:
    """Write down what an operator should know; an `Observer`. `more` of the same were left out."""
    match event:
        case StorageFailed(error, digest):
            place = {"storage": error.storage, "operation": error.operation}
            text = f"storage failed: {error.describe()}"
            if digest is not None:
                place, text = {**place, "digest": digest.hex}, f"{text} (blob {digest.hex})"
            _tell(logging.WARNING, text, more, place)
        case ReplicaBad(digest, storage):
            place = {"storage": storage, "digest": digest.hex}
            _tell(logging.ERROR, f"bad replica of {digest.hex} on {storage}", more, place)
        case PromotionFailed(digest, error):
            text = f"blob {digest.hex} is not promoted from the archive: {error}"
            _tell(logging.WARNING, text, more, {"digest": digest.hex})
        case NeighbourFailed(neighbour, reason):
            _tell(logging.WARNING, f"{neighbour} failed: {reason}", more, {"neighbour": neighbour})
        case LeftoversSwept(storage, count) if count:
            text = f"swept {count} temporaries of dead processes on {storage}"
            _tell(logging.INFO, text, more, {"storage": storage, "count": count})


def _tell(level: int, text: str, more: int, fields: Mapping[str, object]) -> None:
    suffix = f" (and {more} more like that in {REPEATED:g} s)" if more else ""
    _log.log(level, "%s%s", text, suffix, extra={"fields": {**fields, "more": more} if more else fields})


def _key(event: Event) -> Hashable:
    """Tell what makes a failure the same as another; None: it is told each time."""
    match event:
        case StorageFailed(error):
            return StorageFailed, error.storage, error.operation.partition(" ")[0]
        case ReplicaBad(digest, storage):
            return ReplicaBad, storage, digest
        case PromotionFailed(_, error):
            return PromotionFailed, type(error)  # the text has the size of the blob
        case NeighbourFailed(neighbour, reason):
            return NeighbourFailed, neighbour, reason
    return None


class Repeats:
    """Lets the first of what repeats itself through, and the rest as a number at the end of each period."""

    def __init__(self) -> None:
        self._left_out: Final[dict[Hashable, int]] = {}
        self._last: Final[dict[Hashable, Event]] = {}

    def __call__(self, event: Event) -> None:
        """Log an event, or count it; an `Observer`."""
        key = _key(event)
        if key is None:
            log(event)
        elif key in self._left_out:
            self._left_out[key] += 1
            self._last[key] = event
        elif self._open(key):
            log(event)

    def _open(self, key: Hashable) -> bool:
        """Begin a period; with very many at once, what is new is a repetition as well."""
        if len(self._left_out) >= KEYS:
            return False
        with contextlib.suppress(RuntimeError):  # no loop: nothing is left out
            asyncio.get_running_loop().call_later(REPEATED, self._close, key)
            self._left_out[key] = 0
        return True

    def _close(self, key: Hashable) -> None:
        count = self._left_out.pop(key, 0)
        if count and self._open(key):
            log(self._last.pop(key), count)

    def flush(self) -> None:
        """Tell what was left out so far."""
        for key, count in list(self._left_out.items()):
            if count:
                self._left_out[key] = 0
                log(self._last.pop(key), count)
