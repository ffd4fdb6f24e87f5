"""What comes by a pipe or a terminal: waited for in the event loop, so that it can be given up, and not in a thread."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncIterator
from typing import Final

_PIECE: Final = 1 << 20


async def readable(descriptor: int) -> None:
    """Wait until there is something to read, or the end."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # a regular file: it never waits
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def pieces(descriptor: int) -> AsyncIterator[bytes]:
    """Yield what comes, until the end; raises `OSError`.

    It may block or not. A named pipe that does not is waited for until somebody writes.
    """
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while True:
        if not waiting.poll(0):
            await readable(descriptor)
        try:
            piece = os.read(descriptor, _PIECE)
        except BlockingIOError:  # another reader has it
            continue
        if not piece:
            return
        yield piece
