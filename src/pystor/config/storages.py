"""The storages: absolute paths of directories that exist, or buckets; each listed once."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from pystor.address import BucketAddress, parse_bucket_url
from pystor.config.problems import Problems
from pystor.config.values import Parser, listing
from pystor.digest import Digest
from pystor.fan_out import ask_all
from pystor.mounts import FSTAB, unmounted

Place: TypeAlias = Path | BucketAddress
Pairs: TypeAlias = tuple[tuple[Place, ...], ...]
_Looks: TypeAlias = Mapping[str, os.stat_result | OSError]

_TIMEOUT: Final = 2.0
"""Seconds within which all directories have to be seen."""
_LONGEST: Final = 4095 - len("/") - len(Digest.of(b"").path)
"""Bytes that a storage's path may have, so that those of the blobs below it are not too long for the kernel."""
_SILENT: Final = OSError(errno.ETIMEDOUT, f"it does not answer within {_TIMEOUT:g} s")


def directory(value: object, where: str, problems: Problems) -> Path | None:
    """Parse the absolute path of a directory. One that is not there is noted and returned all the same."""
    return _directory(value, where, problems, looks=_look([value], _stat))


def pairs(value: object, where: str, problems: Problems) -> Pairs | None:
    """Parse a list of lists of storages; empty ones, those listed twice and those on one device are noted.

    All are looked at together: a disk that fails, hangs or is not mounted is a warning, and must not keep the others
    from serving.
    """
    given = [pair if isinstance(pair, list) else [] for pair in value] if isinstance(value, list) else []
    looks = _look((path for pair in given for path in pair), _stat_on_its_disk)
    storages: Parser[tuple[Place, ...]] = listing(partial(_place, looks=looks), "a list of directories")
    parsed = listing(partial(_pair, storages=storages), "a list of lists of directories")(value, where, problems)
    if value == []:
        problems.error(where, 'has no pair; list at least one, such as [["/mnt/data1", "/mnt/data2"]]')
    _note_twice(given, where, problems, looks)
    _note_one_device(given, where, problems, looks)
    return parsed


def _look(values: Iterable[object], look: Callable[[str], os.stat_result | OSError]) -> _Looks:
    paths = {value for value in values if isinstance(value, str) and value.startswith("/") and _can_be_a_path(value)}
    return dict.fromkeys(paths, _SILENT) | ask_all(look, paths, _TIMEOUT)


def _stat(path: str) -> os.stat_result | OSError:
    try:
        return os.stat(path)
    except OSError as error:
        return error


def _stat_on_its_disk(path: str) -> os.stat_result | OSError:
    """Look at a directory; one that is not there may be on a disk that is not, and is no mistake then."""
    look = _stat(path)
    try:
        if not isinstance(look, FileNotFoundError) or (point := unmounted(path)) is None:
            return look
    except OSError as error:
        return error
    return OSError(errno.ENODEV, f"nothing is mounted at {point}, which {FSTAB} names")


def _pair(
    value: object, where: str, problems: Problems, *, storages: Parser[tuple[Place, ...]]
) -> tuple[Place, ...] | None:
    if value == []:
        return problems.error(where, "the pair is empty; name its storages, or remove it")
    return storages(value, where, problems)


def _place(value: object, where: str, problems: Problems, *, looks: _Looks) -> Place | None:
    """Parse where a storage is: a directory, or a bucket as `s3://BUCKET/PREFIX?endpoint=http://HOST:PORT`."""
    if not isinstance(value, str) or not value.startswith("s3:"):
        return _directory(value, where, problems, looks=looks)
    try:
        return parse_bucket_url(value)
    except ValueError as error:
        return problems.error(where, str(error))


def _directory(value: object, where: str, problems: Problems, *, looks: _Looks) -> Path | None:
    if not isinstance(value, str) or not value:
        return problems.wrong(where, "the absolute path of a directory", value)
    if not _can_be_a_path(value):
        return problems.error(where, f"{value!r} cannot be a path; write one without NUL and broken characters")
    if not value.startswith("/"):
        return problems.error(where, f"{value!r} is not absolute; write the whole path, from / on")
    path = Path(value)
    if (beyond := len(os.fsencode(path)) - _LONGEST) > 0:
        return problems.error(where, f"{value!r} is {beyond} bytes too long for the paths of blobs; name a shorter one")
    _note_fault(value, looks[value], where, problems)
    return path


def _can_be_a_path(value: str) -> bool:
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _note_fault(path: str, look: os.stat_result | OSError, where: str, problems: Problems) -> None:
    if not isinstance(look, OSError):
        if not stat.S_ISDIR(look.st_mode):
            problems.error(where, f"{path!r} is not a directory; name one")
    elif look.errno in (errno.ENOENT, errno.ENOTDIR):  # which no disk that fails says: it was not made, or is misspelt
        problems.error(where, f"{path!r} is not there; make the directory, or mount the disk")
    elif look.errno == errno.ENODEV:
        problems.warn(where, f"{path!r} is not there: {look.strerror}; mount it")
    else:
        note = problems.error if look.errno == errno.ENAMETOOLONG else problems.warn
        note(where, f"{path!r} cannot be looked at: {look.strerror}; mend the disk or its permissions")


def _note_twice(given: list[list[object]], where: str, problems: Problems, looks: _Looks) -> None:
    first: dict[object, str] = {}
    for i, pair in enumerate(given):
        for j, path in enumerate(pair):
            if not isinstance(path, str) or not (path in looks or path.startswith("s3://")):
                continue
            here = f"{where}[{i}][{j}]"
            there = first.setdefault(_identity(path, looks), here)
            if there != here:
                problems.error(here, f"{path!r} is the same storage as {there}; list each storage once")


def _identity(path: str, looks: _Looks) -> object:
    """Tell what two names of one storage have in common: symbolic links, `..` and bind mounts do not hide it."""
    look = looks.get(path)
    if look is None:
        return path.partition("?")[0].rstrip("/")  # two of one name at different endpoints cannot be told apart
    if isinstance(look, OSError):
        return os.path.normpath(path) if look is _SILENT else os.path.realpath(path)
    return look.st_dev, look.st_ino


def _note_one_device(given: list[list[object]], where: str, problems: Problems, looks: _Looks) -> None:
    """Note a pair of which several storages share one device, so that its loss loses more than one copy."""
    for index, pair in enumerate(given):
        found = [looks.get(path) for path in pair if isinstance(path, str)]
        devices = [look.st_dev for look in found if isinstance(look, os.stat_result)]
        if len(set(devices)) < len(devices):
            line = "storages on one device: losing it loses more than one copy; put each on a disk of its own"
            problems.warn(f"{where}[{index}]", line)
