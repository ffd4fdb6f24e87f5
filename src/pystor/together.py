"""Several small things that one thread does one after the other, as long as that is quick."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from pystor.crew import close

_T = TypeVar("_T")

_LONG: Final = 0.05
"""Seconds after which what is left of a batch is no longer done one after the other, but each by a thread."""


class Done(list[Any]):
    """What became of things, in their order, each a result or an exception; the rest were not begun."""

    def close(self) -> None:
        """Close what can be closed, since nobody wants it any more."""
        for each in self:
            close(each)


def one_by_one(do: Callable[[_T], object], things: Sequence[_T]) -> Done:
    """Go through things, as long as that is quick; at least one is done."""
    done = Done()
    until = time.monotonic() + _LONG
    for each in things:
        try:
            done.append(do(each))
        except Exception as error:  # noqa: BLE001  it belongs to whoever waits for this one
            done.append(error)
        if time.monotonic() > until:
            break
    return done
