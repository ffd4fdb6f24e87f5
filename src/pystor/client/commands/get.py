"""`stor get`, and the original's `stor-client`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Final

from pystor.client.bulk import each
from pystor.client.commands import running
from pystor.client.commands.terminal import Screen
from pystor.client.fetching import Fetching, Naming, named, typed
from pystor.digest import Digest
from pystor.errors import ConfigError

_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)


def run(given: argparse.Namespace) -> int:
    """Download what the arguments name, or what standard input does."""
    digests, directory = sort_out([*given.names, *([given.directory] if given.directory else [])])
    if not os.path.isdir(directory) and not given.devnull:
        raise ConfigError([f"{directory}: is no directory; make it first"])
    if not digests and sys.stdin.isatty():
        print("stor: reading SHAs from the terminal; Ctrl-D ends them", file=sys.stderr)
    return running.run(_download(given, digests, directory))


def sort_out(words: Sequence[str]) -> tuple[list[Digest], str]:
    """Tell the digests from the directory, which is the last word if that is no digest, and else the current one."""
    *names, last = words or [""]
    directory = "." if _DIGEST.fullmatch(last) or not last else last
    names = list(words) if directory == "." and last != "." else names
    wrong = [name for name in names if name and not _DIGEST.fullmatch(name)]
    if wrong:
        raise ConfigError([f"{wrong[0]}: is no SHA-256; a directory is the last argument"])
    return [Digest(name.lower()) for name in names if name], directory


async def _download(given: argparse.Namespace, digests: Sequence[Digest], directory: str) -> int:
    lines = not sys.stdout.isatty() or given.verbose
    screen = Screen("downloaded", lines=lines, verbose=given.verbose, as_json=given.json)
    wanted = named(digests, screen) if digests else typed(sys.stdin.fileno(), screen)
    async with running.client(given) as client, screen.shown():
        naming = Naming(directory, given.suffix, given.upper)
        await each(wanted, given.max, Fetching(client, naming, screen, keep=not given.devnull).fetch)
    return screen.status
