"""Timers of a process that may be paused, in the event loop of a worker."""

from __future__ import annotations

import asyncio

import uvloop

from pystor.patience import Patience


def test_a_timer_that_is_due_at_once_ends_as_any_other() -> None:
    async def scenario() -> None:
        over = asyncio.Event()
        timer = Patience(over.set, 0.0002)
        await asyncio.wait_for(over.wait(), 5)
        assert timer.more == 0.0

    uvloop.run(scenario())
