"""Timers of a process that may be paused, in the event loop of a worker."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

import pytest
import uvloop

from pystor import patience
from pystor.patience import Patience
from tests.rooms.tools import eventually


def test_a_timer_that_is_due_at_once_ends_as_any_other() -> None:
    async def scenario() -> None:
        over = asyncio.Event()
        timer = Patience(over.set, 0.0002)
        await asyncio.wait_for(over.wait(), 5)
        assert timer.more == 0.0

    uvloop.run(scenario())


def test_a_timer_of_a_process_that_was_paused_waits_anew_and_ends_however_late_it_comes_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "PUNCTUAL", 0.05)

    async def scenario() -> None:
        over = asyncio.Event()
        timer = Patience(over.set, 0.001)
        time.sleep(0.2)  # noqa: ASYNC251  the process is paused
        await eventually(lambda: timer.more > 0)
        waited = timer.more
        time.sleep(0.6)  # noqa: ASYNC251
        await asyncio.wait_for(over.wait(), 5)
        assert timer.more == waited

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
