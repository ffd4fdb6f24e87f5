"""How a command ends: done, or interrupted."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

T = TypeVar("T")

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C, as shells have it."""

TERMINATED: Final = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """SIGTERM came. Event loops let this kind pass, as they do what Ctrl-C raises."""


def ended(work: Callable[[], int]) -> int:
    """Run a program; Ctrl-C and SIGTERM let it clean up, whenever they come, and end with status 130 or 143."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def until_stopped(run: Callable[[T], int]) -> Callable[[T], int]:
    """Return what runs a command that only a signal ends: one that comes before it is waited for is no failure.

    SIGHUP is ignored until then: there is nothing yet that it could renew.
    """

    def stopped(given: T) -> int:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            return run(given)
        except (KeyboardInterrupt, Terminated):
            return 0

    return stopped


def _terminate(*_: object) -> NoReturn:
    raise Terminated
