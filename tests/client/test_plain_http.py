"""Small blobs in a row come by connections of our own: the same blobs, the same errors, whatever is on the way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pystor.client import AsyncClient, Client, Digest, NotFound, Refused, Unauthorized
from pystor.client.plain_http import USUAL, PlainHttp, _Connection
from pystor.client.servers import Server as Address
from pystor.client.small import SMALL, Small, Unusual, read
from tests.client.conftest import QUICK, lay, sha
from tests.client.test_library import left_in, noise
from tests.client.trouble import heal
from tests.neighbours.servers.proxy import Proxy
from tests.support.server import Server

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nLast-Modified: Tue, 24 Nov 2026 12:20:49 GMT\r\n"


@pytest.fixture
def warm(server: Server, proxy: Proxy) -> Iterator[Client]:
    """A client that has had so many small blobs in a row that it expects the next one to be small."""
    with Client(proxy.endpoint, user=server.user, password=server.password, retry=QUICK, timeout=0.5) as client:
        for name in lay(server, *(noise(10 + n) for n in range(USUAL))):
            client.get(name)
        assert proxy.connections == 1
        (name,) = lay(server, noise(100))
        client.get(name)
        assert proxy.connections == 2  # one of libcurl's, and one of our own
        yield client


# An answer


@pytest.mark.parametrize("spelling", [bytes, bytes.lower, lambda head: head.replace(b": ", b":   ")])
def test_an_answer_is_read_however_its_head_is_spelt(spelling: type[bytes]) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + spelling(HEAD.partition(b"\r\n")[2])
    assert read(head + b"\r\nblob") == Small(200, b"blob", 1795522849.0)


@pytest.mark.parametrize("end", range(len(HEAD) + 5))
def test_an_answer_that_has_not_all_come_is_none_yet(end: int) -> None:
    assert read((HEAD + b"\r\nblob")[:end]) is None


@pytest.mark.parametrize(
    "date", [b"", b"yesterday", b"\xff", b"Tue, 99 Nov 2026 12:20:49 GMT", b"Wed, 31 Dec 1969 00:00:00 GMT"]
)
def test_a_date_that_is_none_is_not_told(date: bytes) -> None:
    assert read(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nLast-Modified: " + date + b"\r\n\r\nx") == Small(
        200, b"x", None
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nblob",
        b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nblob",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.0",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nblob",
        HEAD + b"content-encoding: gzip\r\n\r\nblob",
        HEAD + b"Connection: close\r\n\r\nblob",
        HEAD + b"Content-Length: 4\r\n\r\nblob",
        HEAD + b"\r\nblob and another",
        b"HTTP/1.1 200 OK\r\n\r\nblob",
        b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nblob",
        b"HTTP/1.1 200 OK\r\nContent-Length: four\r\n\r\nblob",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nblob" % (SMALL + 1),
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (64 << 10),
    ],
)
def test_an_answer_of_another_kind_is_left_to_the_long_way(answer: bytes) -> None:
    with pytest.raises(Unusual):
        read(answer)


# When


def test_only_many_small_ones_in_a_row_make_the_next_be_expected_small() -> None:
    plain_http, server = PlainHttp(1.0), Address("http://host")
    for size in [*[1] * (USUAL - 1), SMALL + 1, *[1] * (USUAL - 1)]:
        plain_http.note(size)
        assert not plain_http.serves(server)
    plain_http.note(1)
    assert plain_http.serves(server)
    assert not plain_http.serves(Address("https://host"))


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_libcurl_s_business(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    plain_http = PlainHttp(1.0)
    for _ in range(USUAL):
        plain_http.note(1)
    assert not plain_http.serves(Address("http://host"))


# On the way


def test_small_blobs_share_a_connection(warm: Client, server: Server, proxy: Proxy, tmp_path: Path) -> None:
    contents = [noise(size) for size in (0, 1, 4096, SMALL) for _ in range(5)]
    for content, name in zip(contents, lay(server, *contents), strict=True):
        blob = warm.get(name, tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
        assert (blob.size, blob.server, blob.modified) == (len(content), proxy.endpoint, warm.head(name).modified)
    assert proxy.connections == 2


def test_a_large_one_among_them_comes_whole_and_next_to_nothing_twice(
    warm: Client, server: Server, proxy: Proxy
) -> None:
    content = noise(24 << 20)
    (name,) = lay(server, content)
    before = _received(proxy)
    assert warm.get(name) == content
    between = _received(proxy)
    assert between - before < len(content) + (4 << 20)
    assert warm.get(name) == content  # and it is not tried again
    assert _received(proxy) - between < len(content) + 1000


def _received(proxy: Proxy) -> int:
    """What has come through in all, once nothing more comes of a connection that was left."""
    seen = -1
    while seen != proxy.received:
        seen = proxy.received
        time.sleep(0.1)
    return seen


def test_one_that_is_not_there_is_not_found(warm: Client) -> None:
    with pytest.raises(NotFound):
        warm.get(sha(noise(9)))


@pytest.mark.parametrize("kind", ["cut", "flip", "reset", "hang", "garbage", "refuse"])
def test_trouble_on_the_way_is_overcome(warm: Client, server: Server, proxy: Proxy, tmp_path: Path, kind: str) -> None:
    content = noise(4096)
    (name,) = lay(server, content)
    match kind:
        case "cut" | "flip":
            setattr(proxy, kind, 2000)
            proxy.reset()  # it counts from the beginning of a connection
        case "reset":
            proxy.reset()
        case "hang":
            proxy.hang = True
        case "garbage":
            proxy.garbage, proxy.trigger = (
                b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n" + noise(4096),
                name.encode(),
            )
        case "refuse":
            proxy.refuse()
    threading.Timer(0.1 if kind != "hang" else 0.7, lambda: heal(proxy)).start()
    warm.get(name, tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == content
    assert left_in(tmp_path) == ["blob"]


def test_small_uploads_share_a_connection(warm: Client, server: Server, proxy: Proxy) -> None:
    for size in (100, 4096, SMALL):
        content = noise(size)
        first, second = warm.put(content), warm.put(content)
        assert (first.new, second.new) == (True, False)
        assert [Path(path).read_bytes() for path in first.paths] == [content] * len(server.pairs[0])
        assert (first.digest, first.size, first.server) == (Digest.of(content), size, proxy.endpoint)
    assert proxy.connections == 2


@pytest.mark.parametrize("kind", ["cut", "reset", "hang", "garbage", "refuse"])
def test_trouble_on_the_way_of_an_upload_is_overcome(warm: Client, proxy: Proxy, kind: str) -> None:
    content = noise(4096)
    match kind:
        case "cut":
            proxy.cut = 2000
            proxy.reset()
        case "reset":
            proxy.reset()
        case "hang":
            proxy.hang = True
        case "garbage":
            proxy.garbage, proxy.trigger = b"HTTP/1.1 503 Go Away\r\nContent-Length: 0\r\n\r\n", b"POST /"
        case "refuse":
            proxy.refuse()
    threading.Timer(0.1 if kind != "hang" else 0.7, lambda: heal(proxy)).start()
    stored = warm.put(content)
    assert warm.get(stored.digest) == content


def test_an_upload_that_is_answered_with_a_page_is_no_upload(warm: Client, proxy: Proxy) -> None:
    proxy.garbage, proxy.trigger = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", b"POST /"
    with pytest.raises(Refused, match="no answer of Stor's"):
        warm.put(noise(4096))


def test_an_upload_that_does_not_fit_into_the_socket_goes_on(
    warm: Client, server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, narrowed = socket.create_connection, []

    def narrow(address: tuple[str, int], *given: Any, **named: Any) -> socket.socket:
        end = connect(address, *given, **named)
        if address[1] == urlsplit(proxy.endpoint).port:  # the proxy connects, too
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            narrowed.append(end)
        return end

    monkeypatch.setattr(socket, "create_connection", narrow)
    proxy.reset()  # the next connection is a narrow one
    for name in lay(server, *(noise(10 + n) for n in range(USUAL + 1))):
        warm.get(name)
    content, connections = noise(SMALL), proxy.connections
    stored = warm.put(content)
    assert (stored.new, proxy.connections, len(narrowed)) == (True, connections, 1)  # it was not sent the long way
    assert warm.get(stored.digest) == content


def test_a_writer_who_is_none_is_told_so(server: Server, proxy: Proxy) -> None:
    with Client(proxy.endpoint, user="u", password="another", retry=QUICK) as client:
        for name in lay(server, *(noise(10 + n) for n in range(USUAL + 1))):
            client.get(name)
        with pytest.raises(Unauthorized):
            client.put(noise(10))


def test_the_credentials_go_along(warm: Client, server: Server, proxy: Proxy) -> None:
    content = noise(30)
    proxy.trigger = f"Authorization: {server.authorization()['Authorization']}\r\n".encode()
    proxy.garbage = b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n" + content
    assert warm.get(sha(content)) == content
    assert proxy.connections == 2


def test_whoever_comes_after_one_that_was_cancelled_gets_its_own_blob(server: Server, proxy: Proxy) -> None:
    contents = [noise(100 + n) for n in range(USUAL + 2)]
    names = lay(server, *contents)

    async def interrupted() -> bytes:
        async with AsyncClient(proxy.endpoint, retry=QUICK) as client:
            for name in names[:-1]:
                await client.get(name)
            proxy.delay = 0.2
            work = asyncio.create_task(client.get(names[0]))
            await asyncio.sleep(0.1)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            return await client.get(names[-1])

    assert asyncio.run(interrupted()) == contents[-1]
    assert proxy.connections == 3


def test_an_answer_that_comes_in_the_moment_of_the_cancellation_is_nobody_s() -> None:
    async def run() -> None:
        plain_http = PlainHttp(1.0)
        for _ in range(USUAL):
            plain_http.note(1)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD + b"\r\nblob")
            asyncio.get_running_loop().call_soon(asking.cancel)  # in the turn of the loop that receives the answer
            await reader.read()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
            address = Address(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
            asking = asyncio.create_task(plain_http.get(address, Digest.of(b"blob")))
            with pytest.raises(asyncio.CancelledError):
                await asking
            plain_http.close()

    asyncio.run(run())


@contextlib.asynccontextmanager
async def site(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[PlainHttp, Address]]:
    """A server that does as it likes, and what asks it and waits for half a second."""

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)

    plain_http = PlainHttp(0.5)
    async with await asyncio.start_server(closing, "127.0.0.1", 0) as listening:
        yield plain_http, Address(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        plain_http.close()


def test_an_answer_of_which_something_comes_is_waited_for() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"\r\n")
        for byte in b"blob":
            await asyncio.sleep(0.2)
            writer.write(bytes([byte]))

    async def run() -> None:
        async with site(trickle) as (plain_http, address):
            small = await plain_http.get(address, Digest.of(b"blob"))
            assert isinstance(small, Small)
            assert small.content == b"blob"

    asyncio.run(run())


def test_a_connection_on_which_the_answer_came_first_carries_no_other_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not sent yet of the first would come in the midst of the second."""
    narrow, came = socket.create_connection, list[bytes]()

    def connect(*given: Any) -> socket.socket:
        end = narrow(*given)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return end

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"\r\nblob")
        if not came:
            await asyncio.sleep(0.2)
        came.append(head + await reader.readexactly(int(head.split(b"Content-Length: ")[1].split()[0])))

    async def run() -> None:
        async with site(hasty) as (plain_http, address):
            for content in (b"1" * (1 << 20), b"2"):
                assert isinstance(await plain_http.post(address, Digest.of(content), content), Small)
            await asyncio.sleep(0.3)

    monkeypatch.setattr(socket, "create_connection", connect)
    asyncio.run(run())
    assert [request[-1:] for request in came] == [b"2"]


def test_a_request_that_the_socket_takes_in_pieces_is_sent_once() -> None:
    request, came = noise(300_000), bytearray()

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            connection = _Connection(ours, "http://here")
            asked = connection.ask(request)
            theirs.settimeout(10)
            while len(came) < len(request):
                came.extend(await asyncio.to_thread(theirs.recv, 65536))
            await asyncio.sleep(0.01)
            theirs.setblocking(False)
            with pytest.raises(BlockingIOError):
                theirs.recv(1)
            connection.close()
            assert await asked is None

    asyncio.run(scenario())
    assert came == request


def test_what_is_connected_when_the_client_is_closed_is_closed_as_well(server: Server, proxy: Proxy) -> None:
    (name,) = lay(server, noise(10))

    async def closed() -> None:
        client = AsyncClient(proxy.endpoint)
        for _ in range(USUAL):
            await client.get(name)
        asking = asyncio.create_task(client.get(name))
        await asyncio.sleep(0)  # it makes a connection
        await client.close()
        with pytest.raises(ValueError, match="closed"):
            await asking
        assert client._plain._all == set()

    asyncio.run(closed())
