"""The commands of the server, and those of the client.

What takes long to import is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from pystor import __version__
from pystor.client.commands import parsers
from pystor.client.commands.ending import until_stopped
from pystor.client.commands.hearing import complain, heard
from pystor.errors import ConfigError

BAD_INPUT: Final = 2
"""The exit status when the command line, the configuration or the address cannot be used."""

_OVERRIDES: Final = {
    "host": "the address to listen on",
    "port": "the port to listen on; 0 takes a free one",
    "workers": "how many processes serve",
}
"""The keys that are flags, too. They are described here once more: the keys take longer to load than a download."""


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as everything else here does, and lets options stand between arguments."""

    def __init__(self, **details: Any) -> None:
        self._options: list[tuple[tuple[str, ...], dict[str, Any]]] = []
        super().__init__(**details)

    def add_argument(self, *names: str, **details: Any) -> argparse.Action:
        if names[0].startswith("-"):
            self._options.append((names, details))
        return super().add_argument(*names, **details)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Take options wherever they stand before two dashes, and then all other words, which two dashes keep whole.

        That is `parse_known_intermixed_args`, of which each Python has another that does other things with the dashes.
        """
        if self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        words = list(args)
        end = words.index("--") if "--" in words else len(words)
        given, left = _Options(self, self._options).parse_known_args(words[:end], namespace)
        unknown = [word for word in left if word.startswith("-") and word != "-"]
        plain = [word for word in left if word not in unknown] + words[end + 1 :]
        given, left = super().parse_known_args(["--", *plain] if plain else [], given)
        return given, unknown + left[len(left) > len(plain) :]  # the dashes are left, too, where none of them is taken

    def error(self, message: str) -> NoReturn:
        complain(f"stor: {message}; {self.prog} --help tells how it is used")
        self.exit(BAD_INPUT)


class _Options(argparse.ArgumentParser):
    """A command's options without its arguments, which are what it leaves."""

    def __init__(self, command: _Parser, options: Iterable[tuple[tuple[str, ...], dict[str, Any]]]) -> None:
        super().__init__(add_help=False)
        for names, details in options:
            self.add_argument(*names, **details)
        self.print_help = command.print_help  # type: ignore[method-assign]
        self.error = command.error  # type: ignore[method-assign]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 when it did what it was asked, 2 when it could not start.

    Errors are lines on standard error, each beginning with `stor: `.
    """
    return heard(partial(_main, arguments))


def _main(arguments: Sequence[str] | None) -> int:
    given = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = given.run
    try:
        return run(given)
    except ConfigError as error:
        for problem in error.problems:
            complain(f"stor: {problem}")
        return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="stor", description="Serve and store blobs that are addressed by their SHA-256.")
    parser.add_argument("--version", action="version", version=f"stor {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve = commands.add_parser("serve", help="serve and store blobs")
    check = commands.add_parser("check-config", help="validate the configuration and print what is in force")
    repair = commands.add_parser("repair", help="work off the repair queue now: a line for each blob")
    repair.add_argument(
        "--all", action="store_true", help="look first for blobs that are missing on one storage of a set"
    )
    storage = commands.add_parser("storage", help="look after a storage")
    adopt = storage.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser(
        "adopt", help="take an empty disk in the place of one that is gone; `stor repair --all` fills it"
    )
    adopt.add_argument("path", type=Path, metavar="PATH", help="the storage's path, as in storage_pairs")
    doctor = commands.add_parser("doctor", help="ask each storage and each neighbour how it is")
    for command in (serve, check, repair, adopt, doctor):
        command.add_argument("--config", type=Path, metavar="FILE", help="JSON or TOML; instead of CONFIG_FILE")
    for command in (serve, check):
        for name, words in _OVERRIDES.items():
            command.add_argument(f"--{name}", help=f"{words}, instead of the key {name}")
        command.set_defaults(overrides=tuple(_OVERRIDES))
    serve.set_defaults(run=until_stopped(_run("serve")))
    check.set_defaults(run=_run("check_config"))
    repair.set_defaults(run=_run("repair"))
    adopt.set_defaults(run=_run("adopt"))
    doctor.set_defaults(run=_run("doctor"))
    parsers.add(commands)
    parser.set_defaults(root=parser)
    return parser


def _run(name: str) -> Callable[[argparse.Namespace], int]:
    """Return what runs a command, by the name of its function in `operations`; that is imported then."""

    def run(given: argparse.Namespace) -> int:
        ran: int = getattr(importlib.import_module("pystor.operations"), name)(given)
        return ran

    return run
