"""What all commands share: a client out of flags, an event loop, and what an interruption does."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

import uvloop

from pystor.client import config
from pystor.client.aio import AsyncClient
from pystor.client.retry import Retry
from pystor.client.s3 import TEMPLATE, Bucket
from pystor.errors import ConfigError

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C, as shells have it."""


def client(given: argparse.Namespace, *, writes: bool = False) -> AsyncClient:
    """Make the client that the flags, the environment and the file ask for; raises `ConfigError`."""
    flags = config.Flags(given.servers, given.user, given.password_file)
    settings = config.settle(flags, os.environ, _asker() if writes else None)
    return AsyncClient(
        settings.servers,
        timeout=given.timeout or 1e9,
        retry=Retry(given.attempts, given.delay),
        bucket=_bucket(given, settings),
    )


def _asker() -> Callable[[str], str] | None:
    return getpass.getpass if sys.stdin.isatty() and sys.stderr.isatty() else None


def _bucket(given: argparse.Namespace, settings: config.Settings) -> Bucket | None:
    url = getattr(given, "s3host", None) or settings.s3host
    if not url or not hasattr(given, "s3template"):
        return None
    try:
        return Bucket(url, given.s3template or settings.s3template or TEMPLATE)
    except ValueError as error:
        raise ConfigError([f"--s3template: {error}"]) from None


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run a command; Ctrl-C and SIGTERM let it clean up, and end with status 130 or 143."""
    try:
        return uvloop.run(_until_terminated(work))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that nothing complains at the exit
        return 1


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
            return 128 + signal.SIGTERM
        raise
