"""The level of the location cache that all workers on all machines share: memcached.

It is asked for a bounded time, and left alone while it does not answer: a breaker for each server opens after a few
failures in a row, and a task in the background, never a request, finds out whether it is back. That answers are late
may be for this process, which is busy: that is only a doubt, which the same task clears up.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import socket
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import emcache
from emcache.protocol import MemcacheAsciiProtocol

from pystor.adapters.names import Host
from pystor.background import Tasks, end
from pystor.batches import Batches
from pystor.digest import Digest
from pystor.errors import NeighbourError
from pystor.events import NeighbourFailed, Observer

NAME: Final = "memcached"
"""What this neighbour is called in `NeighbourFailed`."""

FAILURES: Final = 5
"""So many failures in a row open the breaker of a server; if the last one is a late answer, it is tried at once."""

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 4.0
"""Seconds until a server that failed is tried again; doubled each time, and short enough to be back within 10 s."""

TRIAL: Final = 1.0
"""Seconds that a server has to show that it is there; no request waits for that."""

MAX_CONNECTIONS: Final = 8
"""Connections of one worker to one server; half of them are for questions, and half for what is sent."""

_AT_ONCE: Final = MAX_CONNECTIONS // 2
"""Questions that are under way. More are not asked: who waits for a connection says nothing of the server."""

_TURNS: Final = 6
"""So many turns of the loop it takes at most until what has come is read, and has reached who waits for it."""

MAX_PUTS: Final = 64
"""Values on their way to one server; more are not sent."""

MAX_PATH: Final = 4096
_BEGINNINGS: Final = ("/", "s3://")

_KEY_OF_TRIAL: Final = b"stor"

T = TypeVar("T")
_Wanted: TypeAlias = tuple[bytes, asyncio.Future[bytes | None]]  # a key, and who waits for its value


class Memcached:
    """Where blobs were found, as told by several servers; each digest has its server, by rendezvous hashing.

    The key is the digest in lower-case hexadecimal digits, the value is the path.
    """

    def __init__(self, servers: Sequence[tuple[str, int]], *, timeout: float = 0.020, observe: Observer) -> None:
        """`timeout` is in seconds and bounds a `get`; what came by then counts, also if the loop is late to read it."""
        self._servers: Final = [_Server(host, port, timeout, observe) for host, port in servers]

    async def start(self) -> None:
        """Begin to connect, in the background."""
        logging.getLogger("emcache").setLevel(logging.CRITICAL)  # the events say it, once
        _hush(asyncio.get_running_loop())
        for server in self._servers:
            server.start()

    async def stop(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(server.stop() for server in self._servers))

    async def get(self, digest: Digest) -> str | None:
        """Tell the path that was noted for a blob, or None: there is none, or no good answer in time."""
        value = await self._server_of(digest).get(digest.hex.encode())
        return None if value is None else _path(value)

    def put(self, digest: Digest, path: str) -> None:
        """Note a path; it is sent in the background, or not at all."""
        value = path.encode("utf-8", "surrogateescape")
        if _path(value) is not None:
            self._server_of(digest).send(lambda client: client.set(digest.hex.encode(), value))

    async def probe(self) -> str:
        """Have each server keep a value; raises `NeighbourError` for the first that does not."""
        logging.getLogger("emcache").setLevel(logging.CRITICAL)
        _hush(asyncio.get_running_loop())
        for server in self._servers:
            await server.probe()
        return f"stored a value and got it back: {', '.join(server.name for server in self._servers)}"

    def _server_of(self, digest: Digest) -> _Server:
        return max(self._servers, key=lambda server: server.score(digest))


class _Server:
    """One memcached and its breaker: asked while it answers, left alone while it does not."""

    def __init__(self, host: str, port: int, timeout: float, observe: Observer) -> None:
        self._host: Final = Host(host, port)
        self.name: Final = self._host.place
        self._timeout: Final = timeout
        self._observe: Final = observe
        self._seed: Final = self.name.encode()
        self._client: emcache.Client | None = None
        self._failures = 0
        self._broken: Final = asyncio.Event()
        self._doubted = False
        self._questions: Final = Batches(self._ask_for)
        self._asking: Final = Tasks()
        self._turn_to_send: Final = asyncio.Semaphore(MAX_CONNECTIONS - _AT_ONCE)
        self._keeper: Final = Tasks()
        self._puts: Final = Tasks()

    def score(self, digest: Digest) -> bytes:
        """The server with the highest score has the digest."""
        return hashlib.blake2b(self._seed + digest.hex.encode(), digest_size=8).digest()

    def start(self) -> None:
        self._keeper.begin(self._keep())

    async def stop(self) -> None:
        await end([*self._puts, *self._asking, *self._keeper])

    async def get(self, key: bytes) -> bytes | None:
        """Tell a value, or None; what is wanted at the same time is one question."""
        if self._client is None or len(self._asking) >= _AT_ONCE:
            return None
        value: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._questions.join((key, value))
        return await value

    async def _ask_for(self, wanted: list[_Wanted], through: Callable[[], None]) -> None:
        through()
        found: Mapping[bytes, emcache.Item] = {}
        try:
            if len(self._asking) < _AT_ONCE:
                found = await self._ask_many({key for key, _ in wanted}) or {}
        finally:
            for key, value in wanted:
                if not value.done():
                    value.set_result(found[key].value if key in found else None)

    async def _ask_many(self, keys: Collection[bytes]) -> Mapping[bytes, emcache.Item] | None:
        task = asyncio.create_task(self._ask(lambda client: client.get_many([*keys])))
        self._asking.keep(task)
        return await task

    async def _ask(self, command: Callable[[emcache.Client], Coroutine[Any, Any, T]]) -> T | None:
        """Run a command; None if the server is left alone, or fails."""
        client = self._client
        if client is None:
            return None
        try:
            answer = await _in_time(command(client), self._timeout)
        except Exception as error:  # noqa: BLE001  whatever the server says, and the library makes of it
            self._failed(client, error)
            return None
        self._failures = 0
        return answer

    def send(self, command: Callable[[emcache.Client], Coroutine[Any, Any, object]]) -> None:
        """Run a command in the background, unless many are under way."""
        if self._client is None or len(self._puts) >= MAX_PUTS:
            return
        self._puts.begin(self._send(command))

    async def _send(self, command: Callable[[emcache.Client], Coroutine[Any, Any, object]]) -> None:
        async with self._turn_to_send:
            await self._ask(command)

    def _failed(self, client: emcache.Client, error: Exception) -> None:
        if client is not self._client:
            return  # one of many that failed together: told already
        self._failures += not _is_full(error)  # a full one gives what it has
        self._doubted = isinstance(error, TimeoutError)
        if not self._doubted:
            self._report(error, self._timeout)
        if self._failures >= FAILURES:
            self._client = None
            self._broken.set()

    def _report(self, error: Exception, timeout: float) -> None:
        self._observe(NeighbourFailed(NAME, f"{self.name}: {_reason(error, timeout)}"))

    async def _keep(self) -> None:
        """Connect, wait until the breaker opens, and so on."""
        pause = FIRST_PAUSE
        while True:
            client = await self._try()
            if client is not None:
                pause = FIRST_PAUSE
                await self._serve(client)
                if self._doubted:
                    continue
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _try(self) -> emcache.Client | None:
        """Make a client whose server is as quick as requests need it, which else would find out again and again."""
        try:
            client = await self._connect()
        except Exception as error:  # noqa: BLE001  as in `_ask`
            self._report(error, TRIAL)
            return None
        try:
            await _in_time(client.get(_KEY_OF_TRIAL), self._timeout)
        except BaseException as error:
            await _close(client)
            if not isinstance(error, Exception):
                raise
            self._host.turn()
            self._report(error, self._timeout)
            return None
        return client

    async def _serve(self, client: emcache.Client) -> None:
        """Let requests use the client until it fails."""
        self._broken.clear()
        self._failures, self._client = 0, client
        try:
            await self._broken.wait()
        finally:
            self._client = None
            await _close(client)

    async def _connect(self) -> emcache.Client:
        """Make a client that has got an answer from one of the host's addresses; raises whatever went wrong.

        A client that outlived a failure would wait for up to a minute before it tries again.
        """
        return await self._host.reach(_client_at, TRIAL)

    async def probe(self) -> None:
        try:
            client = await self._connect()
            try:
                async with asyncio.timeout(TRIAL):
                    await self._round_trip(client)
            finally:
                await _close(client)
        except NeighbourError:
            raise
        except Exception as error:
            raise NeighbourError(f"{self.name}: {_reason(error, TRIAL)}; is memcached there, and reachable?") from error

    async def _round_trip(self, client: emcache.Client) -> None:
        key, value = secrets.token_hex(32).encode(), secrets.token_hex(48).encode()  # as long as a digest and a path
        await client.set(key, value, exptime=10)
        item = await client.get(key)
        if item is None or item.value != value:
            raise NeighbourError(f"{self.name}: a value that was stored is not there a moment later; has it memory?")


def _path(value: bytes) -> str | None:
    """Take what can be a path, or be in a bucket; the cache is shared, and anybody may have written there."""
    try:
        path = value.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return path if path.startswith(_BEGINNINGS) and len(value) <= MAX_PATH and path.isprintable() else None


def _reason(error: Exception, timeout: float) -> str:
    match error:
        case TimeoutError():
            return f"no good answer within {timeout * 1000:g} ms"
        case socket.gaierror():
            return f"the host cannot be looked up: {error.strerror}"
        case OSError(errno=int(number)):
            return os.strerror(number)
        case _:
            return "it keeps no values; has it memory?" if _is_full(error) else "its answer is not one of memcached"


def _is_full(error: Exception) -> bool:
    return isinstance(error, emcache.StorageCommandError) and "SERVER_ERROR" in str(error)


async def _in_time(answering: Coroutine[Any, Any, T], timeout: float) -> T:  # noqa: ASYNC109  not that of a scope
    """Wait for an answer for so many seconds, and for one that has come by then until the loop has read it."""
    answer = asyncio.create_task(answering)
    try:
        await asyncio.wait({answer}, timeout=timeout)
        for _ in range(_TURNS):
            if answer.done():
                return answer.result()
            await asyncio.sleep(0)
        raise TimeoutError
    finally:
        answer.cancel()
        await asyncio.wait({answer})  # only then its connection is given back


async def _client_at(address: str, port: int) -> emcache.Client:
    await _knock(address, port)
    client = await emcache.create_client(
        [emcache.MemcachedHostAddress(address, port)],
        timeout=None,
        max_connections=MAX_CONNECTIONS,
        connection_timeout=TRIAL,
        purge_unused_connections_after=None,  # its timer would outlive the client
    )
    try:
        await client.get(_KEY_OF_TRIAL)
    except BaseException:
        await _close(client)
        raise
    return client


async def _knock(address: str, port: int) -> None:
    """Connect once: the client does it in the background, where it keeps to itself what goes wrong."""
    _, writer = await asyncio.open_connection(address, port)
    writer.close()


async def _close(client: emcache.Client) -> None:
    """Close a client; a cancellation that comes meanwhile is ours, and emcache would take it for its own."""
    await asyncio.shield(client.close())


def _hush(loop: asyncio.AbstractEventLoop) -> None:
    """Keep garbage from showing as a stack trace: emcache parses in a callback of the loop, and raises there.

    The connection is closed by that, and the command that waits for its answer fails in time and is reported.
    """
    previous = loop.get_exception_handler() or type(loop).default_exception_handler

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("protocol"), MemcacheAsciiProtocol):
            previous(loop, context)

    loop.set_exception_handler(handle)
