"""Many uploads: which files there are, which were uploaded before, and what becomes of each."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final, Self

from pystor.client import sums
from pystor.client.aio import AsyncClient
from pystor.client.bulk import Done, Expected, Failed, Meter, Observer, Skipped, describe
from pystor.client.errors import Unauthorized
from pystor.client.upload import Content
from pystor.errors import StorError

STDIN: Final = "-"

_BATCH: Final = 500  # files that are looked for in one go


@dataclass(frozen=True, slots=True)
class Found:
    """A file to upload; `size` is None when it is not known before it is read."""

    path: str
    size: int | None
    modified: float = 0.0


def walk(paths: Sequence[str]) -> Iterator[Found | Failed]:
    """Find the files: those that are named, and all regular ones below directories that are, in the order of names."""
    for path in paths:
        try:
            yield from _below(path) if os.path.isdir(path) else [_look(path)]
        except OSError as error:
            yield Failed(path, describe(error))


def _below(directory: str) -> Iterator[Found | Failed]:
    failures: list[OSError] = []
    for parent, directories, names in os.walk(directory, onerror=failures.append):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            with suppress(FileNotFoundError):  # it went, or is a link that leads nowhere
                found = os.stat(path)
                if stat.S_ISREG(found.st_mode):
                    yield Found(path, found.st_size, found.st_mtime)
    yield from (Failed(str(failure.filename), describe(failure)) for failure in failures)


def _look(path: str) -> Found:
    if path == STDIN:
        return Found(path, None)
    found = os.stat(path)
    return Found(path, found.st_size if stat.S_ISREG(found.st_mode) else None, found.st_mtime)


async def files(paths: Sequence[str], observe: Observer) -> AsyncGenerator[Sequence[Found], None]:
    """Yield what `walk` finds, while others work."""
    found = walk(paths)
    while batch := await asyncio.to_thread(lambda: list(islice(found, _BATCH))):
        for each in batch:
            observe(Expected(1, None if isinstance(each, Failed) else each.size))
            if isinstance(each, Failed):
                observe(each)
        yield [each for each in batch if isinstance(each, Found)]
    observe(Expected(0, final=True))


class Manifest:
    """A file of `sha256sum`'s lines, one for each upload that is done; those need not be done again.

    A file that was changed after the last line was written is uploaded again.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._paths: set[str] = set()
        self._written = 0.0

    def __enter__(self) -> Self:
        self._file = open(self._path, "ab+")
        self._written = os.fstat(self._file.fileno()).st_mtime
        self._file.seek(0)
        last = b"\n"
        for last in self._file:
            if (entry := sums.parse(last.rstrip(b"\n"))) is not None and last.endswith(b"\n"):
                self._paths.add(entry[1])
        if not last.endswith(b"\n"):  # a power cut tore it
            self._file.write(b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def has(self, found: Found) -> bool:
        """Tell whether this file was uploaded as it is."""
        return found.path in self._paths and found.modified <= self._written

    def is_it(self, found: Found) -> bool:
        """Tell whether this file is the manifest itself."""
        return found.size is not None and os.path.samestat(os.stat(found.path), os.fstat(self._file.fileno()))

    def note(self, digest: str, path: str) -> None:
        """Add a line."""
        self._file.write(os.fsencode(f"{sums.line(digest, path)}\n"))
        self._file.flush()


class Sending:
    """Uploads; what the manifest has is skipped."""

    def __init__(self, client: AsyncClient, observe: Observer, manifest: Manifest | None = None) -> None:
        self._client = client
        self._observe = observe
        self._manifest = manifest

    async def send(self, files: Iterator[Found]) -> None:
        """Upload them; every outcome is an event, but `Unauthorized` is raised: no other would fare better."""
        for found in files:
            await self._try(found)

    async def _try(self, found: Found) -> None:
        try:
            if self._manifest is not None and (self._manifest.is_it(found) or self._manifest.has(found)):
                self._observe(Skipped("", found.path, "the manifest has it", found.size or 0))
                return
            await self._send(found)
        except Unauthorized:
            raise
        except (StorError, OSError) as error:
            self._observe(Failed(found.path, describe(error)))

    async def _send(self, found: Found) -> None:
        began = time.monotonic()
        content: Content = sys.stdin.buffer if found.path == STDIN else found.path
        stored = await self._client.put(content, observe=Meter(self._observe, sized=found.size is not None))
        name = stored.digest.hex
        if self._manifest is not None:
            self._manifest.note(name, found.path)
        if stored.new:
            self._observe(Done(name, found.path, stored.size, time.monotonic() - began))
        else:
            self._observe(Skipped(name, found.path, "the server has it", found.size or 0))
