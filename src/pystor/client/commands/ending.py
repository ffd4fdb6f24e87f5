"""How a command ends: done, or interrupted."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final, NoReturn

from pystor.client.commands import hearing
from pystor.client.commands.terminal import NobodyListens

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C, as shells have it."""

TERMINATED: Final = 128 + signal.SIGTERM


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
    except NobodyListens as unheard:
        return hearing.unheard(str(unheard))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(*_: object) -> NoReturn:
    raise _Terminated
