"""Stor's verbs for programs without an event loop: `AsyncClient` in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Final, Self, TypeVar, overload

from pystor.client.aio import AsyncClient, Name, Target, ignore
from pystor.client.retry import Retry
from pystor.client.s3 import Bucket
from pystor.client.servers import Server
from pystor.client.upload import Content
from pystor.client.values import Blob, Status, Stored

T = TypeVar("T")

_WAITS_FOR_ITSELF: Final = "the client's own thread, which calls what observes, cannot wait for it; use another thread"


class Client:
    """The same verbs as `AsyncClient`, with the same arguments and errors; they return when they are done.

    Any number of threads may use it at the same time. Use it in a `with`, or call `close`. It belongs to the process
    in which it was made: in one that was forked from that its verbs raise `RuntimeError`, and another is to be made.
    So they do, and `close` does, in an `observe`: it is called by the thread that does the work.
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
        self._client = AsyncClient(servers, user=user, password=password, timeout=timeout, retry=retry, bucket=bucket)
        self._process = os.getpid()
        self._open = True
        self._changing = threading.RLock()  # a stream that is collected meanwhile ends in the thread that has it
        self._streams: set[AsyncGenerator[bytes, None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="stor-client", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        ended = False
        while not ended:
            with contextlib.suppress(SystemExit, KeyboardInterrupt):  # of what observes: who waits for that is told it
                self._loop.run_forever()
                ended = True

    def close(self) -> None:
        """Close all connections, and end the thread; whoever asks, or waits, for anything gets a `ValueError`."""
        if os.getpid() != self._process:
            return  # the connections are those of the process that has the thread
        if self._is_here:
            raise RuntimeError(_WAITS_FOR_ITSELF)
        with self._changing:
            was_open, self._open = self._open, False
        if not was_open:
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _end(self) -> None:
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for pieces in list(self._streams):  # each closes those within it, which would be closed beside it below
            await pieces.aclose()
        await self._loop.shutdown_asyncgens()
        await self._client.close()

    @property
    def _is_here(self) -> bool:
        """Whether who asks is in the thread that does the work."""
        return threading.current_thread() is self._thread

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._is_here:
            work.close()
            raise RuntimeError(_WAITS_FOR_ITSELF)
        future = self._begin(work)
        try:
            return future.result()
        except CancelledError:
            raise ValueError("the client was closed meanwhile") from None
        finally:
            if not future.done():  # this thread was interrupted
                future.cancel()
                with contextlib.suppress(ValueError, CancelledError):  # who closes it has waited for that
                    self._begin(_end_of(work)).result()

    def _begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if os.getpid() != self._process:
            work.close()
            raise RuntimeError("the client belongs to another process, whose thread does its work; make one in each")
        with self._changing:  # what is begun before it is closed is cancelled then, and waits for nobody
            if self._open:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise ValueError("the client is closed; make another")

    @overload
    def get(self, name: Name, *, observe: Callable[[int, int | None], None] = ...) -> bytes: ...

    @overload
    def get(self, name: Name, to: Target, *, observe: Callable[[int, int | None], None] = ...) -> Blob: ...

    def get(
        self, name: Name, to: Target | None = None, *, observe: Callable[[int, int | None], None] = ignore
    ) -> Blob | bytes:
        """Download a blob: to a path, where it appears whole or not at all; into an open file; or as bytes."""
        if to is None:
            return self._run(self._client.get(name, observe=observe))
        return self._run(self._client.get(name, to, observe=observe))

    def stream(self, name: Name) -> Iterator[bytes]:
        """Yield the pieces of a blob; the last one comes only if all were right, else `BadContent` is raised."""
        pieces = self._client.stream(name)
        self._streams.add(pieces)
        try:
            while (piece := self._run(_next(pieces))) is not None:
                yield piece
        finally:
            # Else `close` does it, or there is nobody to do it: at the end of a program its thread stands still.
            if self._open and os.getpid() == self._process and not sys.is_finalizing():
                (self._begin if self._is_here else self._run)(self._leave(pieces))  # one is collected wherever it is

    async def _leave(self, pieces: AsyncGenerator[bytes, None]) -> None:
        await pieces.aclose()
        self._streams.discard(pieces)

    def head(self, name: Name) -> Blob:
        """Describe a blob, without its bytes; raises `NotFound` or another `ClientError`."""
        return self._run(self._client.head(name))

    def exists(self, name: Name) -> bool:
        """Tell whether there is such a blob; raises `Unavailable` when nobody knows."""
        return self._run(self._client.exists(name))

    def put(self, content: Content, *, observe: Callable[[int], None] = ignore) -> Stored:
        """Upload a file, bytes or pieces; a large blob that the server has is not sent. Raises `ClientError`."""
        return self._run(self._client.put(content, observe=observe))

    def status(self) -> list[Status]:
        """Ask each server once how it is; one that does not answer is not ok."""
        return self._run(self._client.status())


async def _end_of(work: Coroutine[Any, Any, object]) -> None:
    """Wait until nothing is done for it any more: a stream can be left only then, and a file is written no longer."""
    if tasks := [task for task in asyncio.all_tasks() if task.get_coro() is work]:
        await asyncio.wait(tasks)


async def _next(pieces: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(pieces, None)
