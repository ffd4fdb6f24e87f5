"""A replica on its way to a bucket: collected in a file of this machine, sent when its digest is known to be right."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Final

from pystor.adapters.s3.client import ONE_REQUEST, Client
from pystor.adapters.s3.replica import fingerprint_of
from pystor.blob import READ_SIZE, Fingerprint
from pystor.digest import Digest
from pystor.errors import StorageError, StorageFull

_SLOWEST: Final = 1e6  # bytes per second, for which an upload is waited
_A_STEP: Final = 60.0


class StagedObject:
    """One replica that is being written. Nothing is in the bucket before `publish`, and nothing after `discard`."""

    def __init__(self, client: Client, prefix: str, size: int, directory: str | None) -> None:
        """Make the file, which has no name, in `directory`; `size` bytes are expected, as far as known."""
        self._client: Final = client
        self._prefix: Final = prefix
        self._replaces = False
        self._given_up = False
        self._size = 0
        # Whoever gives up waiting for a step discards from another thread: not before the step is over.
        self._step: Final = threading.Lock()
        place = directory or tempfile.gettempdir()
        with self._translated(f"collect in {place}"):
            if size > _room_in(place):
                raise StorageFull(client.name, f"collect in {place}", f"has no room for {size} bytes")
            self._file: Final[IO[bytes]] = tempfile.TemporaryFile(buffering=0, dir=place)  # noqa: SIM115  discard closes

    @property
    def timeout(self) -> float:
        """Seconds that `publish` may take: it sends everything."""
        return _A_STEP + self._size / _SLOWEST

    def write(self, data: bytes | bytearray | memoryview, piece: int = 0) -> None:  # noqa: ARG002  no disk of others
        """Append all of `data`."""
        view = memoryview(data)
        self._size += len(view)
        with self._step, self._translated("collect"):
            while view:
                view = view[os.write(self._file.fileno(), view) :]

    @property
    def filesystem(self) -> None:
        """None: a bucket has none."""

    @property
    def published(self) -> bool:
        """Whether it is closed without waiting: never."""
        return False

    def date(self, modified: int) -> None:
        """Nothing to do: an object is of the time when it was sent."""

    def sync(self) -> None:
        """Nothing to do: an object that is acknowledged is durable, and one that is not yet sent need not be."""

    def set_aside(self, digest: Digest, bad: Fingerprint | None) -> None:
        """Keep the object that there is in quarantine, if it is the one that was found bad; `publish` replaces it."""
        key = self._prefix + digest.key
        found = self._client.look_at(key)
        if found is not None and bad in (None, fingerprint_of(self._client.name, key, found)):
            self._keep(digest)
        self._replaces = True

    def _keep(self, digest: Digest) -> None:
        name = f"{digest.hex.upper()}.{secrets.token_hex(4)}"
        self._client.copy(self._prefix + digest.key, f"{self._prefix}.stor/quarantine/{name}")

    def publish(self, digest: Digest) -> None:
        """Send it under its final name.

        A blob never changes: an object of that name and size is left as it is, unless it was set aside. One of another
        size is no such blob; it goes to quarantine. What a bucket that answers does not take is `refused`.
        """
        with self._step, self._translated("publish"):
            if self._given_up:
                raise StorageError(self._client.name, "publish", "the upload was given up")
            try:
                self._send(digest, self._prefix + digest.key)
            except StorageError as error:
                error.refused = not error.dead
                raise

    def _send(self, digest: Digest, key: str) -> None:
        if self._size <= ONE_REQUEST:
            self._send_whole(digest, key, os.pread(self._file.fileno(), self._size, 0))
        else:
            self._send_in_parts(digest, key)

    def _send_whole(self, digest: Digest, key: str, data: bytes) -> None:
        there = not self._replaces and (self._client.create(key, data) or self._is_there(digest, key))
        if not there:
            self._client.put(key, data)

    def _send_in_parts(self, digest: Digest, key: str) -> None:
        if self._replaces or not self._is_there(digest, key):
            self._client.upload(key, self._pieces(), self._size)

    def _is_there(self, digest: Digest, key: str) -> bool:
        found = self._client.look_at(key)
        if found is None:
            return False
        if found["size"] != self._size:
            self._keep(digest)
        return found["size"] == self._size

    def _pieces(self) -> Iterator[bytes]:
        for offset in range(0, self._size, READ_SIZE):
            if self._given_up:  # nobody waits any more: whoever sends it takes back what was sent
                raise OSError(errno.ECANCELED, "the upload was given up")
            yield os.pread(self._file.fileno(), READ_SIZE, offset)

    def discard(self) -> None:
        """Forget what was not published; an upload that is under way is aborted. Never raises."""
        self._given_up = True
        with self._step, contextlib.suppress(OSError):
            self._file.close()

    close = discard

    def __enter__(self) -> StagedObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    @contextlib.contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError.from_os(self._client.name, operation, error) from error
        except ValueError as error:  # the file is closed
            raise StorageError(self._client.name, operation, "the upload was given up") from error


def _room_in(directory: str) -> int:
    """Bytes that may be written to a directory of this machine. Raises `OSError`."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
