"""Many uploads: which files there are, which were uploaded before, and what becomes of each."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from pystor.client import pipes, trees
from pystor.client.aio import AsyncClient
from pystor.client.bulk import Done, Expected, Failed, Meter, Observer, Skipped, describe
from pystor.client.errors import Unauthorized
from pystor.client.manifest import Manifest
from pystor.client.upload import Content
from pystor.errors import StorError

STDIN: Final = "-"

_BATCH: Final = 500  # files that are looked for in one go


@dataclass(frozen=True, slots=True)
class Found:
    """A file to upload.

    `size` is None when it is not known before it is read: it is no regular file. `changed` is when it got its content
    or its name, in nanoseconds since 1970.
    """

    path: str
    size: int | None
    changed: int = 0


def walk(paths: Sequence[str]) -> Iterator[Found | Failed]:
    """Find the files: those that are named, and all regular ones below directories that are, in the order of names.

    Below a directory, links to files count as files; links to directories are not followed.
    """
    for path in paths:
        try:
            yield from _below(path) if os.path.isdir(path) else [_look(path)]
        except OSError as error:
            yield Failed(path, describe(error, path))


def _below(directory: str) -> Iterator[Found | Failed]:
    failures: list[OSError] = []
    for parent, names in trees.walk(directory, failures.append):
        for name in names:
            path = os.path.join(parent, name)
            try:
                found = _look(path)
            except FileNotFoundError:  # it went, or is a link that leads nowhere
                continue
            except OSError as error:
                yield Failed(path, describe(error, path))
                continue
            if found.size is not None:
                yield found
    yield from (Failed(failure.filename, describe(failure, failure.filename)) for failure in failures)


def _look(path: str) -> Found:
    if path == STDIN:
        return Found(path, None)
    found = os.stat(path)
    regular = stat.S_ISREG(found.st_mode)
    return Found(path, found.st_size if regular else None, max(found.st_mtime_ns, found.st_ctime_ns))


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
            if self._is_noted(found):
                self._observe(Skipped("", found.path, "the manifest has it", found.size or 0))
                return
            await self._send(found)
        except Unauthorized:
            raise
        except (StorError, OSError) as error:
            self._observe(Failed(found.path, describe(error, found.path)))

    def _is_noted(self, found: Found) -> bool:
        manifest = self._manifest
        if manifest is None or found.size is None:  # what comes by a pipe is another each time
            return False
        return manifest.has(found.path, found.changed) or manifest.is_it(found.path)

    async def _send(self, found: Found) -> None:
        began = time.monotonic()
        content = _input() if found.path == STDIN else found.path
        stored = await self._client.put(content, observe=Meter(self._observe, sized=found.size is not None))
        name = stored.digest.hex
        if self._manifest is not None and found.size is not None:  # `sha256sum -c` would read another pipe
            self._manifest.note(name, found.path)
        if stored.new:
            self._observe(Done(name, found.path, stored.size, time.monotonic() - began))
        else:
            self._observe(Skipped(name, found.path, "the server has it", found.size or 0))


def _input() -> Content:
    """Tell what standard input has; raises `OSError` if it is closed."""
    if sys.stdin is None:
        raise OSError(errno.EBADF, "standard input is closed")
    return sys.stdin.buffer if sys.stdin.seekable() else pipes.pieces(sys.stdin.fileno())
