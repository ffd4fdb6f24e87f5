"""Directories and what is below them, however deep."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence


def walk(top: str, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield each directory with the names in it that are none of directories, in their order; links are not followed.

    A directory that cannot be read is told to `onerror`. `os.walk` of Python 3.11 ends at a thousand within each other.
    """
    ahead = [top]
    while ahead:
        parent = ahead.pop()
        try:
            with os.scandir(parent) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            error.filename = parent  # while it is read, no name is told
            onerror(error)
            continue
        below: list[str] = []
        names: list[str] = []
        for entry in entries:
            if not _is_directory(entry):
                names.append(entry.name)
            elif not entry.is_symlink():
                below.append(entry.path)
        yield parent, names
        ahead += reversed(below)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
