"""Python's logging, carried to our outputs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from pystor.adapters.logs.entries import Entry
from pystor.adapters.logs.formats import Style
from pystor.adapters.logs.kinds import Described, output_of
from pystor.adapters.logs.levels import LEVELS
from pystor.adapters.logs.observer import Logs

_LONGEST_TEXT: Final = 8192
_LONGEST_TRACE: Final = 16_384


class _Bridge(logging.Handler):
    """Carries what Python's logging is told to our outputs."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self.logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        try:
            text, fields = record.getMessage()[:_LONGEST_TEXT], getattr(record, "fields", {})
            trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
            entry = Entry(record.created, record.levelno, record.name, text, fields, trace[-_LONGEST_TRACE:])
        except Exception:  # noqa: BLE001  whatever was passed to be logged
            self.handleError(record)
        else:
            self.logs.put(entry)


def set_up(
    outputs: Sequence[Described] = (), *, style: Style = "text", level: str = "info", access: float = 0.0
) -> Logs:
    """Send the log to the outputs, to standard error if there are none; returns the observer that feeds it.

    `style` and `level` are for outputs that have no `format` and `min_level` of their own. What was set up before is
    replaced. Raises ValueError where `problems` has something to tell.
    """
    made = [output_of(described, level, style) for described in outputs or [("Screen", {})]]
    tear_down()
    for name, number in LEVELS.items():
        logging.addLevelName(number, name.upper())
    logs = Logs(made, access)
    root = logging.getLogger()
    root.addHandler(_Bridge(logs))
    root.setLevel(logging.WARNING)  # libraries have little to tell that is news
    logging.getLogger("pystor").setLevel(logs.lowest)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return logs


def tear_down() -> None:
    """Undo `set_up`: write what waits, end the threads."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Bridge)]:
        root.removeHandler(handler)
        handler.logs.close()
