"""`stor put`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence

from pystor.client.aio import AsyncClient
from pystor.client.bulk import Failed
from pystor.client.commands import looping, running
from pystor.client.commands.terminal import Screen
from pystor.client.errors import Unauthorized
from pystor.client.manifest import Manifest
from pystor.client.sending import STDIN, Sending, files
from pystor.client.workers import each
from pystor.errors import ConfigError


def run(given: argparse.Namespace) -> int:
    """Upload what the arguments name."""
    if given.paths.count(STDIN) > 1:
        raise ConfigError(["-: is named twice, and standard input can be read once"])
    with contextlib.ExitStack() as stack:
        try:
            manifest = stack.enter_context(Manifest(given.manifest)) if given.manifest else None
        except OSError as error:
            raise ConfigError([f"{given.manifest}: {error.strerror}"]) from None
        return looping.run(_upload(given, running.client(given, writes=True), manifest))


async def _upload(given: argparse.Namespace, client: AsyncClient, manifest: Manifest | None) -> int:
    screen = Screen("uploaded", lines=True, verbose=given.verbose, as_json=given.json)
    async with client, running.drawn(screen):
        with screen.summed_up():
            at_once = running.at_once(given, len(client.servers))
            await _all(given.paths, at_once, Sending(client, screen, manifest), screen)
    return screen.status


async def _all(paths: Sequence[str], at_once: int, sending: Sending, screen: Screen) -> None:
    try:
        await each(files(paths, screen), at_once, sending.send)
    except* Unauthorized as refused:
        why = f"{refused.exceptions[0]} Name the writer with --user, and the password in STOR_PASSWORD or a file."
        screen(Failed("nothing more is uploaded", why))
