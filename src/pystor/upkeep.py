"""What goes on beside the requests to keep the storages of a pool in use: attached, measured, swept, taken in again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from pystor.background import Tasks, end, tolerated
from pystor.bulkhead import Bulkhead
from pystor.errors import StorageError
from pystor.events import LeftoversSwept, Observer, StorageFailed
from pystor.places import Places

_BEGUN_WITHIN: Final = 0.3
"""Seconds for which the start waits for storages: those that are well take none, those that are not may be a while."""

_RECOVERED_EVERY: Final = 1.0
"""Seconds between two probes of a storage that is out."""

_PROVED_EVERY: Final = 60.0
"""Seconds between two probes of a disk that is not out."""

_MEASURED_EVERY: Final = 10.0
"""Seconds between two measurements when nobody stores: the look-up order and the metrics go by them."""


class Upkeep:
    """Looks after storages for as long as it is started."""

    def __init__(self, members: Sequence[Bulkhead], places: Places, *, sweep_period: float, observe: Observer) -> None:
        """Begin nothing yet. Temporaries of dead processes are swept every `sweep_period` seconds."""
        self._members: Final = members
        self._places: Final = places
        self._sweep_period: Final = sweep_period
        self._observe: Final = observe
        self._tasks: Final = Tasks()
        self._recovered: Final[dict[Bulkhead, asyncio.Task[None]]] = {}
        self._proved: Final[dict[Bulkhead, asyncio.Task[None]]] = {}

    async def start(self) -> None:
        """Attach the storages, measure them, and sweep the temporaries of dead processes now and every so often.

        A storage that does not answer at once is not waited for: it is used as soon as it answers.
        """
        begun = asyncio.create_task(self._begin())
        self._tasks.keep(begun)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(begun), _BEGUN_WITHIN)
        for loop in (self._sweep, self._measure, self._recover, self._prove):
            self._tasks.begin(loop())

    async def stop(self) -> None:
        """End what goes on."""
        await end([*self._tasks, *self._recovered.values(), *self._proved.values()])
        await self._places.stop()

    async def _begin(self) -> None:
        await asyncio.gather(*(self._attach(member) for member in self._members))
        await self._places.measure(0.0)

    async def _attach(self, member: Bulkhead) -> None:
        try:
            await member.run(member.storage.attach)
        except StorageError as error:
            self._observe(StorageFailed(error))

    async def _measure(self) -> None:
        while True:
            with tolerated("Measuring the storages"):
                await self._places.measure(_MEASURED_EVERY)
            await asyncio.sleep(_RECOVERED_EVERY)

    async def _recover(self) -> None:
        """Look after each storage that is out or slow."""
        while True:
            for member in self._members:
                if member.ails:
                    _begin_anew(self._recovered, member, self._recover_one)
            await asyncio.sleep(_RECOVERED_EVERY)

    async def _recover_one(self, member: Bulkhead) -> None:
        with tolerated(f"The probe of {member.storage.root}"):
            await member.recover()

    async def _prove(self) -> None:
        """See that the disks that are in use are well."""
        while True:
            await asyncio.sleep(_RECOVERED_EVERY)
            for member in self._members:
                _begin_anew(self._proved, member, self._prove_one)

    async def _prove_one(self, member: Bulkhead) -> None:
        with tolerated(f"The probe of {member.storage.root}"):
            try:
                await member.prove(_PROVED_EVERY)
            except StorageError as error:
                self._observe(StorageFailed(error))

    async def _sweep(self) -> None:
        while True:
            with tolerated("The sweep"):
                await asyncio.gather(*(self._sweep_one(member) for member in self._members if member.storage.writable))
            await asyncio.sleep(self._sweep_period)

    async def _sweep_one(self, member: Bulkhead) -> None:
        with suppress(StorageError):  # reported by whatever needs the storage
            count = await member.run(member.storage.sweep, waits=True)
            self._observe(LeftoversSwept(member.storage.root, count))


def _begin_anew(
    going: dict[Bulkhead, asyncio.Task[None]], member: Bulkhead, care: Callable[[Bulkhead], Coroutine[Any, Any, None]]
) -> None:
    """Look after a storage, unless the last time is not over yet; none waits for another."""
    if member not in going:
        going[member] = asyncio.create_task(care(member))
        going[member].add_done_callback(lambda _: going.pop(member))
