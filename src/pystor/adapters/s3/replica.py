"""A replica in a bucket: read through one request as long as it is read in order, in bounded memory."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import TYPE_CHECKING, Final

from pystor.adapters.s3.client import PIECE, Client
from pystor.blob import Again, Fingerprint
from pystor.errors import StorageError

if TYPE_CHECKING:
    from obstore import BytesStream, GetResult, ObjectMeta

AT_ONCE: Final = 64 << 10
"""Bytes of an object that is taken whole when it is opened: its connection is free again at once."""

_KEPT: Final = 1 << 20
"""Bytes of an object that is kept whole once it was read: it is verified first, and then sent."""

_LONG: Final = 2.0
"""Seconds after which a stream may break without a failure of the storage: nobody read it, or something between cut it.

Younger ones are gone on with by obstore, as often as a request is repeated.
"""


class BucketReplica:
    """An open replica. Reads in order go on with the stream that is open, others begin a new one.

    A stream that nobody reads has over a megabyte in memory, on its way. Who stops reading is asked for no more than is
    wanted, when it goes on; and if it goes on at once, for a stream again.
    """

    def __init__(self, client: Client, key: str, path: str, opened: GetResult) -> None:
        """Take over an answer whose body was not read yet."""
        meta = opened.meta
        self.storage: Final = client.name
        self.path: Final = path
        self.size: Final = meta["size"]
        self.modified: Final = int(meta["last_modified"].timestamp())
        self._etag: Final = meta["e_tag"]
        self.fingerprint: Final = fingerprint_of(client.name, key, meta)
        self._client: Final = client
        self._key: Final = key
        self._whole = self.size <= _KEPT
        self._paused = False
        self._stream: BytesStream | None = opened.stream(PIECE)
        self._start, self._window = 0, b""
        """The bytes that are in memory, and where they begin; the stream goes on behind them."""
        self._opened_at = time.monotonic()
        self._closed = False
        self._one_at_a_time: Final = threading.Lock()

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly `size` bytes; raises `StorageError` if the stream breaks or the object was replaced."""
        if offset + size > self.size:
            raise self._error(f"ends at {self.size} bytes")
        with self._one_at_a_time:
            return self._read(offset, size)

    def _read(self, offset: int, size: int) -> bytes:
        if self._paused:
            self._paused = False
            return self._read_alone(offset, size)
        if not self._start <= offset <= self._end:
            self._start, self._window = 0 if self._whole else offset, b""
            self._stream = None
        pieces, stop = [], offset + size
        while offset < stop:
            piece = self._window[offset - self._start : stop - self._start]
            pieces.append(piece)
            offset += len(piece)
            if offset < stop:
                self._go_on()
        return b"".join(pieces)

    def _read_alone(self, offset: int, size: int) -> bytes:
        opened = self._open_again(offset, offset + size)
        with self._client.translated(f"read {self.path}"):
            return bytes(opened.bytes())

    def _go_on(self) -> None:
        try:
            piece = self._next()
        except StorageError:
            self._stream = None
            if time.monotonic() - self._opened_at < _LONG:
                raise
            piece = self._next()
        if self._whole:
            self._window += piece
        else:
            self._start, self._window = self._end, piece

    @property
    def _end(self) -> int:
        return self._start + len(self._window)

    def _next(self) -> bytes:
        stream = self._stream = self._stream or self._open_again(self._end, self.size).stream(PIECE)
        with self._client.translated(f"read {self.path}"):
            piece = next(stream, b"")
        if not piece:
            raise self._error(f"ends at {self._end} bytes")
        return piece

    def _open_again(self, start: int, stop: int) -> GetResult:
        if self._closed:
            raise self._error("is closed")
        self._opened_at = time.monotonic()
        opened = self._client.get(self._key, (start, stop))
        if opened is None or opened.meta["e_tag"] != self._etag or opened.range != (start, stop):
            raise self._error("was replaced while it was read")
        return opened

    def _error(self, reason: str) -> StorageError:
        return StorageError(self.storage, f"read {self.path}", reason)

    @property
    def again(self) -> Again | None:
        """There is no way that does not wait."""
        return None

    def read_cached(self, offset: int, room: memoryview) -> bool:
        """Fill the room from what has come already; False if there is more to come, or somebody reads just now."""
        if not self._one_at_a_time.acquire(blocking=False):
            return False
        try:
            start = offset - self._start
            here = 0 <= start <= len(self._window) - len(room)
            if here:
                room[:] = self._window[start : start + len(room)]
            return here
        finally:
            self._one_at_a_time.release()

    def send_cached(self, socket: int, offset: int, size: int) -> int:  # noqa: ARG002  those of the protocol
        """Promise nothing without the network."""
        return 0

    def pause(self) -> None:
        """End the stream, and forget what came; not if somebody reads just now."""
        if self._one_at_a_time.acquire(blocking=False):
            self._stream, self._window = None, b""
            self._whole, self._paused = False, True
            self._one_at_a_time.release()

    def close(self) -> None:
        """End the stream; a read that is under way in another thread may still finish its piece."""
        self._closed = True
        self._stream = None

    def __enter__(self) -> BucketReplica:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fingerprint_of(bucket: str, key: str, meta: ObjectMeta) -> Fingerprint:
    """Make what changes when the bytes of an object do."""
    modified = int(meta["last_modified"].timestamp() * 1_000_000) * 1000
    return _number(bucket), _number(key), meta["size"], modified, _number(f"{meta['e_tag']} {meta['version']}")


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
