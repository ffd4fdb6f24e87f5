"""What is left to a thread, and is at its end when whoever left it there goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run(act: Callable[..., T], *arguments: object) -> T:
    """Do it in a thread. A cancellation is raised when it has ended: what it uses may be closed, or cut, only then.

    So it should not take long, and never wait for anybody.
    """
    doing = asyncio.get_running_loop().run_in_executor(None, act, *arguments)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        while not doing.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([doing])
        raise
