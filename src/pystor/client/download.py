"""A blob on its way in: from whoever has it, continued where it broke off, and compared with its digest."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol

from pystor.client import threads
from pystor.client.errors import BadContent, ClientError, NotFound, Unavailable, garbled
from pystor.client.retry import Tries
from pystor.client.servers import Server
from pystor.client.transport import Ask, Exchange, Transport
from pystor.client.values import Blob
from pystor.digest import Digest

LARGE: Final = 128 << 10
"""Bytes from which hashing and writing are left to a thread."""

_PROGRESS: Final = 1 << 20  # bytes that make earlier failures forgotten
_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a blob may be: its URL at a server, or in a bucket (`server` is None)."""

    url: str
    server: Server | None = None


class Sink(Protocol):
    """Where a blob goes."""

    def write(self, piece: bytes, /) -> object:
        """Take the next piece."""

    def restart(self) -> None:
        """Forget all pieces: the blob comes once more."""

    @property
    def rewinds(self) -> bool:
        """Whether it can do that: then no write is under way any more when a download of it has ended."""


class Download:
    """One blob. `blob` describes it as soon as the first answer has begun."""

    def __init__(
        self,
        transport: Transport,
        digest: Digest,
        tries: Tries[Source],
        observe: Callable[[int, int | None], None],
    ) -> None:
        """Take `observe`, which is told the bytes that have come so far, and the size if it is known."""
        self._transport = transport
        self._digest = digest
        self._tries = tries
        self._observe = observe
        self._offset = 0
        self._failed_at = 0
        self._size: int | None = None
        self._hash = sha256()
        self._begun: Exchange | None = None
        self.blob: Blob | None = None

    async def into(self, sink: Sink) -> Blob:
        """Bring the blob, from the beginning if need be; what the sink has at the end is the blob."""
        self._begun = self._transport.exchange(self._ask())
        try:
            content = await self._begun.whole()
            if content is not None and sha256(content).hexdigest() == self._digest.hex:
                return self._at_once(content, sink)
            return await self._piece_by_piece(sink)
        finally:
            self._drop_what_began()

    def _at_once(self, content: bytes, sink: Sink) -> Blob:
        """Deliver a blob that has come as a whole, as small ones do."""
        assert self._begun is not None
        self._observe(len(content), len(content))
        sink.write(content)
        self.blob = Blob(self._digest, len(content), self._begun.modified, self._begun.origin)
        return self.blob

    def _drop_what_began(self) -> None:
        if self._begun is not None:
            self._begun.release()
            self._begun = None

    async def _piece_by_piece(self, sink: Sink) -> Blob:
        while True:
            try:
                async with aclosing(self.chunks()) as chunks:
                    async for chunk in chunks:
                        await _write(sink, chunk)
            except BadContent as error:
                sink.restart()
                self._restart()
                await self._wait(error)
            else:
                assert self.blob is not None
                return self.blob

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the blob; its last piece only when all of it is known to be right, else `BadContent` is raised."""
        held = b""
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                hashing = self._begin_to_hash(piece)
                try:
                    if held:
                        yield held  # is written while the next one is hashed
                finally:
                    if hashing is not None:
                        await hashing
                held = piece
        if (real := self._hash.hexdigest()) != self._digest.hex:
            raise garbled(self._origin, self._digest.hex, real)
        if held:
            yield held

    def _begin_to_hash(self, piece: bytes) -> asyncio.Future[None] | None:
        if len(piece) >= LARGE:
            return asyncio.get_running_loop().run_in_executor(None, self._hash.update, piece)
        self._hash.update(piece)
        return None

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        while True:
            try:
                async with self._answer() as answer:
                    known = await self._examine(answer)
                    while batch := await answer.batch():
                        fresh, known = batch[known:] if known else batch, max(0, known - len(batch))
                        self._came(len(fresh))
                        if fresh:
                            yield fresh
                self._check_length()
            except BadContent:
                raise
            except ClientError as error:
                await self._wait(error)
            else:
                return

    def _answer(self) -> Exchange:
        """Ask; or go on with the answer that has begun already."""
        begun, self._begun = self._begun, None
        return begun or self._transport.exchange(self._ask())

    def _ask(self) -> Ask:
        source = self._tries.target
        return Ask("GET", source.url, source.server, offset=self._offset)

    async def _examine(self, answer: Exchange) -> int:
        """Look at the head of an answer, and tell how many bytes of its body are known already."""
        if answer.status == 206 and self._offset:
            return self._continued(answer)
        if answer.status != 200:
            raise await self._no(answer)
        self._describe(answer, answer.length)
        return self._offset

    def _continued(self, answer: Exchange) -> int:
        told = _RANGE.fullmatch(answer.field("content-range") or "")
        if told is None or int(told[1]) != self._offset:
            raise Unavailable(f"{answer.origin}: it went on at another place than where it was asked to")
        self._describe(answer, int(told[2]))
        return 0

    async def _no(self, answer: Exchange) -> ClientError:
        if answer.status == 416:
            return BadContent(f"{answer.origin}: {self._digest.hex} is shorter there than what came of it")
        error = await answer.error()
        if self._tries.target.server is None and not isinstance(error, Unavailable):
            return NotFound(str(error))  # a bucket that may not be listed answers 403
        return error

    def _describe(self, answer: Exchange, size: int | None) -> None:
        self._size = size
        self.blob = Blob(self._digest, size or 0, answer.modified, answer.origin)
        self._observe(self._offset, size)

    def _came(self, count: int) -> None:
        self._offset += count
        self._observe(self._offset, self._size)
        if self._offset - self._failed_at >= _PROGRESS:
            self._tries.progress()

    def _check_length(self) -> None:
        assert self.blob is not None
        if self._size is None:
            self.blob = Blob(self._digest, self._offset, self.blob.modified, self.blob.server)
        elif self._offset < self._size:
            raise Unavailable(f"{self._origin}: the answer ended {self._size - self._offset} bytes early")

    @property
    def _origin(self) -> str:
        return self.blob.server if self.blob else ""

    def _restart(self) -> None:
        self._offset = 0
        self._hash = sha256()
        self._observe(0, self._size)

    async def _wait(self, error: ClientError) -> None:
        self._failed_at = self._offset
        await asyncio.sleep(self._tries.after(error))


async def _write(sink: Sink, piece: bytes) -> None:
    if len(piece) < LARGE:
        sink.write(piece)
    elif sink.rewinds:
        await threads.run(sink.write, piece)
    else:  # who reads from the other end of a pipe may never come
        await asyncio.to_thread(sink.write, piece)
