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
from typing import Final, NamedTuple

from pystor.client.aio import AsyncClient
from pystor.client.bulk import Done, Expected, Failed, Meter, Moved, Observer, Skipped, describe
from pystor.client.saving import Nowhere, save
from pystor.client.values import Blob
from pystor.digest import Digest
from pystor.errors import StorError

_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
_CARRY: Final = 63
_PIECE: Final = 64 << 10
_MOST_LISTED: Final = 50_000  # names of files that are kept in memory, 10 MiB of it


class Finder:
    """Finds the digests in a text that comes in pieces: every 64 hexadecimal digits in a row, whatever is around."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[Digest]:
        """Return the digests that end in this piece."""
        text = self._rest + text
        end, found = 0, []
        for match in _DIGEST.finditer(text):
            end = match.end()
            found.append(Digest(match[0].lower()))
        self._rest = text[max(end, len(text) - _CARRY) :]
        return found


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
        self._before: Final = directory if not directory or directory.endswith("/") else f"{directory}/"

    def name(self, digest: Digest) -> str:
        """What a blob is called."""
        return f"{digest.hex.upper() if self._upper else digest.hex}{self.suffix}"

    def path(self, digest: Digest) -> str:
        """Where a blob goes."""
        return f"{self._before}{self.name(digest)}"


class Names:
    """What may be in a directory: it was there when this was made, or has come by way of us.

    To ask for each file whether it is there is a tenth of the time that a small one takes.
    """

    def __init__(self, naming: Naming) -> None:
        self._listed = None if "/" in naming.suffix else _listed(naming.directory or ".")

    def add(self, name: str) -> None:
        """Take note that a file has come."""
        if self._listed is not None:
            self._listed.add(name)
            if len(self._listed) > _MOST_LISTED:
                self._listed = None

    def has(self, name: str, path: str) -> bool:
        """Tell whether a file is there, whose path is known too; what others put there meanwhile may be overlooked."""
        if self._listed is not None and name not in self._listed:
            return False
        return os.access(path, os.F_OK, follow_symlinks=False)  # without the exception that lexists costs


def _listed(directory: str) -> set[str] | None:
    """List a directory; None if that cannot be done, or is more than is kept in memory."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        names = {entry.name for entry in itertools.islice(entries, _MOST_LISTED + 1)}
        return names if len(names) <= _MOST_LISTED else None
    return None


class _Begun(NamedTuple):
    """A download that is under way."""

    since: float
    name: str
    path: str


class Fetching:
    """Downloads into a directory, or nowhere. What is there already, or on its way already, is skipped."""

    def __init__(self, client: AsyncClient, naming: Naming, observe: Observer, *, keep: bool = True) -> None:
        self._client = client
        self._naming = naming
        self._observe: Final = observe
        self._there = Names(naming) if keep else None
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
            name, path = self._naming.name(digest), self._naming.path(digest)
            if digest.hex in self._begun:
                self._observe(Skipped(digest.hex, path, "it is being downloaded already"))
            elif self._there is not None and self._there.has(name, path):
                self._observe(Skipped(digest.hex, path, "it exists"))
            else:
                self._begun[digest.hex] = _Begun(time.monotonic(), name, path)
                return digest
        return None

    def _keep(self, digests: Iterator[Digest], content: bytes, blob: Blob) -> Digest | None:
        """Save a small one, which has come, and begin with the next."""
        self._observe(Moved(blob.size, blob.size))
        try:
            if self._there is not None:
                save(self._begun[blob.digest.hex].path, content, blob.modified)
        except OSError as error:
            self._fail(blob.digest, error)
        else:
            self._end(blob)
        return self._next(digests)

    async def _fetch(self, digest: Digest) -> None:
        meter = Meter(self._observe, sized=False)
        try:
            if self._there is None:
                blob = await self._client.drop(digest, Nowhere(), observe=meter)
            else:
                blob = await self._client.get(digest, self._begun[digest.hex].path, observe=meter)
        except (StorError, OSError) as error:
            self._fail(digest, error)
        else:
            self._end(blob)

    def _fail(self, digest: Digest, error: Exception) -> None:
        del self._begun[digest.hex]
        self._observe(Failed(digest.hex, describe(error)))

    def _end(self, blob: Blob) -> None:
        begun = self._begun.pop(blob.digest.hex)
        if self._there is not None:
            self._there.add(begun.name)
        path = "" if self._there is None else begun.path
        self._observe(Done(blob.digest.hex, path, blob.size, time.monotonic() - begun.since))
