"""What the commands share that need an event loop: a client out of flags, and a screen that is drawn meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable

from pystor.client import config
from pystor.client.aio import AsyncClient
from pystor.client.bulk import PERIOD
from pystor.client.commands.terminal import Screen
from pystor.client.limits import fitting
from pystor.client.retry import Retry
from pystor.client.s3 import Bucket


def client(given: argparse.Namespace, *, writes: bool = False) -> AsyncClient:
    """Make the client that the flags, the environment and the file ask for; raises `ConfigError`."""
    settings = config.settle(given, os.environ, _asker() if writes else None)
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
    return _ask if sys.stdin and sys.stdin.isatty() and sys.stderr.isatty() else None


def _ask(question: str) -> str:
    try:
        return getpass.getpass(question)
    except BaseException:
        print(file=sys.stderr)  # what is said next begins a line
        raise


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
