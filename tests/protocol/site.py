"""A server on real sockets around an application of a few lines, and a client that is asked for its bytes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self, cast

import pytest

from pystor import outbox
from pystor.http.crowd import Crowd
from pystor.http.heads import Sent
from pystor.http.messages import DIRECT, Conditions, Response, text
from pystor.http.protocol import StorProtocol
from pystor.http.server import Server, Task
from pystor.http.wire import Limits
from tests.support.processes import eventually

MIB = 1 << 20
ALPHABET = bytes(range(65, 91)) * 400_000  # more than the kernel keeps for a client
HOST = b" HTTP/1.1\r\nhost: test\r\n"
INCOMPLETE = b"The body ended before its declared length; nothing was stored"


def get(path: str, *fields: bytes, method: bytes = b"GET") -> bytes:
    return method + b" " + path.encode() + HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def post(path: str, body: bytes, *fields: bytes, length: int | None = None) -> bytes:
    declared = b"content-length: %d" % (len(body) if length is None else length)
    return get(path, declared, *fields, method=b"POST") + body


def chunked(path: str, *parts: bytes) -> bytes:
    return get(path, b"transfer-encoding: chunked", method=b"POST") + b"".join(parts)


class Application:
    """Answers by path; `/fast…` on the fast path, and everything on the long way."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.events: list[str] = []
        self.targets: list[bytes] = []
        self.refusals: list[tuple[str, str, int]] = []
        self.room = memoryview(bytearray(60_000))
        self.release = asyncio.Event()

    def answer(self, _method: bytes, target: bytes, _conditions: Conditions, _client: str) -> Response | None:
        self.targets.append(target)
        if target.startswith(b"/fast-error"):
            raise RuntimeError("a secret of the inside")
        return self.respond(target.decode()) if target.startswith(b"/fast") else None

    def refused(self, method: str, path: str, response: Response, client: str) -> None:
        assert client == "127.0.0.1"
        self.refusals.append((method, path, response.status))

    def respond(self, path: str) -> Response:
        """What both ways answer: `/fast/304`, `/slow/204`, `/fast/bytes/4096`, else the path itself.

        `/fast/room/7` is 60,000 times the byte 7, in memory that each answer overwrites.
        """
        match path.split("/")[2:]:
            case ["room", byte]:
                self.room[:] = bytes([int(byte)]) * len(self.room)
                return Response(200, ((b"content-length", b"%d" % len(self.room)),), self.room)
            case [("204" | "304") as status]:
                return Response(int(status), ((b"etag", b'"x"'),))
            case ["bytes", size]:
                body = bytes(int(size))
                return Response(200, ((b"content-length", b"%d" % len(body)), (b"etag", b'"x"')), body)
            case ["close"]:
                return text(200, path, (b"connection", b"close"))
            case ["unsized"]:
                return Response(200, (), b"unsized")
            case ["stream"]:
                return Response(200, ((b"content-length", b"1"),), Nothing())
            case ["404"]:
                return text(404, path)
        return text(200, path)

    async def take(self, sent: Sent, _client: str) -> Response:
        """Answer as `do_echo` does, by the short way; `/shortlate…` and `/shortlong…` late, `/shortstall…` never."""
        self.events.append("short")
        name = sent.target.decode().removeprefix("/short")
        if name.startswith("error"):
            raise RuntimeError("a secret of the inside")
        await asyncio.sleep({"late": 0.3, "long": 0.9, "stal": 30}.get(name[:4], 0))
        self.events.append("told")
        return text(
            200,
            hashlib.sha256(sent.body).hexdigest(),
            (b"x-method", sent.method),
            (b"x-known", sent.headers.get(b"x-known", b"")),
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                await send({"type": (await receive())["type"] + ".complete"})
            return
        assert scope["path"].startswith(("/", "*"))
        name = scope["path"].split("/")[1] if "/" in scope["path"] else "star"
        self.events.append(name)
        handle = (
            self.do_echo if name.startswith("short") else getattr(self, f"do_{name.partition('-')[0]}", self.do_plain)
        )
        await handle(scope, receive, send)

    async def do_plain(self, scope: Any, _receive: Any, send: Any) -> None:
        response = self.respond(scope["path"].replace("/fast-error", "/fast"))
        await reply(send, response._replace(body=bytes(cast(bytes, response.body))))

    async def do_late(self, scope: Any, _receive: Any, send: Any) -> None:
        await asyncio.sleep(0.3)
        await reply(send, text(200, scope["path"]))

    async def do_echo(self, scope: Any, receive: Any, send: Any) -> None:
        digest = hashlib.sha256()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.events.append("disconnect")
                return
            digest.update(message["body"])
            more = message["more_body"]
        await reply(send, text(200, digest.hexdigest(), *[h for h in scope["headers"] if h[0] == b"x-trailer"]))

    async def do_early(self, _scope: Any, _receive: Any, send: Any) -> None:
        await reply(send, text(401, "early"))

    async def do_stall(self, _scope: Any, _receive: Any, _send: Any) -> None:
        await asyncio.sleep(30)

    async def do_stream(self, _scope: Any, _receive: Any, send: Any) -> None:
        """Send 64 MiB without looking whether anyone reads."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (64 * MIB))]})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(MIB), "more_body": True})
        await send({"type": "http.response.body"})

    async def do_direct(self, scope: Any, receive: Any, send: Any) -> None:
        """Send ALPHABET, by turns what the socket takes of it and a piece of 20,000; in chunks, or `late`, if asked."""
        assert DIRECT in scope["extensions"]
        while scope["path"].endswith("late") and (await receive())["type"] != "http.disconnect":
            pass
        length = [] if scope["path"].endswith("chunked") else [(b"content-length", b"%d" % len(ALPHABET))]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        offset = 0

        def source(fd: int) -> int:
            self.events.append("source")
            with contextlib.suppress(OSError):  # it is full, or nobody is there
                return os.write(fd, ALPHABET[offset : offset + 50_000])
            return 0

        while offset < len(ALPHABET):
            sent = await send({"type": DIRECT, "source": source})
            self.events.append(f"direct {sent > 0}")
            offset += sent
            piece = ALPHABET[offset : offset + 20_000]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            offset += len(piece)
        await send({"type": "http.response.body"})

    async def do_watch(self, _scope: Any, receive: Any, _send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.events.append("disconnect")

    async def do_error(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/error":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        if scope["path"] == "/error/later":
            self.events.append("begun")
            while (await receive())["type"] != "http.disconnect":
                pass
        raise RuntimeError("a secret of the inside")


class Nothing:
    """A stream that is never sent."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b""

    def send_directly(self, _socket: int) -> int:
        return 0

    def pause(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


async def reply(send: Any, response: Response) -> None:
    await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
    await send({"type": "http.response.body", "body": response.body})


class Site:
    """A server in a thread of this process, so that a test can look at its connections."""

    def __init__(self, **limits: Any) -> None:
        self.app = Application(Limits(**limits))
        self._socket = socket.create_server(("127.0.0.1", 0))
        task = Task(lambda: self.app, self._socket, self.app.limits, 1.0, settled=False)
        self._server = Server(task._config(), lambda _word: None)
        self.address = self._socket.getsockname()
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        self._server.should_exit = True

    def part(self) -> None:
        """Stop, and wait until that has begun."""
        self.stop()
        eventually(lambda: self._server.server_state.parting)

    def connection_of(self, client: Client) -> StorProtocol | None:
        """The server's end of a client's connection, as long as it lives."""
        mine = client.socket.getsockname()
        return next((each for each in self.connections if each.client == mine), None)

    @property
    def connections(self) -> list[StorProtocol]:
        return [each for each in list(self._server.server_state.connections) if isinstance(each, StorProtocol)]

    def crowd(self, descriptors: int) -> None:
        """Have it take its process for one that may have so many descriptors."""
        self._server.server_state.crowd = Crowd(descriptors)

    def narrow(self, size: int) -> None:
        """Give connections that are made from now on small buffers."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    @property
    def outbox(self) -> outbox.Outbox:
        return self._server.server_state.outbox

    def connect(self, **options: Any) -> Client:
        return Client(self.address, **options)

    def ask(self, request: bytes, *, end: bool = False) -> bytes:
        """All that is answered until the server ends the connection."""
        with self.connect() as client:
            client.send(request)
            if end:
                client.end()
            return client.rest()


class Client:
    def __init__(self, address: Any, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect(address)
        self._read = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def pour(self, data: bytes, most: int, pause: float = 0.0) -> int:
        """Send until the server has closed, which it must before `most` bytes; return how many were sent."""
        for sent in range(0, most, len(data)):
            try:
                self.send(data)
            except (BrokenPipeError, ConnectionResetError):
                return sent
            time.sleep(pause)
        pytest.fail("the server took it all")

    def end(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def rest(self) -> bytes:
        """All that still comes, up to the orderly end; a reset raises."""
        while data := self.socket.recv(65536):
            self._read += data
        return bytes(self._read)

    def answer(self) -> bytes:
        """One answer with a content-length."""
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, _ = self._read.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length, head
        size = len(head) + 4 + int(length[1])
        while len(self._read) < size:
            self._more()
        whole = bytes(self._read[:size])
        del self._read[:size]
        return whole

    def _more(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"the connection ended after {self._read!r}"
        self._read += data


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


def line(answer: bytes) -> bytes:
    """The body, which is one line."""
    body = answer.partition(b"\r\n\r\n")[2]
    assert b"\n" not in body
    return body


@contextlib.contextmanager
def taking(least: float, most: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert least <= took <= most, took


def introduce(client: Client, field: bytes) -> None:
    """Let the head of a request become known, so that the next one like it takes the short way."""
    for _ in range(2):
        client.send(sent("short", b"a body", field))
        client.answer()


def named(way: str, number: int) -> str:
    """A path that is as long as that of a blob."""
    return "/" + f"{way}{number}".ljust(64, "x")


def sent(name: str, body: bytes = b"a body", *fields: bytes, method: bytes = b"POST") -> bytes:
    """A request with a body, named as a blob is."""
    return post(named(name, 0), body, *fields).replace(b"POST", method, 1)
