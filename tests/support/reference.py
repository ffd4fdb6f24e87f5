"""docs/client.md out of the code: `python -m tests.support.reference > docs/client.md`."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Final

from pystor import client
from pystor.client.commands import parsers

_INNER: Final = frozenset({"save", "drop"})
"""Methods that are for other files of the package only."""

_INTRODUCTION: Final = """# Reference of the client

Written by `python -m tests.support.reference` from the code; a test compares the two. For a first acquaintance see
[tutorial.md](tutorial.md), for many files [bulk-transfers.md](bulk-transfers.md).

## Where the server and the password come from

The first that says something wins:

| | server | user | password |
|---|---|---|---|
| command line | `--storage` | `--user` | `--password-file` |
| environment | `STOR_URL`, several with spaces between | `STOR_USER` | `STOR_PASSWORD` |
| `~/.config/stor/client.toml` | `servers` | `user` | `password`, `password_file` |
| `~/.netrc` | | `login` | `password` |
| the terminal | | | is asked for, by `stor put` |

What the URL of a server says of a user and a password wins over all of these, for that server; on the command line a
URL with a password is refused. `s3host` and `s3template` may be in the file too. With several servers, the order in
which they are asked is another for each blob, and the same for all clients; the next is asked when one fails or has
it not.

## Exit status

| | |
|---|---|
| 0 | everything was done, or did not have to be |
| 1 | something failed: a line on standard error for each |
| 2 | the command line or the configuration cannot be used |
| 130, 143, 129 | Ctrl-C, SIGTERM, a terminal that is closed (SIGHUP, but for `nohup`); no partial file is left |

Standard output has the results, standard error the progress, the errors and the summary. With `--json`, every event
is a line on standard output: `event` is `done`, `skipped`, `failed` or `totals`.
"""


def document() -> str:
    """Write the whole page."""
    return "\n".join([_INTRODUCTION, *_commands(), *_library()]).rstrip() + "\n"


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    parser = argparse.ArgumentParser(prog="stor")
    subparsers = parser.add_subparsers()
    parsers.add(subparsers)
    for name, command in subparsers.choices.items():
        yield from _command(f"stor {name}", command)
    original = argparse.ArgumentParser(prog="stor-client", description="The original's command line, unchanged.")
    parsers.original(original)
    yield from _command("stor-client", original)


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"### {name}\n\n{parser.description}\n\n| | |\n|---|---|"
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            yield f"| {_spelt(action)} | {action.help} |"
    yield ""
    if parser.epilog:
        yield "```\n" + "\n".join(line.strip() for line in parser.epilog.splitlines()[1:]) + "\n```\n"


def _spelt(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or ', '.join(map(str, action.choices or [action.dest]))}`"
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def _library() -> Iterator[str]:
    yield "## Library\n\n`from pystor.client import …`\n"
    for name in sorted(client.__all__, key=_order):
        thing = getattr(client, name)
        failure = issubclass(thing, Exception)
        call = "" if failure else f"```python\n{name}{_signature(thing)}\n```\n\n"
        yield f"### {name}\n\n{call}{inspect.getdoc(thing)}\n"
        if not failure:
            yield from _members(thing)


def _order(name: str) -> tuple[int, str]:
    thing = getattr(client, name)
    return (0 if name.endswith("Client") else 2 if issubclass(thing, Exception) else 1, name)


def _members(thing: type) -> Iterator[str]:
    for name, member in vars(thing).items():
        if (
            name.startswith("_")
            or name in _INNER
            or not (callable(member) or isinstance(member, classmethod | property))
        ):
            continue
        function = member.fget if isinstance(member, property) else getattr(thing, name)
        call = "" if isinstance(member, property) else _signature(function)
        yield f"- `{name}{call}`: {' '.join((inspect.getdoc(function) or '').split())}"
    yield ""


def _signature(thing: object) -> str:
    """Write the parameters without their types, which are in the code and in every editor."""
    signature = inspect.signature(thing)  # type: ignore[arg-type]  # classes and functions only come here
    plain = [_plain(parameter) for name, parameter in signature.parameters.items() if name != "self"]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    default = _Named(parameter.default) if inspect.isroutine(parameter.default) else parameter.default
    return parameter.replace(annotation=inspect.Parameter.empty, default=default)


class _Named:
    def __init__(self, function: Callable[..., object]) -> None:
        self._name = function.__name__

    def __repr__(self) -> str:
        return self._name


if __name__ == "__main__":
    sys.stdout.write(document())
