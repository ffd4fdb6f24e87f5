"""Clients that go on beside a test, each in a thread, for as long as a block lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Self


class Clients:
    """Threads that are started by the block, and joined at its end; each is to look at `over` now and then."""

    def __init__(self, works: Iterable[Callable[[], None]]) -> None:
        self.over = threading.Event()
        self._threads = [threading.Thread(target=work) for work in works]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()
