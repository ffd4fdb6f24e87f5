"""`stor get`, and the original's `stor-client`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Final

from pystor.client import config
from pystor.client.commands.terminal import Screen
from pystor.client.downloads import Downloads, Input, Naming
from pystor.client.small_downloads import SmallDownloads
from pystor.digest import Digest
from pystor.errors import ConfigError

_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)


def run(given: argparse.Namespace) -> int:
    """Download what the arguments name, or what standard input does."""
    digests, directory = sort_out([*given.names, *([] if given.directory is None else [given.directory])])
    if not os.path.isdir(directory) and not given.devnull:
        raise ConfigError([f"{directory}: is no directory; make it first"])
    if not digests and sys.stdin is None:
        raise ConfigError(["no SHA is named, and standard input is closed; name some, or give a list"])
    if not digests and sys.stdin.isatty():
        print("stor: reading SHAs from the terminal; Ctrl-D ends them", file=sys.stderr)
    return _download(given, digests, directory)


def sort_out(words: Sequence[str]) -> tuple[list[Digest], str]:
    """Tell the digests from the directory, which is the last word if that is no digest, and else the current one."""
    if "" in words:  # of a variable that is not set; what is read then is not what was meant
        raise ConfigError(["one argument is empty, and so no SHA-256 and no directory"])
    *names, last = words or ["."]
    if _DIGEST.fullmatch(last):
        names, last = [*names, last], "."
    wrong = [name for name in names if not _DIGEST.fullmatch(name)]
    if wrong:
        raise ConfigError([f"{wrong[0]}: is no SHA-256; a directory is the last argument"])
    return [Digest(name.lower()) for name in names], last


def _download(given: argparse.Namespace, digests: Sequence[Digest], directory: str) -> int:
    settings = config.settle(given, os.environ)
    bucket = config.bucket(given, settings)
    lines = not sys.stdout.isatty() or given.verbose
    screen = Screen("downloaded", lines=lines, verbose=given.verbose, as_json=given.json)
    wanted = Input(screen, digests, None if digests else sys.stdin.fileno())
    downloads = Downloads(Naming(directory, given.suffix, given.upper), screen, keep=not given.devnull)
    with screen.summed_up():
        if bucket is None and SmallDownloads.suits(settings.servers):
            small_downloads = SmallDownloads(
                settings.servers, downloads, at_once=given.max, timeout=config.timeout(given)
            )
            left = small_downloads.run(wanted, screen.refresh)
        else:
            left = wanted.take()
        if left or wanted.descriptor is not None:
            # They take longer to load than many downloads take.
            from pystor.client.commands import looping, patient, running

            at_once = running.at_once(given, len(settings.servers) + (bucket is not None))
            client = running.client_of(given, settings, bucket)
            return looping.run(patient.download(client, left, wanted, downloads, screen, at_once))
    return screen.status
