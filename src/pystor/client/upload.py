"""A blob on its way out: its digest and size are computed first, so that nothing large is sent that the server has."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, TypeAlias, TypeGuard

from pystor.client import pipes, threads
from pystor.client.errors import BadContent, ClientError, Refused
from pystor.client.outgoing import Outgoing
from pystor.client.retry import Tries
from pystor.client.servers import Server
from pystor.client.transport import Ask, Transport
from pystor.client.values import Stored
from pystor.digest import Digest

Content: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Iterable[bytes] | AsyncIterable[bytes]
)
"""What can be uploaded: a path, bytes, an open file, or pieces. What cannot be rewound is spooled to a temporary."""

LARGE: Final = 1 << 20
"""Bytes from which a body is sent only when the server has agreed to take it."""

SMALL: Final = 128 << 10
"""Bytes up to which a body is read into memory, without a thread if the memory of the system has it."""

_CREATED: Final = 201
_GOOD: Final = frozenset({200, _CREATED})
_EXPECTATION_FAILED: Final = 417
_COMING: Final = frozenset({stat.S_IFIFO, stat.S_IFCHR})  # kinds of files that come as they are written
_NOT_AT_HAND: Final = frozenset({errno.EAGAIN, errno.EOPNOTSUPP})
_OCTETS: Final = "Content-Type: application/octet-stream"
_AT_ONCE: Final = ("Expect:", _OCTETS)
_WHEN_AGREED: Final = ("Expect: 100-continue", _OCTETS)
_PIECE: Final = 1 << 20
_HASHED_AT_ONCE: Final = 16 << 20
_SPOOL: Final = 8 << 20  # bytes that are kept in memory, not in a file


@dataclass(frozen=True, slots=True)
class Payload:
    """What is sent: a body that can be read as often as needed, from `start`, and what it should be."""

    body: IO[bytes]
    start: int
    size: int
    digest: Digest
    content: bytes | None = None
    """The body in memory, when it is small."""

    def sent(self) -> int:
        """Tell how many bytes were read of it, for an answer that was good: of what the server had already none."""
        return self.size if self.content is not None else self.body.tell() - self.start

    def stored(self, server: Server, status: int, answer: bytes) -> Stored:
        """Tell what a server made of it that answered 200, as it had it already, or 201.

        Raises `Refused` if the answer names no paths: pages for people are answered with 200, too.
        """
        if (paths := _paths(answer)) is None:
            raise Refused(f"{server.url}: the answer is no answer of Stor's: it names no paths of the blob", status)
        return Stored(self.digest, self.size, status == _CREATED, server.url, paths)


async def small(content: Content) -> Payload | None:
    """Make a payload of what is in memory, or fits into it; None when it does not. Raises `OSError`."""
    if isinstance(content, (str, os.PathLike)):
        try:
            found = _read_small(content, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NOT_AT_HAND:
                raise
            found = await asyncio.to_thread(_read_small, content, 0)
    elif isinstance(content, bytes | bytearray | memoryview) and memoryview(content).nbytes <= SMALL:
        found = bytes(content)
    else:
        found = None
    return None if found is None else Payload(io.BytesIO(found), 0, len(found), Digest.of(found), found)


def _read_small(path: str | os.PathLike[str], flags: int) -> bytes | None:
    """Read a regular file if it is small; with `RWF_NOWAIT` only what need not be waited for."""
    status = os.stat(path)  # before it is opened: a named pipe would notice that
    if not stat.S_ISREG(status.st_mode) or status.st_size > SMALL:
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        buffer = bytearray(status.st_size + 1)
        count = os.preadv(descriptor, [buffer], 0, flags)
    finally:
        os.close(descriptor)
    if count != status.st_size:  # it grows, or a part of it is on the disk only
        return None
    return bytes(memoryview(buffer)[:count])


@contextlib.asynccontextmanager
async def payload(content: Content) -> AsyncIterator[Payload]:
    """Make a payload of what is to be uploaded; files that are opened for it are closed at the end."""
    async with _opened(content) as body:
        start = body.tell()
        size, digest = await _measure(body)
        body.seek(start)
        yield Payload(body, start, size, digest)


@contextlib.asynccontextmanager
async def _opened(content: Content) -> AsyncIterator[IO[bytes]]:
    if isinstance(content, bytes | bytearray | memoryview):
        yield io.BytesIO(content)
    elif isinstance(content, str | os.PathLike):
        async with _opened_path(content) as body:
            yield body
    elif _is_file(content) and content.seekable():
        yield content
    else:
        async with _spooled(_pieces(content)) as body:
            yield body


@contextlib.asynccontextmanager
async def _opened_path(path: str | os.PathLike[str]) -> AsyncIterator[IO[bytes]]:
    kind = stat.S_IFMT((await asyncio.to_thread(os.stat, path)).st_mode)
    if kind not in _COMING:
        with await asyncio.to_thread(Path(path).open, "rb") as file:
            yield file
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # else the open would wait for a writer
    try:
        async with _spooled(pipes.pieces(descriptor)) as body:
            yield body
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def _spooled(pieces: AsyncIterator[bytes]) -> AsyncIterator[IO[bytes]]:
    with tempfile.SpooledTemporaryFile(_SPOOL) as spool:  # whichever piece makes it a file, a thread writes it
        async for piece in pieces:
            await threads.run(_keep, spool, piece)
        spool.seek(0)
        yield spool


def _keep(spool: IO[bytes], piece: bytes) -> None:
    try:
        spool.write(piece)
    except OSError as error:
        error.filename = tempfile.gettempdir()  # it is not what is uploaded that has no room
        raise


def _is_file(content: object) -> TypeGuard[IO[Any]]:
    """Tell an open file from pieces by its `read`: temporary ones come wrapped, and their pieces are lines."""
    return hasattr(content, "read") and hasattr(content, "seekable") and not isinstance(content, AsyncIterable)


async def _pieces(content: IO[bytes] | Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(content, AsyncIterable):
        async for piece in content:
            yield piece
    elif _is_file(content):
        while (read := await asyncio.to_thread(content.read, _PIECE)) != b"":
            if read is None:  # it does not block, and there is nothing just now
                await pipes.readable(content.fileno())
            else:
                yield read
    else:
        pieces = filter(None, content)  # an empty piece is not the end
        while piece := await asyncio.to_thread(next, pieces, b""):
            yield piece


async def _measure(body: IO[bytes]) -> tuple[int, Digest]:
    size, digest, ended = 0, hashlib.sha256(), False
    while not ended:
        count, ended = await threads.run(_hash_on, body, digest)
        size += count
    return size, Digest(digest.hexdigest())


def _hash_on(body: IO[bytes], digest: Any) -> tuple[int, bool]:
    """Hash as much of a body as an interruption may wait for; returns its bytes, and whether that was the end."""
    count = 0
    while count < _HASHED_AT_ONCE:
        if not (piece := body.read(_PIECE)):
            return count, True
        count += len(piece)
        digest.update(piece)
    return count, False


class Upload:
    """One payload, on its way to one of the servers, the best first."""

    def __init__(
        self,
        transport: Transport,
        payload: Payload,
        tries: Tries[Server],
        observe: Callable[[int], None],
    ) -> None:
        self._transport = transport
        self._payload = payload
        self._tries = tries
        self._observe = observe
        self._expects = payload.size >= LARGE
        """Whether servers are to agree before they are sent the body."""

    async def send(self) -> Stored:
        """Have it stored; raises `ClientError` when no server did."""
        while True:
            try:
                return await self._post()
            except BadContent as error:
                await self._check_again(error)
                await asyncio.sleep(self._tries.after(error))
            except ClientError as error:
                await asyncio.sleep(self._tries.after(error))

    async def _post(self) -> Stored:
        payload = self._payload
        payload.body.seek(payload.start)
        async with self._transport.exchange(self._body()) as answer:
            if answer.status in _GOOD:
                stored = payload.stored(self._tries.target, answer.status, await answer.body())
                self._observe(payload.sent())
                return stored
            refusal = await answer.error()
            if not (self._expects and answer.status == _EXPECTATION_FAILED):
                raise refusal
        self._expects = False  # what stands between does not hand that on
        return await self._post()

    def _body(self) -> Ask:
        server, payload = self._tries.target, self._payload
        if payload.content is not None:
            return Ask("POST", self._url, server, _AT_ONCE, content=payload.content)
        # A server agrees to a large body only if it lacks the blob, or has to mend a replica of it, which HEAD does not
        # tell. For a small one that is not worth a journey of its own.
        fields = _WHEN_AGREED if self._expects else _AT_ONCE
        return Ask("POST", self._url, server, fields, body=Outgoing(payload.body, payload.size, self._observe))

    @property
    def _url(self) -> str:
        return f"{self._tries.target.url}/{self._payload.digest.hex}"

    async def _check_again(self, error: BadContent) -> None:
        """Tell a file that was changed meanwhile, which stays another, from a body that was garbled on its way."""
        self._payload.body.seek(self._payload.start)
        _, digest = await _measure(self._payload.body)
        if digest != self._payload.digest:
            raise BadContent(f"it was changed while it was sent ({error})")


def _paths(body: bytes) -> tuple[str, ...] | None:
    """Read the paths of a blob's copies, at least one; None if it is anything else."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    listed = isinstance(told, list) and told and all(isinstance(path, str) for path in told)
    return tuple(told) if listed else None
