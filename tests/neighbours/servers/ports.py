"""Ports for the servers of the tests: each process of the tests has a range to itself."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from typing import Final

_FIRST, _RANGES, _PORTS = 10_000, 40, 500  # below those that the kernel gives to clients, from 32768 on


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on now, and that nobody was given before, until all have been."""
    found: list[int] = []
    for port in itertools.islice(_candidates, _PORTS):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def free_port() -> int:
    """One of them."""
    (port,) = free_ports(1)
    return port


def _of_our_own() -> Iterator[int]:
    """Where no other process looks that runs tests beside us: its number is another, but near."""
    start = _FIRST + os.getpid() % _RANGES * _PORTS
    return itertools.cycle(range(start, start + _PORTS))


_candidates: Final = _of_our_own()
