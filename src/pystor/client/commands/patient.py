"""What `stor get` does with what does not come as small blobs do: one by one, however long each takes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pystor.client.commands import running
from pystor.client.commands.terminal import Screen
from pystor.client.crowd import each
from pystor.client.fetching import Fetching, asked
from pystor.client.wishes import Input, Wishes
from pystor.digest import Digest


def download(given: argparse.Namespace, first: Sequence[Digest], rest: Input, wishes: Wishes, screen: Screen) -> int:
    """Download some, and the rest of what is asked for; returns the exit status."""
    return running.run(_download(given, first, rest, wishes, screen))


async def _download(
    given: argparse.Namespace, first: Sequence[Digest], rest: Input, wishes: Wishes, screen: Screen
) -> int:
    async with running.client(given) as client, running.drawn(screen):
        await each(asked(first, rest), given.max, Fetching(client, wishes).fetch)
    return screen.status
