"""Many at work at once, each with the next of what there is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from pystor.client.bulk import AHEAD, taken

T = TypeVar("T")


async def each(
    batches: AsyncGenerator[Sequence[T], None], at_once: int, work: Callable[[Iterator[T]], Awaitable[None]]
) -> None:
    """Have so many at once work off the items of all batches; each takes from those that are there, one by one."""
    ahead: deque[T] = deque()
    changed = asyncio.Condition()
    reading = True

    async def read() -> None:
        nonlocal reading
        async for batch in batches:
            async with changed:
                ahead.extend(batch)
                changed.notify_all()
                await changed.wait_for(lambda: len(ahead) < AHEAD)
            await asyncio.sleep(0)  # what comes from a file comes without a pause: the first are begun meanwhile
        async with changed:
            reading = False
            changed.notify_all()

    async def more() -> bool:
        async with changed:
            changed.notify_all()  # what was read is begun: the next may be
            await changed.wait_for(lambda: ahead or not reading)
            return bool(ahead)

    async def worker() -> None:
        while ahead or await more():
            await work(taken(ahead))

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        for _ in range(at_once):
            group.create_task(worker())
