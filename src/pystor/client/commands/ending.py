"""How a command ends: done, interrupted, or without anybody who reads what it says."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from pystor.client.commands.terminal import NobodyListens

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C, as shells have it."""

TERMINATED: Final = 128 + signal.SIGTERM

UNHEARD: Final = 1


class _Terminated(BaseException):
    """SIGTERM came."""


def ended(work: Callable[[], int]) -> int:
    """Run a command that needs no event loop; Ctrl-C and SIGTERM let it clean up, and end with status 130 or 143."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except _Terminated:
        return TERMINATED
    except (NobodyListens, BrokenPipeError):
        return unheard()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def unheard() -> int:
    """Tell the exit status when nobody reads standard output, and let nothing complain of that at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return UNHEARD


def _terminate(*_: object) -> NoReturn:
    raise _Terminated
