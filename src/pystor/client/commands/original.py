"""`stor-client`: the command line of the original's client, unchanged."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from pystor import __version__
from pystor.client.commands import get, parsers
from pystor.client.commands.hearing import complain, heard
from pystor.errors import ConfigError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"stor-client: {message}; stor-client --help tells how it is used\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status is 0 only if every SHA was downloaded or skipped."""
    return heard(partial(_main, arguments))


def _main(arguments: Sequence[str] | None) -> int:
    parser = _Parser(
        prog="stor-client",
        description="Read SHA-256s from standard input and download each into a directory.",
        epilog="for example:\n  stor-client --storage http://127.0.0.1:8080 --max 16 downloads < list.txt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parsers.original(parser)
    try:
        return get.run(parser.parse_args(arguments))
    except ConfigError as error:
        for line in error.problems:
            complain(f"stor-client: {line}")
        return 2
