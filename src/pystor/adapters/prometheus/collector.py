"""The metrics of a worker: an observer of events that tells, when it is asked, what happened in all workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pystor.adapters.prometheus.exposition import metric
from pystor.adapters.prometheus.families import FAMILIES
from pystor.adapters.prometheus.handlers import handlers
from pystor.adapters.prometheus.slices import Sliced, sliced
from pystor.adapters.prometheus.workers import Totals, Workers
from pystor.events import Event

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_REST: Final = 4
"""The metrics are not written down again for so many times as long as that took."""

_FROM_THE_START: Final = (
    "stor_storage_failures",
    "stor_bad_replicas",
    "stor_replicas_repaired",
    "stor_replicas_quarantined",
)
"""What is told of each storage before it happens: a series that begins with its first event shows no increase then."""

StorageRow: TypeAlias = tuple[str, bool, int, int | None, int | None]
"""A storage as it is now: its path, whether it is used, the state of its breaker, its size and what is free, in bytes
(None: nobody knows)."""


class Prometheus:
    """Counts what happens in this worker, and tells what happened in all of them."""

    def __init__(self, directory: Path | None, *, version: str) -> None:
        """`directory` is what all workers share; without it, this worker counts for itself."""
        self._version: Final = version
        self._workers: Final = Workers(directory)
        self._sheet: Final = self._workers.sheet
        self._storages: Callable[[], Iterable[StorageRow]] = tuple
        self._queues: Callable[[], Mapping[str, int]] = dict
        self._telling: Final = asyncio.Lock()
        self._next: asyncio.Task[bytes] | None = None
        self._rest_until = float("-inf")
        self._handlers: Final[dict[type, Callable[[Any], None]]] = handlers(self._sheet)
        self._workers.take_over()

    async def start(self) -> None:
        """Do nothing: counting needs no start."""

    async def stop(self) -> None:
        """Do nothing either. What was counted stays for the others to read, until the supervisor ends."""

    def close(self) -> None:
        """Let go of the counts, as the end of the process does."""
        self._handlers.clear()
        self._sheet.close()

    def __call__(self, event: Event) -> None:
        """Count an event; an `Observer`."""
        handle = self._handlers.get(type(event))
        if handle is not None:
            handle(event)

    def listener(self, kind: type[Event]) -> Callable[[Any], None] | None:
        """Give what counts events of a kind."""
        return self._handlers.get(kind)

    def observe_storages(self, rows: Callable[[], Iterable[StorageRow]]) -> None:
        """Have the storages told by what `rows` returns when the metrics are asked for; it must not wait."""
        self._storages = rows

    def observe_queues(self, lengths: Callable[[], Mapping[str, int]]) -> None:
        """Have the lengths of the queues told by what `lengths` returns, by name; it must not wait."""
        self._queues = lengths

    async def tell(self) -> bytes:
        """Write down the metrics of all workers, in the text format of Prometheus (`CONTENT_TYPE`).

        That is done in a thread, for one at a time and a fifth of the time at most: with a thousand storages it takes
        a tenth of a second. Those who ask meanwhile get the next one together, which tells of all that was until then.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._tell_next())
        return await asyncio.shield(self._next)

    async def _tell_next(self) -> bytes:
        async with self._telling:
            await asyncio.sleep(self._rest_until - time.monotonic())
            self._next = None
            storages, queues, began = list(self._storages()), dict(self._queues()), time.monotonic()
            try:
                return await asyncio.to_thread(self._render, storages, queues)
            except RuntimeError:  # the system has none to give now
                return self._render(storages, queues)
            finally:
                now = time.monotonic()
                self._rest_until = now + _REST * (now - began)

    def render(self) -> bytes:
        """Write them down here and now."""
        return self._render(list(self._storages()), self._queues())

    def _render(self, storages: Iterable[StorageRow], queues: Mapping[str, int]) -> bytes:
        return generate_latest(_Told(self._families(storages, queues)))

    def _families(self, storages: Iterable[StorageRow], queues: Mapping[str, int]) -> Iterator[Metric]:
        totals, workers = self._workers.totals()
        totals["stor_workers", ()] = [float(workers)]
        totals["stor_build_info", (self._version,)] = [1.0]
        totals |= {("stor_queue_length", (queue,)): [float(length)] for queue, length in queues.items()}
        _add_storages(totals, storages)
        by_family: dict[str, list[tuple[tuple[str, ...], list[float]]]] = {family.name: [] for family in FAMILIES}
        for (name, labels), numbers in sliced(totals.items()):
            by_family[name].append((labels, numbers))
        for family in FAMILIES:
            told = metric(family, sorted(by_family[family.name]))
            told.samples = Sliced(told.samples)
            yield told


class _Told(Collector):
    """What `prometheus_client` asks, once."""

    def __init__(self, families: Iterator[Metric]) -> None:
        self._families: Final = families

    def collect(self) -> Iterator[Metric]:
        return self._families


def _add_storages(totals: Totals, storages: Iterable[StorageRow]) -> None:
    for path, available, breaker, size, free in storages:
        for name in _FROM_THE_START:
            totals.setdefault((name, (path,)), [0.0])
        totals["stor_storage_up", (path,)] = [float(available)]
        totals["stor_breaker_state", (path,)] = [float(breaker)]
        if size is not None:
            totals["stor_storage_size_bytes", (path,)] = [float(size)]
        if free is not None:
            totals["stor_storage_free_bytes", (path,)] = [float(free)]
