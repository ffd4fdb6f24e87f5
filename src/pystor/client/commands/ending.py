"""How a command ends: done, or interrupted."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

T = TypeVar("T")

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C, as shells have it."""

_BASE: Final = 128
"""What shells add to the number of the signal that ended a command."""


class Terminated(SystemExit):
    """SIGTERM or SIGHUP came. Event loops let this kind pass, as they do what Ctrl-C raises."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status: Final = _BASE + number


def signals() -> list[signal.Signals]:
    """Tell which signals end a command besides Ctrl-C: a terminal that is closed does not after `nohup`."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


def ended(work: Callable[[], int]) -> int:
    """Run a program; Ctrl-C, SIGTERM and SIGHUP let it clean up, whenever they come: status 130, 143 or 129."""
    for number in signals():
        signal.signal(number, _terminate)
    try:
        return work()
    except BaseException as error:
        signalled = _interruption(error)
        if signalled is None:
            raise
        return signalled.status if isinstance(signalled, Terminated) else INTERRUPTED
    finally:
        for number in signals():
            signal.signal(number, signal.SIG_DFL)


def _interruption(error: BaseException | None) -> KeyboardInterrupt | Terminated | None:
    """Find what a signal has raised: a lock of Python's that it came upon may have raised something else for it."""
    while not (error is None or isinstance(error, KeyboardInterrupt | Terminated)):
        error = error.__context__
    return error


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


def _terminate(number: int, _: object) -> NoReturn:
    raise Terminated(number)
