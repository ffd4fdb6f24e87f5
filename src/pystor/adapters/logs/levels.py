"""The levels of a log, by name and by number."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

LEVELS: Final = {
    "debug": 10,
    "info": 20,
    "notice": 25,
    "warning": 30,
    "error": 40,
    "critical": 50,
    "alert": 60,
    "emergency": 70,
}
"""The levels of Log::Dispatch as numbers of Python's logging; GELF and syslog number them 7 to 0."""

NAMES: Final = tuple(LEVELS)

_NUMBERS: Final = tuple(LEVELS.values())
_ALIASES: Final = {"warn": "warning", "err": "error", "crit": "critical", "emerg": "emergency"}


def rank(level: int) -> int:
    """Tell how bad a level is: 0 for debug to 7 for emergency."""
    return max(bisect_right(_NUMBERS, level) - 1, 0)


def name_of(level: int) -> str:
    """Tell the name of a level, or of the next lower one."""
    return NAMES[rank(level)]


def level_of(value: object) -> int | None:
    """Find a level by its name, by an alias or by its rank; None: there is no such level."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(NAMES):
        return _NUMBERS[value]
    return LEVELS.get(_ALIASES.get(str(value), str(value)))
