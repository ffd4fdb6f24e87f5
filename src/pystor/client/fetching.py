"""Many downloads: which blobs a text asks for, what they are called, and what becomes of each."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from typing import Final, TypeAlias

from pystor.client.aio import AsyncClient
from pystor.client.bulk import Done, Expected, Failed, Meter, Moved, Observer, Skipped, describe
from pystor.client.saving import Nowhere, save
from pystor.client.values import Blob
from pystor.digest import Digest
from pystor.errors import StorError

_DIGEST: Final = re.compile(r"([0-9a-f]{64})", re.ASCII)
_CARRY: Final = 63
_PIECE: Final = 64 << 10
_MOST_LISTED: Final = 50_000  # names of files that are kept in memory, 10 MiB of it


class Finder:
    """Finds the digests in a text that comes in pieces: every 64 hexadecimal digits in a row, whatever is around."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[Digest]:
        """Return the digests that end in this piece."""
        parts = _DIGEST.split(self._rest + text.lower())  # what is between them, too
        self._rest = parts[-1][-_CARRY:]
        return [Digest(each) for each in parts[1::2]]


async def named(digests: Sequence[Digest], observe: Observer) -> AsyncGenerator[Sequence[Digest], None]:
    """Yield digests that are known."""
    observe(Expected(len(digests), final=True))
    yield digests


async def typed(descriptor: int, observe: Observer) -> AsyncGenerator[Sequence[Digest], None]:
    """Yield the digests that somebody writes into a pipe, a terminal or a file, as they come."""
    finder = Finder()
    while piece := await _read(descriptor):
        found = finder.feed(piece.decode("ascii", errors="replace"))
        observe(Expected(len(found)))
        yield found
    observe(Expected(0, final=True))


async def _read(descriptor: int) -> bytes:
    """Read what is there, and wait in the event loop, so that an interruption does not wait for the writer."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # a regular file: it never waits
        return os.read(descriptor, _PIECE)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, _PIECE)


class Naming:
    """What downloads are called, as the original has it: the digest, in upper case if wanted, and a suffix."""

    def __init__(self, directory: str, suffix: str = "", upper: bool = False) -> None:
        """Name files in a directory; the empty text is the current one."""
        self.directory: Final = directory
        self.suffix: Final = suffix
        self._upper: Final = upper
        self.before: Final = directory if not directory or directory.endswith("/") else f"{directory}/"

    def path(self, digest: Digest) -> str:
        """Where a blob goes."""
        return f"{self.before}{digest.hex.upper() if self._upper else digest.hex}{self.suffix}"


class Paths:
    """What may be in a directory: it was there when this was made, or has come by way of us.

    To ask for each file whether it is there is a tenth of the time that a small one takes.
    """

    def __init__(self, naming: Naming) -> None:
        self._listed = None if "/" in naming.suffix else _listed(naming)

    def add(self, path: str) -> None:
        """Take note that a file has come."""
        if self._listed is not None:
            self._listed.add(path)
            if len(self._listed) > _MOST_LISTED:
                self._listed = None

    def has(self, path: str) -> bool:
        """Tell whether a file is there; what others put there meanwhile may be overlooked."""
        if self._listed is not None and path not in self._listed:
            return False
        return os.access(path, os.F_OK, follow_symlinks=False)  # without the exception that lexists costs


def _listed(naming: Naming) -> set[str] | None:
    """List a directory; None if that cannot be done, or is more than is kept in memory."""
    with contextlib.suppress(OSError), os.scandir(naming.directory or ".") as entries:
        paths = {f"{naming.before}{entry.name}" for entry in itertools.islice(entries, _MOST_LISTED + 1)}
        return paths if len(paths) <= _MOST_LISTED else None
    return None


_Begun: TypeAlias = tuple[str, float]
"""The path of a download that is under way, and since when that is."""


class Fetching:
    """Downloads into a directory, or nowhere. What is there already, or on its way already, is skipped."""

    def __init__(self, client: AsyncClient, naming: Naming, observe: Observer, *, keep: bool = True) -> None:
        self._client = client
        self._naming = naming
        self._observe: Final = observe
        self._there = Paths(naming) if keep else None
        self._begun: dict[str, _Begun] = {}

    async def fetch(self, digests: Iterator[Digest]) -> None:
        """Download them, one after the other; every outcome is an event, and none is raised but a cancellation."""
        keep = partial(self._keep, digests)
        while (digest := self._next(digests)) is not None:
            if (left := await self._client.get_in_turn(digest, keep)) is not None:
                await self._fetch(left)

    def _next(self, digests: Iterator[Digest]) -> Digest | None:
        """Begin with the next one that is wanted."""
        for digest in digests:
            path = self._naming.path(digest)
            if digest.hex in self._begun:
                self._observe(Skipped(digest.hex, path, "it is being downloaded already"))
            elif self._there is not None and self._there.has(path):
                self._observe(Skipped(digest.hex, path, "it exists"))
            else:
                self._begun[digest.hex] = path, time.monotonic()
                return digest
        return None

    def _keep(self, digests: Iterator[Digest], content: bytes, blob: Blob) -> Digest | None:
        """Save a small one, which has come, and begin with the next."""
        try:
            if self._there is not None:
                save(self._begun[blob.digest.hex][0], content, blob.modified)
        except OSError as error:
            self._observe(Moved(blob.size, blob.size))
            self._fail(blob.digest, error)
        else:
            self._end(blob, at_once=True)
        return self._next(digests)

    async def _fetch(self, digest: Digest) -> None:
        meter = Meter(self._observe, sized=False)
        try:
            if self._there is None:
                blob = await self._client.drop(digest, Nowhere(), observe=meter)
            else:
                blob = await self._client.get(digest, self._begun[digest.hex][0], observe=meter)
        except (StorError, OSError) as error:
            self._fail(digest, error)
        else:
            self._end(blob, at_once=False)

    def _fail(self, digest: Digest, error: Exception) -> None:
        del self._begun[digest.hex]
        self._observe(Failed(digest.hex, describe(error)))

    def _end(self, blob: Blob, *, at_once: bool) -> None:
        path, since = self._begun.pop(blob.digest.hex)
        if self._there is None:
            path = ""
        else:
            self._there.add(path)
        self._observe(Done(blob.digest.hex, path, blob.size, time.monotonic() - since, at_once))
