"""Where the servers and the credentials come from: flags, then the environment, then a file, then netrc.

    # ~/.config/stor/client.toml
    servers = ["https://stor.example"]
    user = "writer"
    password_file = "~/.stor-password"

A password is never an argument of a command: everyone on the machine can read those.
"""

from __future__ import annotations

import argparse
import netrc
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from pystor.client.limits import FOREVER
from pystor.client.servers import Server
from pystor.errors import ConfigError

if TYPE_CHECKING:
    from pystor.client.s3 import Bucket

_FILE: Final = "stor/client.toml"
_ENTRY: Final = 'an entry is "machine HOST login USER password PASSWORD", what has a space in it stands in quotes'
_KEYS: Final = ("servers", "user", "password", "password_file", "s3host", "s3template")


def timeout(given: argparse.Namespace) -> float:
    """Tell the seconds that a command line waits for a byte; 0 means as long as it takes."""
    return float(given.timeout or FOREVER)


class Settings(NamedTuple):
    """What is in force."""

    servers: Sequence[Server]
    s3host: str | None = None
    s3template: str | None = None


def bucket(given: argparse.Namespace, settings: Settings) -> Bucket | None:
    """Tell which bucket is read before the servers, for a command that reads; raises `ConfigError`."""
    url = getattr(given, "s3host", None) or settings.s3host
    if not url or not hasattr(given, "s3template"):
        return None
    from pystor.client.s3 import TEMPLATE, Bucket  # only now: most have none

    try:
        return Bucket(url, given.s3template or settings.s3template or TEMPLATE)
    except ValueError as error:
        raise ConfigError([f"the bucket: {error}"]) from None


def path(environment: Mapping[str, str]) -> Path | None:
    """Tell where the file is; None when there is no home. Raises `ConfigError`."""
    if named := environment.get("XDG_CONFIG_HOME"):
        return _expanded(named) / _FILE
    return _at_home(environment, f".config/{_FILE}")


def _at_home(environment: Mapping[str, str], name: str) -> Path | None:
    try:
        return Path(environment.get("HOME") or "~", name).expanduser()
    except RuntimeError:  # the system does not know who we are
        return None


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ConfigError([f"{name}: {error}"]) from None


def settle(
    given: argparse.Namespace, environment: Mapping[str, str], ask: Callable[[str], str] | None = None
) -> Settings:
    """Decide what is in force when a command line was given; raises `ConfigError`, with no password in it.

    `ask` is called with a question when a user has no password anywhere.
    """
    if any(server.password is not None for server in _servers(given.servers)):
        raise ConfigError(
            ["--storage: no password on the command line, where everyone reads it; use STOR_PASSWORD or netrc"]
        )
    place = path(environment)
    file = _read(place, named=bool(environment.get("XDG_CONFIG_HOME"))) if place else {}
    urls = given.servers or environment.get("STOR_URL", "").split() or file.get("servers", [])
    if not urls:
        raise ConfigError([f"no server is named; use --storage URL, STOR_URL, or servers in {place or _FILE}"])
    user = given.user or environment.get("STOR_USER") or file.get("user")
    password = _password(given.password_file, environment, file)
    servers = [_from_netrc(server, environment) for server in _servers(urls, user, password)]
    return Settings([_asked(server, ask) for server in servers], file.get("s3host"), file.get("s3template"))


def _servers(urls: Sequence[str], user: str | None = None, password: str | None = None) -> list[Server]:
    try:
        return [Server.parse(url, user, password) for url in urls]
    except ValueError as error:
        raise ConfigError([f"the server: {error}"]) from None


def _is_none(file: Path, error: OSError, *, named: bool) -> bool:
    """Tell whether a file that cannot be read is none of ours: below a home that is no directory, or somebody else's.

    Of a place that was `named` it is told that we may not look there.
    """
    return isinstance(error, FileNotFoundError | NotADirectoryError) or not (named or os.path.exists(file))


def _read(file: Path, *, named: bool) -> dict[str, Any]:
    try:
        content = file.read_bytes()
    except OSError as error:
        if _is_none(file, error, named=named):
            return {}
        raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from None
    import tomllib  # only now: most have no such file, and need not wait for the parser

    try:
        found = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: is no TOML: {error}"]) from None
    found = {**found, "servers": _listed(found.get("servers", []))}
    problems = [f"{file}: {key}: unknown key; there are {', '.join(_KEYS)}" for key in found if key not in _KEYS]
    problems += [f"{file}: {key}: must be text" for key in found if not _fits(key, found[key])]
    if problems:
        raise ConfigError(problems)
    return found


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _fits(key: str, value: Any) -> bool:
    if isinstance(value, list):
        return key == "servers" and all(isinstance(each, str) for each in value)
    return key != "servers" and isinstance(value, str)


def _password(named: str | None, environment: Mapping[str, str], file: Mapping[str, Any]) -> str | None:
    if named is not None:
        return _first_line(named)
    if (given := environment.get("STOR_PASSWORD")) is not None:
        return given
    if "password" in file:
        return str(file["password"])
    return _first_line(file["password_file"]) if "password_file" in file else None


def _first_line(name: str) -> str:
    try:
        return _expanded(name).read_text("utf-8").splitlines()[0]
    except OSError as error:
        raise ConfigError([f"{name}: the password cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{name}: is no text in UTF-8; its first line is the password"]) from None
    except ValueError as error:  # it has a NUL
        raise ConfigError([f"{name!r}: is no path of a file: {error}"]) from None
    except IndexError:
        raise ConfigError([f"{name}: is empty; its first line is the password"]) from None


def _from_netrc(server: Server, environment: Mapping[str, str]) -> Server:
    if server.password is not None:
        return server
    named = environment.get("NETRC")
    file = _expanded(named) if named else _at_home(environment, ".netrc")
    if file is None:
        return server
    try:
        entry = netrc.netrc(file).authenticators(urlsplit(server.url).hostname or "")
    except OSError as error:
        if _is_none(file, error, named=bool(named)):
            return server
        raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from None
    except netrc.NetrcParseError:  # whose text has the word that does not fit, which may be of a password
        raise ConfigError([f"{file}: cannot be used: {_ENTRY}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{file}: is no text in UTF-8"]) from None
    if entry is None or server.user not in {None, entry[0]}:
        return server
    return Server(server.url, entry[0], entry[2])


def _asked(server: Server, ask: Callable[[str], str] | None) -> Server:
    if server.user is None or server.password is not None or ask is None:
        return server
    try:
        return Server(server.url, server.user, ask(f"Password of {server.user} at {server.url}: "))
    except EOFError:
        raise ConfigError(["no password was given; STOR_PASSWORD, a file or netrc may have it"]) from None
