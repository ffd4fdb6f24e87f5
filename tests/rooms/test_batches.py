"""Batches that form by themselves: alone nothing waits, and what comes while one is under way is the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pystor import batches
from pystor.batches import Batches
from tests.rooms.tools import eventually, run


class Ferry:
    """Carries batches one after the other, each when it is told to."""

    def __init__(self) -> None:
        self.carried: list[list[int]] = []
        self.ended: list[asyncio.Event] = []
        self.batches = Batches(self.carry)

    async def carry(self, batch: list[int], through: Callable[[], None]) -> None:
        end = asyncio.Event()
        self.carried.append(batch)
        self.ended.append(end)
        await end.wait()
        through()

    def join(self, *items: int) -> None:
        for item in items:
            self.batches.join(item)

    def join_turn_by_turn(self, items: int, begin: int = 0) -> None:
        if begin < items:
            asyncio.get_running_loop().call_soon(self.join_turn_by_turn, items, begin + 1)
            self.join(begin)


async def breathe() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr(batches, "_TIMEOUT", 30.0)


def test_what_comes_at_once_goes_together_in_its_order() -> None:
    async def scenario() -> None:
        ferry = Ferry()
        ferry.join(1, 2)
        assert ferry.carried == []
        await breathe()
        assert ferry.carried == [[1, 2]]
        ferry.ended[0].set()

    run(scenario())


def test_what_is_woken_by_the_same_event_goes_together() -> None:
    async def scenario() -> None:
        ferry, event = Ferry(), asyncio.Event()

        async def wait_and_join(number: int) -> None:
            await event.wait()
            ferry.join(number)

        tasks = [asyncio.create_task(wait_and_join(number)) for number in range(16)]
        await breathe()
        event.set()
        await asyncio.gather(*tasks)
        await breathe()
        assert ferry.carried == [list(range(16))]

    run(scenario())


def test_what_comes_turn_by_turn_goes_together_until_a_turn_has_brought_nothing() -> None:
    async def scenario() -> None:
        ferry = Ferry()
        ferry.join_turn_by_turn(8)
        for _ in range(3):
            await breathe()
        assert ferry.carried == [list(range(8))]

    run(scenario())


def test_who_comes_without_end_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_MOST", 3)

    async def scenario() -> None:
        ferry = Ferry()
        ferry.join_turn_by_turn(8)
        await breathe()
        assert ferry.carried == [[0, 1, 2]]

    run(scenario())


def test_what_comes_while_a_batch_is_under_way_is_the_next() -> None:
    async def scenario() -> None:
        ferry = Ferry()
        ferry.join(1)
        await breathe()
        ferry.join(2)
        await breathe()
        ferry.join(3)
        await breathe()
        assert ferry.carried == [[1]]
        ferry.ended[0].set()
        await breathe()
        assert ferry.carried == [[1], [2, 3]]
        ferry.ended[1].set()
        await breathe()
        ferry.join(4)
        await breathe()
        assert ferry.carried == [[1], [2, 3], [4]]

    run(scenario())


def test_no_more_go_together_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_MOST", 3)

    async def scenario() -> None:
        ferry = Ferry()
        ferry.join(*range(7))
        for number in range(3):
            await breathe()
            ferry.ended[number].set()
        assert ferry.carried == [[0, 1, 2], [3, 4, 5], [6]]

    run(scenario())


def test_a_batch_that_hangs_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_TIMEOUT", 0.02)

    async def scenario() -> None:
        ferry = Ferry()
        ferry.join(1)
        await breathe()
        ferry.join(2, 3)
        await eventually(lambda: len(ferry.carried) == 2)
        assert ferry.carried == [[1], [2, 3]]
        ferry.ended[0].set()  # late: it is no longer in anybody's way, and lets nobody pass
        ferry.join(4)
        await breathe()
        assert len(ferry.carried) == 2
        ferry.ended[1].set()
        await breathe()
        assert ferry.carried[2:] == [[4]]

    run(scenario())
