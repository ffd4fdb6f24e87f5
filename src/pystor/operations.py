"""What the commands of the server do: each takes its parsed command line and returns the exit status.

What cannot be done as it was asked is a `ConfigError`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from pystor import config
from pystor.client.commands.hearing import complain, silence
from pystor.errors import ConfigError, StorageError
from pystor.hosts import join_address

DATA: Final = Path("stor-data")
"""Where the embedded default keeps everything, below the current directory."""


def _tell(*lines: str) -> None:
    for line in lines:
        complain(f"stor: {line}")


def _tell_warnings(lines: Sequence[str]) -> None:
    _tell(*(f"warning: {line}" for line in lines))


def _config_file(given: argparse.Namespace) -> Path | None:
    named: Path | None = given.config
    inherited = os.environ.get("CONFIG_FILE")
    return named or (Path(inherited) if inherited else None)


def _overrides(given: argparse.Namespace) -> dict[str, str]:
    values = {name: getattr(given, name) for name in given.overrides}
    return {name: value for name, value in values.items() if value is not None}


def check_config(given: argparse.Namespace) -> int:
    """Print what is in force."""
    file = _config_file(given)
    if file is None:
        settings = config.override(config.preview(DATA), _overrides(given))
        _tell("no configuration is named (--config FILE or CONFIG_FILE); this is the embedded default")
    else:
        settings, warnings = _load(file, _overrides(given))
        _tell_warnings(warnings)
    print(json.dumps(config.plain(settings), indent=2))
    return 0


def serve(given: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    file = _config_file(given)
    if file is None:
        config.override(config.preview(DATA), _overrides(given))  # nothing is made when the command line is wrong
        found = config.embedded(DATA)
        settings = config.override(found.settings, _overrides(given))
        return _listen(settings, partial(_trial, found, _sample()), expects_new=found.new)
    settings, warnings = _load(file, _overrides(given))
    _tell_warnings(warnings)
    return _listen(settings, lambda _url: [])


def _load(file: Path, overrides: Mapping[str, str]) -> tuple[config.Settings, list[str]]:
    """Read the configuration, and its warnings; `ConfigError` tells what is wrong with it or with its parts."""
    return config.load(file, overrides, _problems_of_log)


def _problems_of_log(settings: config.Settings) -> Sequence[str]:
    if not settings.log:
        return ()
    from pystor.wiring import problems  # it takes long

    return problems(settings)


def _settings(given: argparse.Namespace) -> config.Settings:
    """Read the configuration for a command that works beside a server, or the embedded default if none is named."""
    file = _config_file(given)
    return config.preview(DATA) if file is None else _load(file, {})[0]


def repair(given: argparse.Namespace) -> int:
    """Work off the repair queue."""
    from pystor import maintenance
    from pystor.client.commands import looping

    repaired = looping.run(maintenance.repair(_settings(given), print, _tell, everything=given.all))
    _tell(*repaired.away.values())
    if repaired.away:
        _tell(f"storages that are away: {len(repaired.away)}; what they lack, or have noted, waits for them")
    _tell(*repaired.unread)
    if repaired.unread:
        _tell(f"directories that cannot be read: {len(repaired.unread)}; what they have was not compared")
    _tell(*repaired.unfilled)
    if repaired.failed:
        _tell(f"blobs that could not be repaired: {len(repaired.failed)}; those on the queue stay there")
    return 1 if repaired.away or repaired.unread or repaired.unfilled or repaired.failed else 0


def doctor(given: argparse.Namespace) -> int:
    """Ask each storage and each neighbour how it is."""
    from pystor import maintenance
    from pystor.client.commands import looping

    return 1 if looping.run(maintenance.examine(_settings(given), print)) else 0


def adopt(given: argparse.Namespace) -> int:
    """Take an empty disk in the place of one that is gone."""
    from pystor import maintenance

    try:
        what_follows = maintenance.adopt(_settings(given), config.absolute(given.path))
    except StorageError as error:
        raise ConfigError([error.advise()]) from None
    print(f"{given.path} is adopted; {what_follows}")
    return 0


def _listen(settings: config.Settings, introduction: Callable[[str], list[str]], *, expects_new: bool = False) -> int:
    from pystor.http.server import serve
    from pystor.main import build, limits
    from pystor.maintenance import prepare
    from pystor.shared_directory import directory
    from pystor.wiring import log_of

    log_of(settings)

    with _listener(settings) as listener:
        prepared = prepare(settings)
        _tell_warnings([*prepared.unusable, *prepared.doubtful, *prepared.of_others])

        def announce(url: str) -> None:
            if not expects_new:
                _tell(*(f"{root}: no storage of its set had a marker: it is a new one" for root in prepared.adopted))
            _announce(*introduction(url), f"listening on {url}")

        # Workers are started where this process is, and that directory may be gone, or hang, when one is needed.
        os.chdir("/")
        with directory() as shared:
            return serve(
                partial(build, settings, str(shared)),
                listener,
                host=settings.host,
                workers=settings.workers,
                limits=limits(settings),
                shutdown_timeout=settings.shutdown_timeout,
                announce=announce,
            )


def _listener(settings: config.Settings) -> socket.socket:
    from pystor.http.server import listen

    try:
        return listen(settings.host, settings.port)
    except OSError as error:
        place = join_address(settings.host, settings.port)
        raise ConfigError([f"{place}: cannot listen there: {error.strerror}; choose another host or port"]) from None


def _announce(*lines: str) -> None:
    """Write lines to standard output; whoever is served does not mind that they cannot be written."""
    try:
        print(*lines, sep="\n", flush=True)
    except OSError:
        silence(1)  # the interpreter would try once more at its exit, and make that a failure


def _trial(found: config.Embedded, sample: str, url: str) -> list[str]:
    """Tell someone who is trying Stor out what to type; `sample` is a file that can be stored."""
    name = f"{url}/$(sha256sum < $f | cut -c1-64)"
    return [
        f"no configuration is named, so blobs are kept below {found.credentials_file.parent}",
        f"the password for uploads is kept in {found.credentials_file}",
        "store a file, fetch it back, look at its two replicas:",
        f"  f={sample}; curl -u {_user(found)} --data-binary @$f {name}",
        f"  f={sample}; curl -s {name} | cmp - $f && echo the same",
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
