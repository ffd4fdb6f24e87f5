"""What the commands share that need an event loop: a client out of flags, and what an interruption does."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import uvloop

from pystor.client import config
from pystor.client.aio import AsyncClient
from pystor.client.bulk import PERIOD
from pystor.client.commands import ending
from pystor.client.commands.terminal import NobodyListens, Screen
from pystor.client.limits import fitting
from pystor.client.retry import Retry
from pystor.client.s3 import Bucket


def client(given: argparse.Namespace, *, writes: bool = False) -> AsyncClient:
    """Make the client that the flags, the environment and the file ask for; raises `ConfigError`."""
    settings = config.settle(config.flags(given), os.environ, _asker() if writes else None)
    return client_of(given, settings, config.bucket(given, settings))


def client_of(given: argparse.Namespace, settings: config.Settings, bucket: Bucket | None) -> AsyncClient:
    """Make the client when that is settled."""
    retry = Retry(given.attempts, given.delay)
    return AsyncClient(settings.servers, timeout=config.timeout(given), retry=retry, bucket=bucket)


def at_once(given: argparse.Namespace, places: int) -> int:
    """Tell how many may be at work at once: each has a file, and two connections to each of so many places.

    One is libcurl's, the other our own.
    """
    return fitting(given.max, 2 * places + 1)


def _asker() -> Callable[[str], str] | None:
    return getpass.getpass if sys.stdin and sys.stdin.isatty() and sys.stderr.isatty() else None


class _Told(logging.Handler):
    """Hands on what the library says of its tries."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Say it as a line."""
        self._tell(f"stor: {record.getMessage()}")


@contextlib.asynccontextmanager
async def drawn(screen: Screen) -> AsyncGenerator[None, None]:
    """Draw while the block runs, and show what the library says if everything is to be said."""
    if screen.verbose:
        log = logging.getLogger("pystor.client")
        log.setLevel(logging.DEBUG)
        log.addHandler(_Told(screen.complain))
    drawing = asyncio.create_task(_keep_drawing(screen))
    try:
        yield
    finally:
        drawing.cancel()


async def _keep_drawing(screen: Screen) -> None:
    while True:
        await asyncio.sleep(PERIOD)
        screen.refresh()


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run a command; Ctrl-C and SIGTERM let it clean up, and end with status 130 or 143.

    Raises `OSError` and `NobodyListens`, the first one if many at work have met them.
    """
    status, failure = 0, None
    try:
        status = uvloop.run(_until_terminated(work))
    except* KeyboardInterrupt:
        status = ending.INTERRUPTED
    except* (NobodyListens, OSError) as failures:
        failure = _first(failures)
    if failure is not None:  # raised above, it would be a group again
        raise failure
    return status


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


async def _until_terminated(work: Coroutine[Any, Any, int]) -> int:
    task = asyncio.ensure_future(work)
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await task
    except asyncio.CancelledError:
        if terminated:
            return ending.TERMINATED
        raise
