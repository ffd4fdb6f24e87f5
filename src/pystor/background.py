"""What goes on beside the requests goes on, whatever is raised in it once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_log: Final = logging.getLogger("pystor")


@contextmanager
def tolerated(what: str) -> Iterator[None]:
    """Log a fault of the program with its trace, and go on behind the block: a loop that ended would not be missed."""
    try:
        yield
    except Exception:  # noqa: BLE001  whatever it is, it is logged
        _log.exception("%s failed unexpectedly; the work goes on", what)
