"""Scenarios with an adapter, on the event loop that the workers have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop


def run(scenario: Coroutine[Any, Any, None]) -> None:
    uvloop.run(scenario)


async def until(holds: Callable[[], object], within: float = 40.0) -> None:
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110  it is for what tells nobody
            await asyncio.sleep(0.01)
