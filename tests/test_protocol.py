"""The protocol on real sockets: bytes in, bytes out, against an application of a few lines."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self, cast

import pytest
import uvicorn

from pystor import outbox
from pystor.http import protocol, server
from pystor.http.heads import Heads, Sent
from pystor.http.messages import DIRECT, Response, text
from pystor.http.protocol import StorProtocol
from pystor.http.server import Server
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
    """Answers by path; `/fast…` at the fast door, and everything at the long one."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.events: list[str] = []
        self.targets: list[bytes] = []
        self.room = memoryview(bytearray(60_000))
        self.release = asyncio.Event()

    def answer(
        self, _method: bytes, target: bytes, _headers: list[tuple[bytes, bytes]], _client: str
    ) -> Response | None:
        self.targets.append(target)
        if target.startswith(b"/fast-error"):
            raise RuntimeError("a secret of the inside")
        return self.respond(target.decode()) if target.startswith(b"/fast") else None

    def respond(self, path: str) -> Response:
        """What both doors answer: `/fast/304`, `/slow/204`, `/fast/bytes/4096`, else the path itself.

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
        """Answer as `do_echo` does, by the short door; `/shortlate…` and `/shortlong…` late, `/shortstall…` never."""
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

    async def aclose(self) -> None:
        pass


async def reply(send: Any, response: Response) -> None:
    await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
    await send({"type": "http.response.body", "body": response.body})


class Site:
    """A server in a thread of this process, so that a test can look at its connections."""

    def __init__(self, **limits: Any) -> None:
        self.app = Application(Limits(**limits))
        config = uvicorn.Config(
            lambda: self.app,
            factory=True,
            http=StorProtocol,
            loop="uvloop",
            ws="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        self._server = Server(config, lambda: None)
        self._socket = socket.create_server(("127.0.0.1", 0))
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


@pytest.fixture(autouse=True)
def knowing_no_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_heads", Heads())


@pytest.fixture(scope="module", params=["one by one", "together"], autouse=True)
def sending(request: pytest.FixtureRequest) -> Iterator[str]:
    """How small answers are sent: each as it comes, or those of a turn of the event loop in one system call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "_LOOKS", 1 << 60 if request.param == "one by one" else 0)
        yield request.param


@pytest.fixture(scope="module")
def site(sending: str) -> Iterator[Site]:  # noqa: ARG001  before the server starts
    """A server with limits that are never met."""
    with Site() as running:
        yield running


@pytest.fixture(scope="module")
def brisk(sending: str) -> Iterator[Site]:  # noqa: ARG001  before the server starts
    """A server with little patience."""
    with Site(
        header_timeout=0.4, keep_alive_timeout=1.2, max_header_bytes=4096, drain_bytes=4 * MIB, drain_timeout=0.6
    ) as running:
        yield running


@contextlib.contextmanager
def taking(least: float, most: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert least <= took <= most, took


# The fast door and the long one


def without_date(answer: bytes) -> bytes:
    return re.sub(rb"date: [^\r]+\r\n", b"date: \r\n", answer)


@pytest.mark.parametrize("kind", ["plain", "404", "204", "304", "bytes/4096", "bytes/100000", "close", "unsized"])
@pytest.mark.parametrize(
    ("method", "version", "fields"),
    [
        (b"GET", b"1.1", b""),
        (b"HEAD", b"1.1", b""),
        (b"GET", b"1.1", b"connection: close\r\n"),
        (b"GET", b"1.1", b"Connection: keep-alive\r\n"),
        (b"GET", b"1.1", b"connection: TE, Close\r\n"),
        (b"GET", b"1.0", b""),
        (b"GET", b"1.0", b"connection: keep-alive\r\n"),
        (b"HEAD", b"1.0", b""),
    ],
)
def test_both_doors_answer_alike_byte_for_byte(
    site: Site, kind: str, method: bytes, version: bytes, fields: bytes
) -> None:
    rest = kind.encode() + b" HTTP/" + version + b"\r\n" + fields + b"\r\n"
    fast = without_date(site.ask(method + b" /fast/" + rest, end=True))
    slow = without_date(site.ask(method + b" /long/" + rest, end=True))
    assert fast.count(b"date: \r\n") == 1
    # A client that has ended its half learns from the long way that the connection ends; the fast one does not look.
    assert fast.replace(b"connection: close\r\n", b"") == slow.replace(b"connection: close\r\n", b"").replace(
        b"/long/", b"/fast/"
    )
    if fields.lower().endswith(b"close\r\n") or version == b"1.0" or kind == "close":
        assert b"connection: close\r\n" in fast


@pytest.mark.parametrize("door", ["fast", "long"])
def test_a_connection_serves_until_it_is_asked_to_close(site: Site, door: str) -> None:
    with site.connect() as client:
        for number in range(3):
            client.send(get(f"/{door}/{number}"))
            assert line(client.answer()) == f"/{door}/{number}".encode()
        client.send(get(f"/{door}/last", b"connection: close") + get(f"/{door}/never"))
        assert line(client.rest()) == f"/{door}/last".encode()


@pytest.mark.parametrize("door", ["fast", "long", "late"])
@pytest.mark.parametrize("last", [b"1.1\r\nconnection: close", b"1.0\r\nconnection: keep-alive"])
@pytest.mark.parametrize("more", [b"garbage\r\n\r\n", post("/x", b"x", length=1 << 63), b"GET /x HTT"])
def test_what_follows_the_last_request_is_ignored_whatever_it_is(
    site: Site, door: str, last: bytes, more: bytes
) -> None:
    request = b"GET /" + door.encode() + b"/x HTTP/" + last + b"\r\n\r\n"
    assert line(site.ask(request + more)) == f"/{door}/x".encode()


def test_what_follows_the_last_request_is_not_even_read_while_that_is_answered(site: Site) -> None:
    with site.connect() as client:
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.send(b"GET /watch HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" + post("/x", bytes(64 * MIB)))


def test_only_a_plain_get_or_head_is_offered_to_the_fast_door(site: Site) -> None:
    site.app.targets.clear()
    for request in (
        get("/fast/a", method=b"DELETE"),
        post("/fast/b", b"body"),
        get("/fast/c", b"content-length: 1") + b"x",
        get("/fast/d", b"transfer-encoding: chunked") + b"0\r\n\r\n",
        get("/fast/e", b"expect: 100-continue"),
    ):
        assert status(site.ask(request, end=True)) == 200
    assert site.app.targets == []
    assert status(site.ask(get("/fast/f?q#x"), end=True)) == 200
    assert site.app.targets == [b"/fast/f?q#x"]


def test_an_error_at_the_fast_door_is_the_long_doors_affair(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    answer = site.ask(get("/fast-error/x"), end=True)
    assert status(answer) == 200
    assert line(answer) == b"/fast/x"
    assert "The fast path failed" in caplog.text


def test_an_answer_that_cannot_be_sent_at_once_is_an_error(site: Site) -> None:
    answer = site.ask(get("/fast/stream"))
    assert (status(answer), line(answer)) == (500, b"Internal Server Error")


def test_an_error_at_the_long_door_is_one_line_that_tells_nothing_of_the_inside(site: Site) -> None:
    answer = site.ask(get("/error"), end=True)
    assert (status(answer), line(answer)) == (500, b"Internal Server Error")


def test_an_error_in_the_middle_of_an_answer_cuts_it(site: Site) -> None:
    answer = site.ask(get("/error/midway"))
    assert answer.endswith(b"content-length: 9\r\n\r\nbegun")


def test_pipelined_requests_are_answered_in_order_whichever_door_they_take(site: Site) -> None:
    paths = ["/fast/1", "/late/2", "/fast/3", "/fast/4", "/long/5", "/late/6", "/fast/7"]
    with site.connect() as client:
        client.send(b"".join(map(get, paths)))
        assert [line(client.answer()).decode() for _ in paths] == paths


def test_pipelined_uploads_and_downloads_keep_their_order(site: Site) -> None:
    bodies = [b"x" * size for size in (10, 100_000, 0, 300_000)]
    with site.connect() as client:
        threading.Thread(
            target=client.send, args=(b"".join(post("/echo", body) + get("/fast/x") for body in bodies),)
        ).start()
        for body in bodies:
            assert line(client.answer()).decode() == hashlib.sha256(body).hexdigest()
            assert line(client.answer()) == b"/fast/x"


@contextlib.contextmanager
def at_once(site: Site) -> Iterator[None]:
    """What is sent meanwhile comes to the server in one turn of its event loop."""
    with site.connect() as client:
        client.send(get("/fast/1"))
        client.answer()
        connection = site.connection_of(client)
        assert connection is not None
        go_on = threading.Event()
        connection.loop.call_soon_threadsafe(go_on.wait, 10)
        try:
            yield
        finally:
            go_on.set()


def test_answers_that_are_made_in_one_turn_leave_in_one_call_if_that_is_how_they_are_sent(
    site: Site, sending: str
) -> None:
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(site.connect()) for _ in range(20)]
            turn = site.outbox.turn
            with at_once(site):
                for number, client in enumerate(clients):
                    client.send(get(named("fast", number)))
            for number, client in enumerate(clients):
                assert line(client.answer()).decode() == named("fast", number)
            # That of the one who stopped the server, those before it had stopped, and all others.
            assert site.outbox.turn - turn <= (3 if sending == "together" else 1)
            assert sending != "together" or site.outbox.turn > turn


def test_an_answer_that_is_not_sent_yet_goes_to_nobody_else_when_its_client_is_gone(site: Site) -> None:
    for _ in range(5):
        with contextlib.ExitStack() as stack:
            leaving = [site.connect() for _ in range(10)]
            staying = [stack.enter_context(site.connect()) for _ in range(10)]
            for client in leaving + staying:
                client.send(get("/fast/begin"))
                client.answer()
            with at_once(site):
                for number, (gone, client) in enumerate(zip(leaving, staying, strict=True)):
                    gone.send(get("/fast/gone") + get("/fast/gone", b"connection: close"))
                    gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    gone.socket.close()
                    client.send(get(named("fast", number)))
                new = [stack.enter_context(site.connect()) for _ in range(10)]
                for number, client in enumerate(new):
                    client.send(get(named("new", number)))
            for number, client in enumerate(staying):
                assert line(client.answer()).decode() == named("fast", number)
            for number, client in enumerate(new):
                assert line(client.answer()).decode() == named("new", number)


def test_answers_are_whole_and_in_order_wherever_the_socket_is_full() -> None:
    with Site() as narrow:
        narrow.narrow(4096)
        for count in range(1, 80):
            paths = [f"/fast/{number}".ljust(2000, "x") for number in range(count)]
            with narrow.connect(receive_buffer=4096) as client:
                client.send(b"".join([get(path) for path in paths[:-1]] + [get(paths[-1], b"connection: close")]))
                time.sleep(0.01)  # nobody reads for a while
                assert re.findall(rb"/fast/\d+x+", client.rest()) == [path.encode() for path in paths]


def named(door: str, number: int) -> str:
    """A path that is as long as that of a blob."""
    return "/" + f"{door}{number}".ljust(64, "x")


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("fields", [(), (b"accept: */*", b"connection: keep-alive"), (b"x: " + b"y" * 2000,)])
def test_requests_with_the_fields_of_earlier_ones_are_answered_each_for_itself(
    site: Site, method: bytes, fields: tuple[bytes, ...]
) -> None:
    site.app.targets.clear()
    with site.connect() as client:
        for number in range(5):
            path = named("fast", number)
            client.send(get(path, *fields, method=method))
            if method == b"GET":
                assert line(client.answer()).decode() == path
            time.sleep(0.02)  # each comes by itself
        client.send(get(named("fast", 5), b"connection: close"))
        heads = client.rest().split(b"\r\n\r\n")
        assert heads[-1].decode() == named("fast", 5)
        assert len(heads) == (2 if method == b"GET" else 7)
    assert site.app.targets == [named("fast", number).encode() for number in range(6)]


def test_a_remembered_head_that_the_fast_door_declines_goes_the_long_way_once(site: Site) -> None:
    with site.connect() as client:
        client.send(get(named("fast", 0)))
        client.answer()
        site.app.targets.clear()
        site.app.events.clear()
        for number in range(3):
            client.send(get(named("long", number)))
            assert line(client.answer()).decode() == named("long", number)
            client.send(get(named("fast", number)))
            assert line(client.answer()).decode() == named("fast", number)
    assert site.app.targets == [named(door, n).encode() for n in range(3) for door in ("long", "fast")]
    assert site.app.events == [named("long", number)[1:] for number in range(3)]


def test_a_remembered_head_waits_for_the_answer_before_it(site: Site) -> None:
    with site.connect() as client:
        client.send(get(named("fast", 0)))
        client.answer()
        client.send(get("/late/1"))
        time.sleep(0.1)
        client.send(get(named("fast", 2)))
        assert [line(client.answer()).decode() for _ in range(2)] == ["/late/1", named("fast", 2)]


@pytest.mark.parametrize(
    "odd",
    [
        b" HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n",
        b" HTTP/1.0\r\nhost: test\r\n\r\n",
        b" HTTP/1.0\r\nhost: test\r\nconnection: keep-alive\r\n\r\n",
    ],
)
def test_a_head_that_ends_the_connection_does_so_each_time(site: Site, odd: bytes) -> None:
    for number in range(3):
        answer = site.ask(b"GET " + named("fast", number).encode() + odd)
        assert line(answer).decode() == named("fast", number)


def test_a_remembered_head_has_no_body(site: Site) -> None:
    fields = (b"x-same: 1",)
    body = b"a body"
    with site.connect() as client:
        for number in range(3):
            client.send(get(named("fast", number), *fields) + post("/echo", body, *fields))
            assert line(client.answer()).decode() == named("fast", number)
            assert line(client.answer()).decode() == hashlib.sha256(body).hexdigest()
            client.send(get(named("fast", number), b"content-length: 6", *fields) + body)
            assert line(client.answer()).decode() == named("fast", number)


@pytest.mark.parametrize(
    "path", ["/" + "fast".ljust(63, "x") + "%", "/" + "fast".ljust(63, "x") + "?", "/fast" + "x" * 61]
)
def test_what_is_not_named_as_a_blob_is_left_to_the_parser(site: Site, path: str) -> None:
    with site.connect() as client:
        for request in (get(named("fast", 0)), get(named("fast", 0)), get(path), get(path)):
            client.send(request)
            assert status(client.answer()) == 200
        client.send(b"GET /" + b"x" * 30 + b" " + b"x" * 33 + get("")[len(b"GET ") :])
        assert status(client.rest()) == 400


# What comes in one piece


def sent(name: str, body: bytes = b"a body", *fields: bytes, method: bytes = b"POST") -> bytes:
    """A request with a body, named as a blob is."""
    return post(named(name, 0), body, *fields).replace(b"POST", method, 1)


def introduce(client: Client, field: bytes) -> None:
    """Let the head of a request become known, so that the next one like it takes the short door."""
    for _ in range(2):
        client.send(sent("short", b"a body", field))
        client.answer()


def occupy(site: Site, client: Client, name: str) -> None:
    """Have something that takes long asked for at the short door."""
    introduce(client, b"x-known: busy")
    site.app.events.clear()
    client.send(sent(name, b"a body", b"x-known: busy"))
    eventually(lambda: "short" in site.app.events)


def echoed(body: bytes = b"a body") -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


@pytest.mark.parametrize("method", [b"POST", b"PUT"])
@pytest.mark.parametrize("size", [0, 1, 7000])
def test_a_body_that_comes_with_a_known_head_takes_the_short_door(site: Site, method: bytes, size: int) -> None:
    fields = (b"x-known: %b %d" % (method, size),)
    with site.connect() as client:
        for number in range(3):
            site.app.events.clear()
            body = os.urandom(size)
            client.send(sent("short", body, *fields, method=method))
            answer = client.answer()
            assert line(answer) == echoed(body)
            assert (b"x-method: " + method in answer) is (number > 0)
            assert site.app.events == (["short", "told"] if number else [named("short", 0)[1:]])
        client.send(sent("short", b"x" * size, b"connection: close", *fields, method=method))
        assert line(client.rest()) == echoed(b"x" * size)


@pytest.mark.parametrize(
    "field",
    [b"expect: 100-continue", b"connection: close", b"x: " + b"y" * 2000],
    ids=["asks before it sends", "closes", "is long"],
)
def test_what_says_something_of_the_connection_takes_the_long_door_each_time(site: Site, field: bytes) -> None:
    for _ in range(3):
        site.app.events.clear()
        answer = site.ask(sent("short", b"a body", field), end=True)
        assert answer.endswith(echoed())
        assert site.app.events == [named("short", 0)[1:]]


def test_an_offer_to_upgrade_is_ignored_at_the_short_door_too(site: Site) -> None:
    with site.connect() as client:
        for _ in range(3):
            client.send(sent("short", b"a body", b"upgrade: h2c\r\nconnection: upgrade"))
            assert line(client.answer()) == echoed()


def test_what_does_not_come_in_one_piece_alone_is_left_to_the_parser(site: Site) -> None:
    request = sent("short", b"a body", b"x-known: parts")
    with site.connect() as client:
        for _ in range(2):
            client.send(request)
            client.answer()
        for parts in ((request[:20], request[20:]), (request[:-1], request[-1:]), (request[:-6], request[-6:])):
            site.app.events.clear()
            client.send(parts[0])
            time.sleep(0.05)
            client.send(parts[1])
            assert line(client.answer()) == echoed()
            assert site.app.events == [named("short", 0)[1:]]
        site.app.events.clear()
        client.send(request + get("/fast/x") + request)
        assert [line(client.answer()) for _ in range(3)] == [echoed(), b"/fast/x", echoed()]
        assert "short" not in site.app.events


def test_a_head_is_not_taken_for_that_of_another_request_to_the_same_name(site: Site) -> None:
    mine, others = sent("short", b"a body", b"x-known: mine"), sent("short", b"a body", b"x-known: others")
    with site.connect() as client:
        client.send(mine + others)
        for _ in range(2):
            client.answer()
        answers = []
        for request in (mine, others, mine, others):
            client.send(request)
            answers.append(client.answer())
    assert b"\r\nx-known: mine\r\n" in answers[2]
    assert b"\r\nx-known: others\r\n" in answers[3]


def test_a_head_is_not_taken_for_that_of_an_earlier_request_that_came_in_pieces(site: Site) -> None:
    request = sent("short", b"a body", b"x-known: pieces")
    asking = sent("short", b"a body", b"expect: 100-continue")
    with site.connect() as client:
        client.send(request[:-10])
        time.sleep(0.05)
        client.send(request[-10:])
        client.answer()
        site.app.events.clear()
        for _ in range(3):
            client.send(asking)
            time.sleep(0.1)
        client.end()
        assert client.rest().endswith(echoed())
    assert "short" not in site.app.events


def test_the_head_of_a_body_in_chunks_is_not_taken_for_one_without_a_body_though_it_comes_alone(site: Site) -> None:
    request = chunked(named("short", 0), b"6\r\na body\r\n0\r\n\r\n")
    head = request[: request.index(b"\r\n\r\n") + 4]
    with site.connect() as client:
        for _ in range(3):
            client.send(head)
            time.sleep(0.05)
            client.send(request[len(head) :])
            assert line(client.answer()) == echoed()


def test_the_head_after_a_first_request_by_the_short_door_has_its_time_from_its_first_byte() -> None:
    with Site(header_timeout=0.3, keep_alive_timeout=30.0) as quick:
        assert status(quick.ask(sent("short", b"a body"), end=True)) == 200
        with quick.connect() as client:
            client.send(sent("short", b"a body"))
            client.answer()
            time.sleep(0.5)
            client.send(b"GET /")
            with taking(0.2, 3.0):
                assert status(client.rest()) == 408


@pytest.mark.parametrize("name", [named("shor%", 0), named("short", 0)[:-1], "/" + "a/" * 32, named("short", 0) + "x"])
def test_a_body_that_is_not_sent_to_the_name_of_a_blob_is_left_to_the_parser(site: Site, name: str) -> None:
    fields = (b"x-known: name",)
    with site.connect() as client:
        for _ in range(2):
            client.send(sent("short", b"a body", *fields))
            client.answer()
        for _ in range(2):
            site.app.events.clear()
            client.send(post(name, b"a body", *fields))
            assert status(client.answer()) == 200
            assert "short" not in site.app.events


def test_what_comes_while_the_short_door_is_busy_waits_and_is_answered_in_its_turn(site: Site) -> None:
    with site.connect() as client:
        occupy(site, client, "shortlate")
        connection = site.connection_of(client)
        assert connection is not None
        client.send(get("/fast/1") + post("/echo", b"x"))
        eventually(lambda: bool(connection._unparsed))
        client.send(get("/fast/2"))
        time.sleep(0.1)
        assert site.app.events == ["short"]
        answers = [line(client.answer()) for _ in range(4)]
        assert answers == [echoed(), b"/fast/1", echoed(b"x"), b"/fast/2"]
        client.send(get("/fast/3"))
        assert line(client.answer()) == b"/fast/3"


def test_no_more_is_read_while_the_short_door_is_busy_than_one_read_brings(site: Site) -> None:
    with site.connect() as client:
        occupy(site, client, "shortstall")
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.pour(b"x" * MIB, 200 * MIB)


def test_who_has_ended_his_half_is_answered_by_the_short_door_and_that_is_all(site: Site) -> None:
    with site.connect() as client:
        introduce(client, b"x-known: half")
        client.send(sent("shortlate", b"a body", b"x-known: half"))
        client.end()
        answer = client.rest()
        assert line(answer) == echoed()
        assert b"\r\nconnection: close\r\n" in answer


def test_a_client_that_goes_while_the_short_door_is_busy_harms_nobody(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("short", "short", "shortlate"):
        site.app.events.clear()
        with site.connect() as client:
            client.send(sent(name, b"a body", b"x-known: gone"))
            if name == "short":
                client.answer()
            eventually(lambda: bool(site.app.events))
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    eventually(lambda: site.app.events == ["short", "told"])
    assert line(site.ask(get("/fast/x", b"connection: close"))) == b"/fast/x"
    assert not caplog.records


def test_an_error_at_the_short_door_is_one_line_that_tells_nothing_of_the_inside(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.connect() as client:
        introduce(client, b"x-known: error")
        client.send(sent("shorterror", b"a body", b"x-known: error"))
        answer = client.rest()
    assert (status(answer), line(answer)) == (500, b"Internal Server Error")
    assert "a secret of the inside" in caplog.text


def test_an_upload_by_the_short_door_has_as_long_as_it_takes_and_then_the_connection_as_long_as_any(
    brisk: Site,
) -> None:
    assert status(brisk.ask(sent("short", b"a body", b"x-known: time"), end=True)) == 200
    with brisk.connect() as client:
        for _ in range(2):
            client.send(sent("shortlong", b"a body", b"x-known: time"))
            assert line(client.answer()) == echoed()
        with taking(0.3, 3.0):
            assert client.rest() == b""


def test_headers_that_take_too_long_after_a_remembered_head_are_answered_408(brisk: Site) -> None:
    with brisk.connect() as client:
        for number in range(3):
            client.send(get(named("fast", number)))
            client.answer()
        client.send(get(named("fast", 3))[:-2])
        with taking(0.3, 3.0):
            assert status(client.rest()) == 408


def test_answers_from_memory_that_is_used_again_reach_a_reader_who_is_slow_as_they_were(site: Site) -> None:
    with site.connect(receive_buffer=4096) as client:
        for number in range(200):
            client.send(get(f"/fast/room/{number}"))
        time.sleep(0.5)
        for number in range(200):
            assert client.answer().endswith(b"\r\n\r\n" + bytes([number]) * 60_000)


def test_a_malformed_request_is_refused_after_the_answers_before_it(site: Site) -> None:
    answers = site.ask(get("/late/1") + get("/fast/2") + b"garbage\r\n\r\n")
    assert [int(found) for found in re.findall(rb"HTTP/1.1 (\d+)", answers)] == [200, 200, 400]


def test_pipelined_answers_that_nobody_reads_do_not_grow(site: Site) -> None:
    request = get("/fast/bytes/60000")
    with site.connect(receive_buffer=4096) as client:
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.send(request * 200_000)
        connection = site.connection_of(client)
        assert connection is not None
        assert connection.transport.get_write_buffer_size() < MIB
        assert len(connection.pipeline) < 200
        assert len(connection._unparsed) <= 300_000


def test_pipelined_requests_behind_a_slow_one_wait_outside(site: Site) -> None:
    with site.connect() as client:
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.send(get("/watch") + get("/long/x") * 1_000_000)
        connection = site.connection_of(client)
        assert connection is not None
        assert len(connection.pipeline) < 300
        assert len(connection._unparsed) <= 300_000


# Limits


def slowly(client: Client, data: bytes, pause: float = 0.05) -> None:
    """Send byte by byte until the server has enough of it."""
    with contextlib.suppress(OSError):
        for index in range(len(data)):
            client.send(data[index : index + 1])
            time.sleep(pause)


def test_headers_that_take_too_long_are_answered_408(brisk: Site) -> None:
    with brisk.connect() as client, taking(0.3, 5.0):
        client.send(b"GET /fast/x HTTP/1.1\r\nhost:")
        answer = client.rest()
    assert status(answer) == 408
    assert line(answer) == b"The request's headers took longer than 0.4 seconds"


def test_a_byte_now_and_then_does_not_buy_time(brisk: Site) -> None:
    with brisk.connect() as client, taking(0.3, 5.0):
        threading.Thread(target=slowly, args=(client, get("/fast/x", b"a: b")), daemon=True).start()
        assert status(client.rest()) == 408


def test_the_second_request_has_its_time_from_its_first_byte(brisk: Site) -> None:
    with brisk.connect() as client:
        client.send(get("/fast/x"))
        client.answer()
        time.sleep(0.5)
        client.send(b"GET /fast")
        with taking(0.3, 5.0):
            assert status(client.rest()) == 408


def test_a_silent_connection_is_told_408_and_closed(brisk: Site) -> None:
    with brisk.connect() as client, taking(0.3, 5.0):
        assert status(client.rest()) == 408


@pytest.mark.parametrize("door", ["fast", "long"])
def test_an_idle_connection_is_closed_without_a_word(brisk: Site, door: str) -> None:
    with brisk.connect() as client:
        client.send(get(f"/{door}/x"))
        client.answer()
        with taking(0.6, 5.0):
            assert client.rest() == b""


def test_use_keeps_a_connection_alive(brisk: Site) -> None:
    with brisk.connect() as client:
        for _ in range(4):
            client.send(get("/fast/x"))
            client.answer()
            time.sleep(0.4)


def test_no_limit_cuts_an_answer_that_takes_long(brisk: Site) -> None:
    with brisk.connect() as client, taking(0.8, 8.0):
        client.send(get("/late/1") + get("/late/2") + get("/late/3"))
        for _ in range(3):
            assert status(client.answer()) == 200


TOO_LARGE = {
    "one field": get("/fast/x", b"a: " + b"x" * 5000),
    "many fields": get("/fast/x", *[b"a: b"] * 1000),
    "no end in sight": get("/fast/x", b"a: " + b"x" * 500_000),
    "the path": get("/fast/" + "x" * 70_000),
    "trailers": chunked("/echo", b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 4000, b"\r\n"),
    "one trailer": chunked("/echo", b"1\r\nx\r\n0\r\na: ", b"x" * 10_000, b"\r\n\r\n"),
    "a chunk extension": chunked("/echo", b"1;a=", b"x" * 20_000, b"\r\nx\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("part", TOO_LARGE)
def test_what_is_too_large_is_refused_with_431(brisk: Site, part: str) -> None:
    answer = brisk.ask(TOO_LARGE[part])
    assert status(answer) == 431
    assert line(answer) == b"The request line and headers are larger than 4096 bytes"


def test_headers_are_measured_however_they_arrive(brisk: Site) -> None:
    for size, expected in ((4000, 200), (4200, 431)):
        request = get("/fast/x", b"a: " + b"x" * (size - 40))
        with brisk.connect() as client:
            for start in range(0, len(request), 1000):
                client.send(request[start : start + 1000])
                time.sleep(0.01)
            assert status(client.answer()) == expected


def test_many_small_chunks_are_no_headers(brisk: Site) -> None:
    answer = brisk.ask(chunked("/echo", b"1\r\nx\r\n" * 20_000, b"0\r\n\r\n"), end=True)
    assert line(answer).decode() == hashlib.sha256(b"x" * 20_000).hexdigest()


def test_trailers_are_no_headers(site: Site) -> None:
    answer = site.ask(chunked("/echo", b"1\r\nx\r\n0\r\nx-trailer: a\r\n\r\n"), end=True)
    assert status(answer) == 200
    assert b"x-trailer" not in answer


def test_a_head_that_began_behind_a_slow_request_has_its_time_from_that_ones_end(brisk: Site) -> None:
    with brisk.connect() as client:
        client.send(get("/late/x") + b"GET /fast")
        assert line(client.answer()) == b"/late/x"
        with taking(0.3, 5.0):
            assert status(client.rest()) == 408


# Early answers


def test_a_client_that_is_still_sending_gets_the_early_answer_and_goes_on_with_its_connection(site: Site) -> None:
    with site.connect() as client:
        client.send(post("/early", b"", length=50 * MIB))
        time.sleep(0.1)
        for _ in range(50):
            client.send(bytes(MIB))
        assert line(client.answer()) == b"early"
        client.send(get("/fast/next"))
        assert line(client.answer()) == b"/fast/next"


def test_a_client_that_closes_gets_the_early_answer_too(site: Site) -> None:
    with site.connect() as client:
        client.send(post("/early", b"", b"connection: close", length=50 * MIB))
        time.sleep(0.1)
        for _ in range(50):
            client.send(bytes(MIB))
        assert line(client.rest()) == b"early"


def test_a_refused_client_that_is_still_sending_gets_the_answer(site: Site) -> None:
    with site.connect() as client:
        client.send(get("/fast/x", b"a: " + b"x" * (20 * MIB)))
        assert status(client.rest()) == 431


@pytest.mark.parametrize("fields", [(), (b"connection: close",)])
def test_no_more_than_drain_bytes_is_dropped(brisk: Site, fields: tuple[bytes, ...]) -> None:
    with brisk.connect() as client:
        client.send(post("/early", b"", *fields, length=100 * MIB))
        sent = client.pour(bytes(65536), 100 * MIB)
    assert sent < 30 * MIB  # what both kernels hold is on top of it


@pytest.mark.parametrize("fields", [(), (b"connection: close",)])
def test_dropping_ends_after_drain_timeout(brisk: Site, fields: tuple[bytes, ...]) -> None:
    with brisk.connect() as client:
        client.send(post("/early", b"x", *fields, length=10 * MIB))
        with taking(0.3, 5.0):
            assert line(client.answer()) == b"early"
            client.pour(b"x", 10 * MIB, pause=0.05)


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(site: Site) -> None:
    with site.connect() as client:
        client.send(post("/echo", b"", b"expect: 100-continue", length=3))
        assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        assert line(client.answer()).decode() == hashlib.sha256(b"abc").hexdigest()


def test_a_client_that_asks_and_is_refused_need_not_send_so_the_connection_ends(site: Site) -> None:
    with site.connect() as client:
        client.send(post("/early", b"", b"expect: 100-continue", length=3))
        answer = client.rest()
    assert status(answer) == 401
    assert b"connection: close\r\n" in answer


# Ends


def test_a_body_that_ends_early_is_told_so_and_the_application_sees_a_disconnect(site: Site) -> None:
    for request in (
        post("/echo", b"some", length=100),
        post("/echo", b"", length=100),
        chunked("/echo", b"4\r\nsome\r\n"),
        chunked("/echo", b"100\r\nsome"),
    ):
        site.app.events.clear()
        answer = site.ask(request, end=True)
        assert (status(answer), line(answer)) == (400, INCOMPLETE)
        eventually(lambda: site.app.events == ["echo", "disconnect"])


def test_a_queued_body_that_ends_early_is_told_so_in_its_turn(site: Site) -> None:
    site.app.events.clear()
    answers = site.ask(get("/late/1") + post("/echo", b"some", length=100), end=True)
    assert [int(found) for found in re.findall(rb"HTTP/1.1 (\d+)", answers)] == [200, 400]
    assert answers.endswith(INCOMPLETE)


def test_what_goes_wrong_behind_a_slow_request_is_refused_in_its_turn(site: Site) -> None:
    for request, end in ((chunked("/echo", b"no number\r\n"), False), (b"GET /fast/x HTTP/1.1\r\nhost:", True)):
        answers = site.ask(get("/late/1") + request, end=end)
        assert [int(found) for found in re.findall(rb"HTTP/1.1 (\d+)", answers)] == [200, 400]


def test_a_body_that_ends_early_after_its_answer_only_ends(site: Site) -> None:
    with site.connect() as client:
        client.send(post("/early", b"", length=100))
        assert line(client.answer()) == b"early"
        client.end()
        assert client.rest() == b""


def test_a_chunked_body_that_goes_wrong_is_refused_and_the_application_sees_a_disconnect(site: Site) -> None:
    site.app.events.clear()
    answer = site.ask(chunked("/echo", b"4\r\nsome\r\n", b"no number\r\n"))
    assert status(answer) == 400
    eventually(lambda: site.app.events == ["echo", "disconnect"])


@pytest.mark.parametrize("path", ["/fast/x", "/long/x", "/late/x"])
def test_a_client_that_has_ended_its_half_gets_its_whole_answer(site: Site, path: str) -> None:
    assert line(site.ask(get(path), end=True)) == path.encode()


def test_a_client_that_has_ended_its_half_gets_all_its_answers(site: Site) -> None:
    answers = site.ask(get("/late/1") + get("/fast/2") + get("/late/3"), end=True)
    assert answers.count(b"HTTP/1.1 200 OK") == 3


def test_a_large_answer_reaches_a_client_that_has_ended_its_half(site: Site) -> None:
    with site.connect() as client:
        client.send(get("/stream"))
        client.end()
        assert len(client.answer()) > 64 * MIB


def test_headers_that_end_early_are_refused(site: Site) -> None:
    answer = site.ask(b"GET /fast/x HTTP/1.1\r\nhost: te", end=True)
    assert (status(answer), line(answer)) == (400, b"The request ended before its headers did")


def test_a_client_that_goes_away_is_noticed(site: Site) -> None:
    site.app.events.clear()
    for request in (post("/watch", b"x", length=10), get("/watch") + get("/long/x")):
        with site.connect() as client:
            client.send(request)
            eventually(lambda: "watch" in site.app.events)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if request.startswith(b"POST"):
            eventually(lambda: "disconnect" in site.app.events)
        site.app.events.clear()


def test_an_application_that_fails_for_a_client_that_is_gone_harms_nobody(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.app.events.clear()
    with site.connect() as client:
        client.send(post("/error/later", b"x", length=10))
        eventually(lambda: "begun" in site.app.events)
    eventually(lambda: caplog.text.count("RuntimeError: a secret") == 1)
    time.sleep(0.05)
    assert "asyncio" not in {record.name for record in caplog.records}


# Flow


def test_an_application_that_does_not_read_holds_the_client_up(site: Site) -> None:
    with site.connect() as client:
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.send(post("/stall", bytes(64 * MIB)))
        connection = site.connection_of(client)
        assert connection is not None
        assert len(connection.cycle.body) < MIB


def test_a_client_that_does_not_read_holds_the_application_up(site: Site) -> None:
    with site.connect(receive_buffer=4096) as client:
        client.send(get("/stream"))
        time.sleep(0.3)
        connection = site.connection_of(client)
        assert connection is not None
        assert connection.flow.write_paused
        assert connection.transport.get_write_buffer_size() < 3 * MIB


def test_a_reader_may_take_its_time_after_the_end_but_has_to_read(brisk: Site) -> None:
    request = get("/long/bytes/20000000", b"connection: close")
    with brisk.connect(receive_buffer=65536) as reader, brisk.connect(receive_buffer=4096) as sleeper:
        reader.send(request)
        sleeper.send(request)
        time.sleep(0.3)
        read = len(reader.socket.recv(65536))
        time.sleep(0.6)
        while data := reader.socket.recv(65536):
            read += len(data)
        assert read > 20_000_000
        eventually(lambda: brisk.connection_of(sleeper) is None)
        assert len(sleeper.rest()) < 20_000_000


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 3_000_000])
def test_a_body_arrives_as_it_was_sent(site: Site, size: int) -> None:
    body = hashlib.shake_128(b"body").digest(size)
    parts = [body[start : start + 1000] for start in range(0, size, 1000)]
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    for request in (post("/echo", body), chunked("/echo", pieces, b"0\r\n\r\n")):
        with site.connect() as client:
            threading.Thread(target=client.send, args=(request,)).start()
            assert line(client.answer()).decode() == hashlib.sha256(body).hexdigest()


# Clients that misbehave

MALFORMED: dict[str, bytes] = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": get("/long/x", method=b"STORE"),
    "two lengths": get("/long/x", b"content-length: 1", b"content-length: 2", method=b"POST") + b"x",
    "one length twice": get("/long/x", b"content-length: 1", b"content-length: 1", method=b"POST") + b"x",
    "a list of lengths": get("/long/x", b"content-length: 1, 1", method=b"POST") + b"x",
    "length and chunks": post("/long/x", b"x", b"transfer-encoding: chunked"),
    "chunks and length": get("/x", b"transfer-encoding: chunked", b"content-length: 1", method=b"POST") + b"x",
    "length 2^63": post("/long/x", b"x", length=1 << 63),
    "length 2^64": post("/long/x", b"x", length=1 << 64),
    "length of 70 digits": get("/x", b"content-length: " + b"0" * 69 + b"1", method=b"POST") + b"x",
    "a negative length": post("/long/x", b"x", length=-1),
    "a length with a sign": get("/x", b"content-length: +1", method=b"POST") + b"x",
    "a hexadecimal length": get("/x", b"content-length: 0x1", method=b"POST") + b"x",
    "no length": get("/x", b"content-length:", method=b"POST") + b"x",
    "another encoding": get("/x", b"transfer-encoding: gzip", method=b"POST") + b"x",
    "raw bytes in the path": b"GET /\xff\xfe" + HOST + b"\r\n",
    "a zero in the path": b"GET /a\0b" + HOST + b"\r\n",
    "a line end in the path": b"GET /a\rb" + HOST + b"\r\n",
    "no target": b"GET HTTP/1.1\r\n\r\n",
    "a zero in a field": get("/x", b"a: \0"),
    "a lonely line end in a field": get("/x", b"a: b\rc: d"),
    "a space before the colon": get("/x", b"a : b"),
    "a folded field": get("/x", b"a: b\r\n c"),
    "a negative chunk": chunked("/x", b"-1\r\n"),
    "a huge chunk": chunked("/x", b"1" + b"0" * 16 + b"\r\n"),
}


@pytest.mark.parametrize("request_", MALFORMED)
def test_malformed_requests_are_refused_in_one_line(site: Site, request_: str) -> None:
    answer = site.ask(MALFORMED[request_])
    assert 400 <= status(answer) < 500
    assert b"connection: close\r\n" in answer
    assert line(answer)


UNUSUAL: dict[str, tuple[bytes, bytes]] = {
    "a zero, encoded": (get("/long/%00%0a"), b"/long/\\x00\\n"),
    "bad percent-encodings": (get("/long/%zz%e9%"), "/long/%zz\N{REPLACEMENT CHARACTER}%".encode()),
    "dots": (get("/long/%2e%2e%2f"), b"/long/../"),
    "a query": (get("/long/x?a=/b"), b"/long/x"),
    "a fragment": (get("/long/x#a?b"), b"/long/x"),
    "an absolute target": (get("http://host:1/long/x?a"), b"/long/x"),
    "an absolute target without a path": (get("http://host?a=/b"), b"/"),
    "an asterisk": (get("*", method=b"OPTIONS"), b"*"),
    "CONNECT": (get("host:443", method=b"CONNECT"), b"/"),
    "a space after the length": (get("/long/x", b"content-length: 1 ", method=b"POST") + b"x", b"/long/x"),
    "empty lines first": (b"\r\n\r\n" + get("/long/x"), b"/long/x"),
    "a hundred headers": (get("/long/x", *[b"a: b"] * 100), b"/long/x"),
    "chunk extensions": (chunked("/long/x", b"1;a=b\r\nx\r\n0;c\r\n\r\n"), b"/long/x"),
}


@pytest.mark.parametrize("request_", UNUSUAL)
def test_unusual_requests_reach_the_application(site: Site, request_: str) -> None:
    request, body = UNUSUAL[request_]
    answer = site.ask(request, end=True)
    assert (status(answer), line(answer)) == (200, body)


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_an_offer_to_upgrade_is_ignored_and_nothing_is_lost(site: Site, protocol: bytes) -> None:
    upgrade = (b"connection: upgrade", b"upgrade: " + protocol)
    body = b"x" * 100_000
    with site.connect() as client:
        client.send(get("/fast/1", *upgrade) + post("/echo", body, *upgrade) + get("/fast/3", *upgrade))
        assert line(client.answer()) == b"/fast/1"
        assert line(client.answer()).decode() == hashlib.sha256(body).hexdigest()
        assert line(client.answer()) == b"/fast/3"


def test_others_are_served_while_two_hundred_clients_stall(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(200):
            client = stack.enter_context(site.connect())
            client.send((get("/stream"), b"GET /fast", post("/echo", b"x", length=9))[number % 3])
        assert status(site.ask(get("/fast/x"), end=True)) == 200
        assert status(site.ask(get("/long/x"), end=True)) == 200


@pytest.mark.parametrize("pause", [0.0, 0.0005], ids=["quick", "slow"])
def test_what_a_source_sends_directly_stands_where_it_belongs(site: Site, pause: float) -> None:
    site.app.events.clear()
    with site.connect(receive_buffer=4096) as client:
        client.send(get("/fast/x") + get("/direct") + get("/fast/y"))
        answers = bytearray()
        while not answers.endswith(b"/fast/y"):
            data = client.socket.recv(65536 if not pause else 10_000)
            assert data, f"the connection ended after {len(answers)} bytes"
            answers += data
            time.sleep(pause)
    (before, body, after) = re.split(rb"HTTP/1.1 200 OK\r\n.*?\r\n\r\n", bytes(answers), flags=re.DOTALL)[1:]
    assert (before, after) == (b"/fast/x", b"/fast/y")
    assert body == ALPHABET
    # As soon as a piece is gone there is room for more.
    assert site.app.events.count("direct True") > 9 * site.app.events.count("direct False")


def test_nothing_is_sent_directly_in_chunks_nor_to_who_is_gone(site: Site) -> None:
    site.app.events.clear()
    answer = site.ask(get("/direct/chunked", b"connection: close"))
    chunks = re.findall(rb"4e20\r\n(.{20000})\r\n", answer, re.DOTALL)
    assert b"".join(chunks) == ALPHABET
    assert set(site.app.events) == {"direct", "direct False"}

    site.app.events.clear()
    bad = site.ask(get("/direct/late", b"transfer-encoding: chunked", method=b"POST") + b"no chunk\r\n")
    assert status(bad) == 400
    eventually(lambda: site.app.events.count("direct False") > 100)
    assert "source" not in site.app.events

    with Site() as narrow:
        narrow.narrow(4096)
        with narrow.connect(receive_buffer=4096) as client:
            client.send(get("/direct"))
            client.socket.recv(1)
        eventually(lambda: narrow.app.events[-100:] == ["direct False"] * 100)


# Shutting down


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (get("/late/x"), 200),
        (get("/stall"), 503),
        (post("/echo", b"x", length=2), 503),
        (post("/early", b"x", length=2), 401),
    ],
    ids=["finishes", "never finishes", "stalled upload", "stalled after an early answer"],
)
def test_shutting_down_waits_for_answers_for_a_while(request_: bytes, expected: int) -> None:
    with Site() as running, running.connect() as client:
        client.send(request_)
        eventually(lambda: bool(running.app.events))
        time.sleep(0.05)
        running.stop()
        with taking(0.0, 5.0):
            assert status(client.rest()) == expected


@pytest.mark.parametrize(("name", "expected"), [("shortlate", 200), ("shortstall", 503)])
def test_shutting_down_waits_for_the_short_door_for_a_while(name: str, expected: int) -> None:
    with Site() as running, running.connect() as client:
        introduce(client, b"x-known: end")
        running.app.events.clear()
        client.send(sent(name, b"a body", b"x-known: end"))
        eventually(lambda: running.app.events == ["short"])
        running.stop()
        with taking(0.0, 5.0):
            answer = client.rest()
    assert status(answer) == expected
    assert b"\r\nconnection: close\r\n" in answer


def test_shutting_down_ends_no_connection_again_that_is_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    with Site() as running, running.connect() as client:
        client.send(post("/early", b"x", b"connection: close", length=1000))
        assert status(client.answer()) == 401
        assert client.rest() == b""
        (connection,) = running.connections
        monkeypatch.setattr(connection, "_linger", lambda: running.app.events.append("again"))
        with taking(0.0, 3.0):
            running.stop()
            eventually(lambda: not running.connections)
    assert "again" not in running.app.events


def test_shutting_down_closes_idle_connections_at_once() -> None:
    with Site() as running, running.connect() as idle, running.connect() as silent, running.connect() as slow:
        idle.send(get("/fast/x"))
        idle.answer()
        slow.send(b"GET /fast")
        eventually(lambda: len(running.connections) == 3)
        running.stop()
        with taking(0.0, 3.0):
            assert (idle.rest(), silent.rest(), slow.rest()) == (b"", b"", b"")


@pytest.mark.parametrize(
    "request_",
    [get("/fast/x"), get("/" + "fast".ljust(64, "x")), get("/echo"), post("/" + "short".ljust(64, "x"), b"x")],
    ids=["fast", "by heart", "slow", "short"],
)
@pytest.mark.parametrize("before", [0, 1, 3], ids=["new", "after one", "after some"])
def test_a_request_that_comes_when_the_end_has_begun_is_answered_and_is_the_last(
    monkeypatch: pytest.MonkeyPatch, request_: bytes, before: int
) -> None:
    monkeypatch.setattr(server, "PARTING", 5.0)
    with Site() as running, running.connect() as client:
        for _ in range(before):
            client.send(request_)
            assert status(client.answer()) == 200
        eventually(lambda: len(running.connections) == 1)
        with taking(0.0, 4.0):
            running.part()
            client.send(request_)
            answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"\r\nconnection: close\r\n" in answer


@pytest.mark.parametrize("path", ["/fast/room/7", "/late/x"])
def test_a_request_that_comes_too_late_cuts_no_answer_off(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(server, "PARTING", 5.0)
    with Site() as running:
        running.narrow(4096)
        with running.connect(receive_buffer=4096) as client:
            eventually(lambda: len(running.connections) == 1)
            running.part()
            client.send(get(path))
            time.sleep(0.5)
            client.send(get(path))
            time.sleep(0.1)
            answer = client.rest()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert body == (bytes([7]) * 60_000 if "room" in path else path.encode())


def test_shutting_down_drops_a_reader_that_stalls() -> None:
    with Site() as running, running.connect(receive_buffer=4096) as client:
        client.send(get("/stream"))
        time.sleep(0.2)
        with taking(0.5, 8.0):
            running.__exit__()
