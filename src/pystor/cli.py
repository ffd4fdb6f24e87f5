"""The commands of the server, and those of the client.

What takes long to import is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from pystor import __version__, config
from pystor.client.commands import parsers
from pystor.errors import ConfigError, StorageError

BAD_INPUT: Final = 2
"""The exit status when the command line, the configuration or the address cannot be used."""

DATA: Final = Path("stor-data")
"""Where the embedded default keeps everything, below the current directory."""

_OVERRIDES: Final = ("host", "port", "workers")


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"stor: {message}; {self.prog} --help tells how it is used\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 when it did what it was asked, 2 when it could not start.

    Errors are lines on standard error, each beginning with `stor: `.
    """
    given = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = given.run
    try:
        return run(given)
    except ConfigError as error:
        return _failed(*error.problems)


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
        for name in _OVERRIDES:
            command.add_argument(f"--{name}", help=f"instead of the key {name}: {_doc(name)}")
    serve.set_defaults(run=_serve)
    check.set_defaults(run=_check_config)
    repair.set_defaults(run=_repair)
    adopt.set_defaults(run=_adopt)
    doctor.set_defaults(run=_doctor)
    parsers.add(commands)
    parser.set_defaults(root=parser)
    return parser


def _doc(name: str) -> str:
    doc = config.keys_of(config.Settings)[name].doc
    return doc[0].lower() + doc[1:]


def _failed(*lines: str) -> int:
    _tell(*lines)
    return BAD_INPUT


def _tell(*lines: str) -> None:
    for line in lines:
        print(f"stor: {line}", file=sys.stderr, flush=True)


def _tell_warnings(lines: Sequence[str]) -> None:
    _tell(*(f"warning: {line}" for line in lines))


def _config_file(given: argparse.Namespace) -> Path | None:
    named: Path | None = given.config
    inherited = os.environ.get("CONFIG_FILE")
    return named or (Path(inherited) if inherited else None)


def _overrides(given: argparse.Namespace) -> dict[str, str]:
    values = {name: getattr(given, name) for name in _OVERRIDES}
    return {name: value for name, value in values.items() if value is not None}


def _check_config(given: argparse.Namespace) -> int:
    file = _config_file(given)
    if file is None:
        settings = config.override(config.preview(DATA), _overrides(given))
        _tell("no configuration is named (--config FILE or CONFIG_FILE); this is the embedded default")
    else:
        settings, warnings = config.load(file, _overrides(given))
        _tell_warnings(warnings)
    print(json.dumps(config.plain(settings), indent=2))
    return 0


def _serve(given: argparse.Namespace) -> int:
    file = _config_file(given)
    if file is None:
        config.override(config.preview(DATA), _overrides(given))  # nothing is made when the command line is wrong
        found = config.embedded(DATA)
        return _run(config.override(found.settings, _overrides(given)), partial(_trial, found))
    settings, warnings = config.load(file, _overrides(given))
    _tell_warnings(warnings)
    return _run(settings, lambda _url: [])


def _settings(given: argparse.Namespace) -> config.Settings:
    """Read the configuration for a command that works beside a server, or the embedded default if none is named."""
    file = _config_file(given)
    return config.preview(DATA) if file is None else config.load(file)[0]


def _repair(given: argparse.Namespace) -> int:
    import asyncio

    from pystor import main as composition

    failed = asyncio.run(composition.repair(_settings(given), print, everything=given.all))
    if failed:
        _tell(f"{failed} could not be repaired; they stay on the queue")
    return 1 if failed else 0


def _doctor(given: argparse.Namespace) -> int:
    import asyncio

    from pystor import main as composition

    return 1 if asyncio.run(composition.examine(_settings(given), print)) else 0


def _adopt(given: argparse.Namespace) -> int:
    from pystor import main as composition

    try:
        composition.adopt(_settings(given), given.path.absolute())
    except StorageError as error:
        return _failed(error.describe())
    print(f"{given.path} is adopted; the server finds it by itself, and `stor repair --all` fills it")
    return 0


def _run(settings: config.Settings, introduction: Callable[[str], list[str]]) -> int:
    from pystor.adapters.prometheus import directory
    from pystor.http.server import serve
    from pystor.main import build, limits, log_of, prepare, problems

    if found := problems(settings):
        raise ConfigError(found)
    log_of(settings)

    def announce(url: str) -> None:
        print(*introduction(url), f"listening on {url}", sep="\n", flush=True)

    _tell_warnings(prepare(settings))
    try:
        with directory() as shared:
            return serve(
                partial(build, settings, str(shared)),
                host=settings.host,
                port=settings.port,
                workers=settings.workers,
                limits=limits(settings),
                shutdown_timeout=settings.shutdown_timeout,
                announce=announce,
            )
    except OSError as error:
        place = f"[{settings.host}]" if ":" in settings.host else settings.host
        return _failed(f"{place}:{settings.port}: cannot listen there: {error.strerror}; choose another host or port")


def _trial(found: config.Embedded, url: str) -> list[str]:
    """Tell someone who is trying Stor out what to type."""
    name = f"{url}/$(sha256sum < $f | cut -c1-64)"
    return [
        f"no configuration is named, so blobs are kept below {found.credentials_file.parent}",
        f"the password for uploads is kept in {found.credentials_file}",
        "store a file, fetch it back, look at its two replicas:",
        f"  f={_sample()}; curl -u {_user(found)} --data-binary @$f {name}",
        f"  f={_sample()}; curl -s {name} | cmp - $f && echo the same",
        f"  find {shlex.quote(str(found.credentials_file.parent))} -name '*.dat'",
    ]


def _user(found: config.Embedded) -> str:
    """Tell the password once, when it is made; later only where it is."""
    writer = found.settings.basic_auth
    if found.new and writer is not None:
        return f"{writer.user}:{writer.password}"
    return f'"$(cat {shlex.quote(str(found.credentials_file))})"'


def _sample() -> str:
    return "README.md" if Path("README.md").is_file() else "/etc/hosts"
