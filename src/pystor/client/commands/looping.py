"""What a command does in an event loop, and what an interruption does to that."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

from pystor.client.commands.ending import Terminated
from pystor.client.commands.hearing import NobodyListens

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do it; Ctrl-C and SIGTERM let it clean up, and are raised then, for `ending.ended`.

    Raises `OSError`, `NobodyListens` and `RuntimeError`, the first one if many at work have met them.
    """
    try:
        return uvloop.run(_until_terminated(work))
    except* (NobodyListens, OSError, RuntimeError) as failures:
        failure = _first(failures)
    raise failure  # raised above, it would be a group again


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


async def _until_terminated(work: Coroutine[Any, Any, T]) -> T:
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
            raise Terminated from None
        raise
