"""The storages: absolute paths of directories that exist, or buckets; each listed once."""

# mypy: disable-error-code="func-returns-value"
# `return problems.error(...)` notes what is wrong and returns None, in one line.

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TypeAlias

from pystor.address import BucketAddress, parse_bucket_url
from pystor.config.problems import Problems
from pystor.config.values import Parser, listing

Place: TypeAlias = Path | BucketAddress
Pairs: TypeAlias = tuple[tuple[Place, ...], ...]


def place(value: object, where: str, problems: Problems) -> Place | None:
    """Parse where a storage is: a directory, or a bucket as `s3://BUCKET/PREFIX?endpoint=http://HOST:PORT`."""
    if not isinstance(value, str) or not value.startswith("s3:"):
        return directory(value, where, problems)
    try:
        return parse_bucket_url(value)
    except ValueError as error:
        return problems.error(where, str(error))


def directory(value: object, where: str, problems: Problems) -> Path | None:
    """Parse the absolute path of a directory. One that is not there is noted and returned all the same."""
    if not isinstance(value, str) or not value:
        return problems.wrong(where, "the absolute path of a directory", value)
    if not _can_be_a_path(value):
        return problems.error(where, f"{value!r} cannot be a path; write one without NUL and broken characters")
    if not value.startswith("/"):
        return problems.error(where, f"{value!r} is not absolute; write the whole path, from / on")
    fault = _fault(value)
    if fault is not None:
        problems.error(where, f"{value!r} {fault}")
    return Path(value)


def _can_be_a_path(value: str) -> bool:
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _fault(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "is not there; make the directory, or mount the disk"
    except OSError as error:
        return f"cannot be looked at: {error.strerror}; mend the disk or its permissions"
    return None if stat.S_ISDIR(mode) else "is not a directory; name one"


def pairs(value: object, where: str, problems: Problems) -> Pairs | None:
    """Parse a list of lists of storages; empty ones and storages that are listed twice are noted."""
    parsed = _pairs(value, where, problems)
    if value == []:
        problems.error(where, 'has no pair; list at least one, such as [["/mnt/data1", "/mnt/data2"]]')
    if isinstance(value, list):
        _note_twice(value, where, problems)
    return parsed


def _pair(value: object, where: str, problems: Problems) -> tuple[Place, ...] | None:
    if value == []:
        return problems.error(where, "the pair is empty; name its storages, or remove it")
    return _storages(value, where, problems)


def _note_twice(pairs_given: list[object], where: str, problems: Problems) -> None:
    first: dict[object, str] = {}
    for i, pair in enumerate(pairs_given):
        for j, path in enumerate(pair if isinstance(pair, list) else []):
            here = f"{where}[{i}][{j}]"
            if not isinstance(path, str) or not path.startswith(("/", "s3://")) or not _can_be_a_path(path):
                continue
            there = first.setdefault(_identity(path), here)
            if there != here:
                problems.error(here, f"{path!r} is the same storage as {there}; list each storage once")


def _identity(path: str) -> object:
    """Tell what two names of one storage have in common: symbolic links, `..` and bind mounts do not hide it."""
    if path.startswith("s3://"):
        return path.partition("?")[0].rstrip("/")  # two of one name at different endpoints cannot be told apart
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def on_one_device(pair: tuple[Place, ...]) -> bool:
    """Tell whether several storages of a pair share one device, so that its loss loses more than one copy."""
    devices = [path.stat().st_dev for path in pair if isinstance(path, Path)]
    return len(set(devices)) < len(devices)


_storages: Parser[tuple[Place, ...]] = listing(place, "a list of directories")
_pairs = listing(_pair, "a list of lists of directories")
