"""Timers of a process that may be paused, in the event loop of a worker."""

from __future__ import annotations

import asyncio
import gc
import weakref

import uvloop

from pystor.patience import Patience


def test_a_timer_that_is_due_at_once_ends_as_any_other() -> None:
    async def scenario() -> None:
        over = asyncio.Event()
        timer = Patience(over.set, 0.0002)
        await asyncio.wait_for(over.wait(), 5)
        assert timer.more == 0.0

    uvloop.run(scenario())


def test_who_made_a_timer_is_freed_as_soon_as_it_is_cancelled() -> None:
    class Maker:
        def __init__(self) -> None:
            self.timer = Patience(self.end, 60)

        def end(self) -> None:
            pass

    async def scenario() -> None:
        gc.disable()
        try:
            maker = Maker()
            seen = weakref.ref(maker)
            maker.timer.cancel()
            del maker
            assert seen() is None
        finally:
            gc.enable()

    uvloop.run(scenario())
