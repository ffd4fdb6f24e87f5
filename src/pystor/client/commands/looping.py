"""What a command does in an event loop, and what an interruption does to that."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

from pystor.client.commands.ending import Terminated, signals
from pystor.client.commands.hearing import NobodyListens

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do it; Ctrl-C, SIGTERM and SIGHUP let it clean up, and are raised then, for `ending.ended`.

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
    terminated: Terminated | None = None

    def terminate(number: int) -> None:
        nonlocal terminated
        terminated = Terminated(number)
        task.cancel()

    for number in signals():
        asyncio.get_running_loop().add_signal_handler(number, terminate, number)
    try:
        return await task
    except asyncio.CancelledError:
        if terminated is not None:
            raise terminated from None
        raise
