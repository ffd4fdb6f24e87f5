"""What is to be downloaded: which blobs a text asks for, what they are called, and what became of each."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from pystor.client.bulk import Done, Expected, Failed, Moved, Observer, Skipped, describe
from pystor.client.errors import ClientError
from pystor.client.saving import save
from pystor.digest import Digest

_DIGEST: Final = re.compile(r"([0-9a-f]{64})", re.ASCII)
_EMPTY: Final = Digest.of(b"")
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


class Input:
    """The digests that are asked for: those that are known, and those that come by a pipe, a terminal or a file."""

    def __init__(self, observe: Observer, digests: Sequence[Digest] = (), descriptor: int | None = None) -> None:
        """Take what is known already, and what the rest is read from, if there is a rest."""
        self.descriptor = descriptor
        """What is read from; None at the end."""
        self._observe: Final = observe
        self._finder: Final = Finder()
        self._known: Sequence[Digest] = digests
        if digests or descriptor is None:
            observe(Expected(len(digests), final=descriptor is None))

    def take(self) -> list[Digest]:
        """Give what is known, once."""
        known, self._known = self._known, ()
        return list(known)

    def read(self) -> list[Digest]:
        """Read what has come, or wait for it; `descriptor` is None afterwards if that was the end.

        Raises `OSError`, which names standard input.
        """
        assert self.descriptor is not None
        try:
            piece = os.read(self.descriptor, _PIECE)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard input") from None
        found = self._finder.feed(piece.decode("ascii", errors="replace"))
        if not piece:
            self.descriptor = None
        self._observe(Expected(len(found), final=not piece))
        return found


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


def _is_torn(path: str, digest: Digest) -> bool:
    """Tell whether a file is what a power cut leaves of one that was named before its bytes were on the disk."""
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        return found.st_size == 0 and stat.S_ISREG(found.st_mode) and digest != _EMPTY
    return False


_Begun: TypeAlias = tuple[str, float]
"""The path of a download that is under way, and since when that is."""


class Downloads:
    """Downloads into a directory, or nowhere. What is there already, or on its way already, is skipped."""

    def __init__(self, naming: Naming, observe: Observer, *, keep: bool = True) -> None:
        """`observe` is told every outcome; unless they are kept, they are only checked."""
        self.observe: Final = observe
        self._naming: Final = naming
        self._there: Final = Paths(naming) if keep else None
        self._begun: Final[dict[str, _Begun]] = {}
        self._failures: Final[dict[str, ClientError]] = {}

    def begin(self, digests: Iterator[Digest]) -> Digest | None:
        """Begin with the next one that is wanted."""
        for digest in digests:
            path = self._naming.path(digest)
            if digest.hex in self._begun:
                self.observe(Skipped(digest.hex, path, "it is being downloaded already"))
            elif self._there is not None and self._there.has(path) and not _is_torn(path, digest):
                self.observe(Skipped(digest.hex, path, "it exists"))
            else:
                self._begun[digest.hex] = path, time.monotonic()
                return digest
        return None

    def path_of(self, digest: Digest) -> str | None:
        """Tell where one goes that was begun; None: nowhere."""
        return None if self._there is None else self._begun[digest.hex][0]

    def save(self, digest: Digest, content: bytes, modified: float | None) -> None:
        """Save one that has come as a whole."""
        size = len(content)
        try:
            if self._there is not None:
                save(self._begun[digest.hex][0], content, modified)
        except OSError as error:
            self.observe(Moved(size, size))
            self.fail(digest, error)
        else:
            self.end(digest, size, at_once=True)

    def end(self, digest: Digest, size: int, *, at_once: bool = False) -> None:
        """Take note that one has come; `at_once`: none of its bytes was told of before."""
        name = digest.hex
        path, since = self._begun.pop(name)
        if self._there is None:
            path = ""
        else:
            self._there.add(path)
        self.observe(Done(name, path, size, time.monotonic() - since, at_once))

    def fail(self, digest: Digest, error: Exception) -> None:
        """Take note that one does not come."""
        del self._begun[digest.hex]
        self.observe(Failed(digest.hex, describe(error)))

    def put_back(self, digest: Digest, failure: ClientError | None) -> None:
        """Leave one that was begun to somebody else, who begins it again; `failure` is what a try has ended with."""
        del self._begun[digest.hex]
        if failure is not None:
            self._failures[digest.hex] = failure

    def take_failure(self, digest: Digest) -> ClientError | None:
        """Tell, once, what the try has ended with that whoever had it before has made."""
        return self._failures.pop(digest.hex, None)
