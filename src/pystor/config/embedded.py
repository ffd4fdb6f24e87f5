"""The embedded default, for whoever has no configuration yet: one pair of directories and a password made for it."""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pystor.config.neighbours import Credentials, credentials
from pystor.config.problems import Problems
from pystor.config.settings import Settings
from pystor.errors import ConfigError

WRITER: Final = "writer"


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embedded default as it was found or made; `new` when the password was made just now."""

    settings: Settings
    credentials_file: Path
    new: bool


def embedded(directory: Path) -> Embedded:
    """Make what the embedded default needs below `directory`, or find it there. `ConfigError` when that fails."""
    directory = absolute(directory)
    file = directory / "credentials"
    try:
        for storage in _storages(directory):
            storage.mkdir(parents=True, exist_ok=True)
        new = not file.exists() and _make_credentials(file)
        return Embedded(_settings(directory, _read_credentials(file)), file, new)
    except OSError as error:
        line = f"{error.filename or directory}: {error.strerror}; mend it, or name a configuration with --config"
        raise ConfigError([line]) from None


def preview(directory: Path) -> Settings:
    """Tell the settings of the embedded default and make nothing; the password in them is not the real one."""
    return _settings(absolute(directory), Credentials(WRITER, "made on the first start"))


def absolute(path: Path) -> Path:
    """Tell where a path leads from the current directory; `ConfigError` when that is gone."""
    try:
        return path.absolute()
    except OSError as error:
        raise ConfigError([f"the current directory: {error.strerror}; change to one that is there"]) from None


def _settings(directory: Path, writer: Credentials) -> Settings:
    return Settings(storage_pairs=(_storages(directory),), basic_auth=writer, require_mount=False)


def _storages(directory: Path) -> tuple[Path, ...]:
    return directory / "data1", directory / "data2"


def _make_credentials(file: Path) -> bool:
    """Write a new password, readable by the owner only; False when somebody else was faster.

    The file gets its name when it is complete, so that nobody reads half of it.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=".credentials-", dir=file.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as output:
            output.write(f"{WRITER}:{secrets.token_urlsafe(18)}\n")
        os.link(temporary, file)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def _read_credentials(file: Path) -> Credentials:
    problems = Problems()
    found = credentials(file.read_text("utf-8", "replace").strip(), str(file), problems)
    if found is None:
        raise ConfigError([f"{line}; remove the file to get a new password" for line in problems.errors])
    return found
