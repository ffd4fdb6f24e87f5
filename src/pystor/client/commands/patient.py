"""What `stor get` does with what does not come as small blobs do: one by one, however long each takes."""

from __future__ import annotations

from collections.abc import Sequence

from pystor.client.aio import AsyncClient
from pystor.client.commands import running
from pystor.client.commands.terminal import Screen
from pystor.client.downloads import Downloads, Input
from pystor.client.fetching import Fetching, asked
from pystor.client.workers import each
from pystor.digest import Digest


async def download(
    client: AsyncClient, first: Sequence[Digest], rest: Input, downloads: Downloads, screen: Screen, at_once: int
) -> int:
    """Download some, and the rest of what is asked for; returns the exit status. Closes the client."""
    async with client, running.drawn(screen):
        await each(asked(first, rest), at_once, Fetching(client, downloads).fetch)
    return screen.status
