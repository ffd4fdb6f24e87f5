"""How much at once fits into what a process may have open, and for how long anything may be waited for."""

from __future__ import annotations

import resource
from typing import Final

_SPARE: Final = 32  # descriptors for whatever else is open

FOREVER: Final = 1e9
"""Seconds that are as long as it takes."""


def timeout(seconds: float) -> float:
    """Check the seconds that are waited for a byte, and bound them; raises `ValueError` if they are not above 0."""
    if not seconds > 0:
        raise ValueError(f"the timeout is {seconds}; it has to be more than 0 s, and may be infinite")
    return min(seconds, FOREVER)


def fitting(at_once: int, each: int) -> int:
    """Tell how many of `at_once` fit into the limit of open files, if each needs `each` descriptors; at least one.

    Where the limit is too low, it is raised as far as this process may do that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = at_once * each + _SPARE
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return at_once if soft == resource.RLIM_INFINITY else min(at_once, max(1, (soft - _SPARE) // each))
