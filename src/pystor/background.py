"""What goes on beside the requests: tasks that nobody waits for, which go on whatever is raised in them once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

_log: Final = logging.getLogger("pystor")


class Tasks(set[asyncio.Task[Any]]):
    """Tasks that run in the background. They are kept here until they are done: the event loop would lose them."""

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background."""
        self.keep(asyncio.create_task(work))

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Keep a task that was begun already, until it is done."""
        self.add(task)
        task.add_done_callback(self.discard)


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they are done; what they raise is dropped."""
    ending = tuple(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


@contextmanager
def tolerated(what: str) -> Iterator[None]:
    """Log a fault of the program with its trace, and go on behind the block: a loop that ended would not be missed."""
    try:
        yield
    except Exception:  # noqa: BLE001  whatever it is, it is logged
        _log.exception("%s failed unexpectedly; the work goes on", what)
