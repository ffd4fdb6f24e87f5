"""Stor's verbs for programs with an event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from hashlib import sha256
from typing import IO, NamedTuple, Self, TypeAlias, overload

from pystor.client import limits, threads
from pystor.client.download import Download, Sink, Source
from pystor.client.errors import ClientError, Late, NotFound, Refused, garbled
from pystor.client.plain_http import PlainHttp
from pystor.client.retry import Retry, Tries
from pystor.client.s3 import Bucket
from pystor.client.saving import SYNCED, Draft, Memory, given
from pystor.client.servers import Server, ranked
from pystor.client.small import PROMPT, SMALL, Small
from pystor.client.transport import Ask, Exchange, Transport
from pystor.client.unreachable import Unreachable
from pystor.client.upload import Content, Payload, Upload, payload, small
from pystor.client.values import Blob, Status, Stored, status_of
from pystor.digest import Digest

Name: TypeAlias = str | Digest
"""A SHA-256: 64 hexadecimal digits in either case, or a `Digest`."""

Target: TypeAlias = str | os.PathLike[str] | IO[bytes]


def ignore(_count: int, _of: int | None = None) -> None:
    """Observe nothing."""


class _Quick(NamedTuple):
    """A blob that came as a whole."""

    content: bytes
    blob: Blob


class AsyncClient:
    """Talks to one Stor, or to several that are asked one after the other: `http[s]://[USER:PASSWORD@]HOST:PORT`.

    `user` and `password` are for servers whose URL names none. Nothing is waited for longer than `timeout` seconds
    in which no byte moves, and a second more for each 100 MB of an upload. `bucket` is read first. Use it in an
    `async with`, or call `close`.

    It belongs to the event loop in which it is used first; in another one its verbs raise `RuntimeError`.
    """

    def __init__(
        self,
        servers: str | Server | Sequence[str | Server],
        *,
        user: str | None = None,
        password: str | None = None,
        timeout: float = 30.0,
        retry: Retry | None = None,
        bucket: Bucket | None = None,
    ) -> None:
        """Open no connection yet; raises `ValueError` when a URL is none, or the timeout not above 0."""
        given = [servers] if isinstance(servers, str | Server) else servers
        self.servers = [each if isinstance(each, Server) else Server.parse(each, user, password) for each in given]
        if not self.servers:
            raise ValueError("there is no server to talk to; name one as http://HOST:PORT")
        self._retry = retry or Retry()
        self._bucket = bucket
        self._timeout = timeout = limits.timeout(timeout)
        self._connected: Transport | None = None
        self._plain = PlainHttp(timeout)
        self._unreachable = Unreachable(timeout)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def _plain_http(self) -> PlainHttp:
        self._check_loop()
        return self._plain

    @property
    def _transport(self) -> Transport:
        self._check_loop()
        if self._connected is None:
            others = len(self.servers) > 1 or self._bucket is not None
            prompt = min(self._timeout, PROMPT) if others else self._timeout
            self._connected = Transport(self._timeout, prompt, self._unreachable)
        return self._connected

    def _check_loop(self) -> None:
        if self._closed:
            raise ValueError("the client is closed; make another")
        if self._loop is not (loop := asyncio.get_running_loop()):
            if self._loop is not None:
                raise RuntimeError("the client belongs to another event loop; make one in each, and close it there")
            self._loop = loop

    async def close(self) -> None:
        """Close all connections; whoever asks, or waits, for anything gets a `ValueError`."""
        if self._closed:
            return
        self._check_loop()
        self._closed = True
        self._plain.close()
        if self._connected is not None:
            await self._connected.close()
            self._connected = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Down

    @overload
    async def get(self, name: Name, *, observe: Callable[[int, int | None], None] = ...) -> bytes: ...

    @overload
    async def get(self, name: Name, to: Target, *, observe: Callable[[int, int | None], None] = ...) -> Blob: ...

    async def get(
        self, name: Name, to: Target | None = None, *, observe: Callable[[int, int | None], None] = ignore
    ) -> Blob | bytes:
        """Download a blob: to a path, where it appears whole or not at all; into an open file; or as bytes.

        A device or a pipe at the path is not replaced (`FileExistsError`). An open file is written from where it
        stands, and waited for; a `write` that tells nothing has taken all. Raises `NotFound`, `Unavailable`,
        `BadContent` or another `ClientError`, and `OSError` of the target; then nothing of it is left: a file that was
        written to ends where it stood. `observe` is told the bytes that have come, and the size, as it goes.
        """
        digest = _digest(name)
        if to is None:
            memory = Memory()
            await self.drop(digest, memory, observe=observe)
            return memory.content
        if isinstance(to, (str, os.PathLike)):
            return await self.save(digest, os.fspath(to), observe=observe)
        with given(to) as sink:
            return await self.drop(digest, sink, observe=observe)

    async def save(
        self,
        name: Name,
        path: str,
        *,
        observe: Callable[[int, int | None], None] = ignore,
        failed: ClientError | None = None,
    ) -> Blob:
        """Download to a path, for `fetching`; `failed` is what a first try has ended with, if one was made."""
        with Draft(path) as draft:
            blob = await self.drop(name, draft, observe=observe, failed=failed)
            if blob.size >= SYNCED:
                await threads.run(draft.sync)
            draft.keep(blob.modified)
            return blob

    async def drop(
        self,
        name: Name,
        sink: Sink,
        *,
        observe: Callable[[int, int | None], None] = ignore,
        failed: ClientError | None = None,
    ) -> Blob:
        """Download into anything that takes pieces and can begin anew, for `fetching`; `failed` is as in `save`."""
        digest = _digest(name)
        sources = self._sources(digest, failed)
        quick = failed or await self._quickly(digest, sources[0].server, observe)
        if isinstance(quick, _Quick):
            sink.write(quick.content)
            return quick.blob
        return await self._slowly(digest, sources, sink, observe, quick)

    async def _slowly(
        self,
        digest: Digest,
        sources: Sequence[Source],
        sink: Sink,
        observe: Callable[[int, int | None], None],
        failed: ClientError | None,
    ) -> Blob:
        tries = Tries(self._retry, sources)
        if failed is not None:
            self._note(sources[0].url, failed)
            await asyncio.sleep(tries.after(failed))
        blob = await Download(self._transport, digest, tries, observe).into(sink)
        self._plain_http.note(blob.size)
        return blob

    async def _quickly(
        self, digest: Digest, server: Server | None, observe: Callable[[int, int | None], None]
    ) -> _Quick | ClientError | None:
        """Bring a blob that is expected to be small, as those before it were; else it has to come the long way.

        An error is what a first try has ended with; None was no try.
        """
        if server is None or not self._plain_http.serves(server):
            return None
        small = await self._plain_http.get(server, digest)
        if not isinstance(small, Small):
            return small
        self._unreachable.back(server.url)
        if (real := sha256(small.content).hexdigest()) != digest.hex:
            return garbled(server.url, digest.hex, real)
        size = len(small.content)
        observe(size, size)
        return _Quick(small.content, Blob(digest, size, small.modified, server.url))

    def _sources(self, digest: Digest, failed: ClientError | None = None) -> Sequence[Source]:
        """Tell where a blob is looked for, the best first: if that was tried, the one that has failed is that still."""
        sources = [Source(f"{server.url}/{digest.hex}", server) for server in ranked(self.servers, digest)]
        if self._bucket is not None:
            sources.insert(0, Source(self._bucket.locate(digest)))
        return sources if failed is not None else self._unreachable.last(sources)

    def _order(self, digest: Digest) -> Sequence[Server]:
        """Tell who is asked for anything else of a blob, the best first."""
        return self._unreachable.last(ranked(self.servers, digest))

    def _note(self, url: str, failed: ClientError) -> None:
        """Note what a first try has found out, which was not made by the transport."""
        if isinstance(failed, Late):
            self._unreachable.note(url)

    async def stream(self, name: Name) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of a blob; the last one comes only if all were right, else `BadContent` is raised.

        A loop that is left early wants `contextlib.aclosing` around it.
        """
        digest = _digest(name)
        tries = Tries(self._retry, self._sources(digest))
        async with aclosing(Download(self._transport, digest, tries, ignore).chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def head(self, name: Name) -> Blob:
        """Describe a blob, without its bytes; raises `NotFound` or another `ClientError`."""
        digest = _digest(name)
        tries = Tries(self._retry, self._order(digest))
        while True:
            server = tries.target
            try:
                async with self._transport.exchange(Ask("HEAD", f"{server.url}/{digest.hex}", server)) as answer:
                    return await _described(digest, answer)
            except ClientError as error:
                await asyncio.sleep(tries.after(error))

    async def exists(self, name: Name) -> bool:
        """Tell whether there is such a blob; raises `Unavailable` when nobody knows."""
        try:
            await self.head(name)
        except NotFound:
            return False
        return True

    # Up

    async def put(self, content: Content, *, observe: Callable[[int], None] = ignore) -> Stored:
        """Upload a file, bytes or pieces; a large blob that the server has is not sent. Raises `ClientError`.

        A text is a path. `observe` is told the bytes that were sent, as it goes.
        """
        if (ready := await small(content)) is not None:
            return await self._send(ready, observe)
        async with payload(content) as ready:
            return await self._send(ready, observe)

    async def _send(self, ready: Payload, observe: Callable[[int], None]) -> Stored:
        order = self._order(ready.digest)
        quick = await self._quickly_sent(ready, order[0], observe)
        if isinstance(quick, Stored):
            return quick
        tries = Tries(self._retry, order)
        if quick is not None:
            self._note(order[0].url, quick)
            await asyncio.sleep(tries.after(quick))
        stored = await Upload(self._transport, ready, tries, observe).send()
        self._plain_http.note(ready.size)
        return stored

    async def _quickly_sent(
        self, ready: Payload, server: Server, observe: Callable[[int], None]
    ) -> Stored | ClientError | None:
        """Send a small blob as those before it were sent; else, as in `_quickly`, it has to go the long way."""
        if ready.content is None or ready.size > SMALL or not self._plain_http.serves(server):
            return None
        answer = await self._plain_http.post(server, ready.digest, ready.content)
        if not isinstance(answer, Small):
            return answer
        self._unreachable.back(server.url)
        try:
            stored = ready.stored(server, answer.status, answer.content)
        except Refused as error:
            return error
        observe(ready.size)
        return stored

    # Beside the blobs

    async def status(self) -> list[Status]:
        """Ask each server once how it is; one that does not answer is not ok."""
        return list(await asyncio.gather(*(self._status(server) for server in self.servers)))

    async def _status(self, server: Server) -> Status:
        ask = Ask("GET", f"{server.url}/status", server, ("Accept: application/json, text/plain;q=0.5",))
        try:
            async with self._transport.exchange(ask) as answer:
                return status_of(server.url, answer.status, await answer.body())
        except ClientError as error:
            return Status(server.url, ok=False, text=str(error).removeprefix(f"{server.url}: "))


def _digest(name: Name) -> Digest:
    return name if isinstance(name, Digest) else Digest.parse(name)


async def _described(digest: Digest, answer: Exchange) -> Blob:
    if answer.status == 404:
        raise NotFound(f"{answer.origin}: File '{digest.hex}' not found")  # the answer to HEAD has no words
    if answer.status != 200:
        raise await answer.error()
    if not _may_be(digest, answer.field("etag"), answer.field("repr-digest")):
        raise Refused(f"{answer.origin}: the answer is no answer of Stor's: it describes something else", answer.status)
    return Blob(digest, answer.length or 0, answer.modified, answer.origin)


def _may_be(digest: Digest, *told: str | None) -> bool:
    """Tell whether fields speak of a blob; the original has none of them, and what stands between may change one."""
    fields = list(filter(None, told))
    return not fields or any(digest.hex in field or digest.base64 in field for field in fields)
