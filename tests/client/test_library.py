"""The client as a library: every download whole and right, or nothing and an error that says why."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pystor.client
from pystor import posix, unnamed
from pystor.client import (
    AsyncClient,
    BadContent,
    Bucket,
    Client,
    ClientError,
    Digest,
    MalformedDigest,
    NoSpace,
    NotFound,
    Refused,
    Retry,
    TooLarge,
    Unauthorized,
    Unavailable,
    transport,
)
from pystor.client.retry import Tries
from pystor.client.saving import SYNCED, Draft, Memory
from pystor.client.transport import Ask
from pystor.errors import StorError
from tests.client.conftest import QUICK, lay, sha
from tests.client.scripted import Asked, Scripted, answer, busy
from tests.neighbours.servers.proxy import Proxy
from tests.support.fuse import Fault, FaultyStorage
from tests.support.processes import eventually
from tests.support.server import Server, ServerFactory

SMALL = 4096
LARGE = 24 << 20


def noise(size: int) -> bytes:
    return random.Random().randbytes(size)


def left_in(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


# Down


@pytest.mark.parametrize("size", [0, 1, SMALL, 65536, LARGE])
def test_a_blob_comes_to_a_path_to_a_file_as_bytes_and_in_pieces(
    server: Server, client: Client, tmp_path: Path, size: int
) -> None:
    content = noise(size)
    (name,) = lay(server, content)
    blob = client.get(name, tmp_path / "blob")
    file = io.BytesIO(b"before")
    file.seek(0, io.SEEK_END)
    client.get(name.upper(), file)
    assert (tmp_path / "blob").read_bytes() == content
    assert file.getvalue() == b"before" + content
    assert client.get(Digest(name)) == content
    assert b"".join(client.stream(name)) == content
    assert (blob.size, blob.digest.hex, blob.server) == (size, name, server.url)
    assert left_in(tmp_path) == ["blob"]


def test_a_file_has_the_time_of_last_modified(server: Server, client: Client, tmp_path: Path) -> None:
    (name,) = lay(server, b"old")
    for storage in server.pairs[0]:
        os.utime(Path(storage, Digest(name).path), (1_000_000_000, 1_000_000_000))
    blob = client.get(name, tmp_path / "blob")
    assert blob.modified == 1_000_000_000 == (tmp_path / "blob").stat().st_mtime


def test_what_is_not_there_is_not_found_and_leaves_nothing(client: Client, tmp_path: Path) -> None:
    name = sha(noise(8))
    with pytest.raises(NotFound, match=name):
        client.get(name, tmp_path / "blob")
    with pytest.raises(NotFound):
        client.head(name)
    assert not client.exists(name)
    assert left_in(tmp_path) == []


def test_a_name_that_is_no_sha_never_leaves_the_client(client: Client) -> None:
    with pytest.raises(MalformedDigest):
        client.get("../etc/passwd")


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, 200_000])
def test_a_connection_that_is_cut_is_continued(through: Client, server: Server, proxy: Proxy, cut: int) -> None:
    content = noise(1 << 20)
    (name,) = lay(server, content)
    proxy.cut = cut
    threading.Timer(0.02, lambda: setattr(proxy, "cut", -1)).start()
    assert through.get(name) == content


def test_a_continued_download_fetches_only_the_rest(through: Client, server: Server, proxy: Proxy) -> None:
    content = noise(LARGE)
    (name,) = lay(server, content)
    proxy.cut = 5 << 20
    offsets: list[int] = []
    assert through.get(name, observe=lambda count, _: offsets.append(count)) == content
    assert offsets == sorted(offsets)
    assert 5 <= proxy.connections <= 8  # each brings 5 MiB, or a little less: a reset throws away what was not read


def test_a_garbled_blob_is_fetched_anew(through: Client, server: Server, proxy: Proxy, tmp_path: Path) -> None:
    content = noise(1 << 20)
    (name,) = lay(server, content)
    proxy.flip = 500_000  # of the connection, which is kept: the second answer on it is good
    through.get(name, tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == content
    assert proxy.received > 2 << 20


def test_a_garbled_blob_leaves_nothing_and_is_said_to_be_bad(server: Server, proxy: Proxy, tmp_path: Path) -> None:
    (name,) = lay(server, noise(1 << 20))
    file = io.BytesIO()
    for target in (tmp_path / "blob", file):
        proxy.flip = 500_000
        with Client(proxy.endpoint, retry=Retry(attempts=1)) as client, pytest.raises(BadContent, match=name):
            client.get(name, target)
    assert left_in(tmp_path) == []
    assert file.getvalue() == b""


@pytest.mark.parametrize("name", ["no sha", sha(b"missing")])
def test_an_open_file_that_nothing_was_written_to_stays_as_it_was(client: Client, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    with (tmp_path / "file").open("r+b") as file, pytest.raises(StorError):
        client.get(name, file)
    assert (tmp_path / "file").read_bytes() == b"precious"


class Takes(io.RawIOBase):
    """An open file that tells of each write what it was told to tell."""

    def __init__(self, *tells: int | None) -> None:
        self.tells = list(tells)
        self.came = b""

    def write(self, piece: Any) -> int | None:
        told = self.tells.pop(0)
        self.came += bytes(piece[:told])
        return told


def test_a_file_that_takes_a_part_is_given_the_rest(server: Server, client: Client) -> None:
    (name,) = lay(server, b"content")
    file: Any = Takes(3, 1, 3)
    client.get(name, file)
    assert file.came == b"content"


def test_a_file_that_says_nothing_has_taken_all(server: Server, client: Client) -> None:
    (name,) = lay(server, b"content")
    file: Any = SimpleNamespace(came=b"", seekable=lambda: False)
    file.write = lambda piece: setattr(file, "came", file.came + piece)
    client.get(name, file)
    assert file.came == b"content"


@pytest.mark.parametrize("tells", [None, 0])
def test_a_file_that_takes_nothing_now_is_an_error(server: Server, client: Client, tells: int | None) -> None:
    """A pipe that does not wait says so; it would be asked again and again."""
    (name,) = lay(server, b"content")
    file: Any = Takes(3, tells)
    with pytest.raises(BlockingIOError):
        client.get(name, file)


def test_bytes_are_held_once() -> None:
    memory, piece = Memory(), noise(1 << 20)
    tracemalloc.start()
    try:
        for _ in range(32):
            memory.write(piece)
        content, (_, peak) = memory.content, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert content == piece * 32
    assert peak < 1.3 * len(content)
    memory.restart()
    memory.write(b"anew")
    assert memory.content == b"anew"


def test_the_last_piece_of_a_garbled_stream_is_held_back(server: Server, proxy: Proxy) -> None:
    content = noise(4 << 20)
    (name,) = lay(server, content)
    proxy.flip = 1000
    came: list[bytes] = []
    with Client(proxy.endpoint) as client, pytest.raises(BadContent):
        came.extend(piece for piece in client.stream(name))
    assert 0 < sum(map(len, came)) < len(content)


def test_a_server_that_hangs_is_given_up_and_asked_again(through: Client, server: Server, proxy: Proxy) -> None:
    (name,) = lay(server, noise(SMALL))
    proxy.hang = True
    threading.Timer(0.7, lambda: setattr(proxy, "hang", False)).start()
    assert len(through.get(name)) == SMALL
    assert proxy.connections > 1


def test_a_slow_server_is_not_given_up_as_long_as_something_comes(
    through: Client, server: Server, proxy: Proxy
) -> None:
    content = noise(1 << 20)
    (name,) = lay(server, content)
    proxy.rate = 900_000
    assert through.get(name) == content
    assert proxy.connections == 1


def test_a_server_that_refuses_is_unavailable_and_the_error_names_it(proxy: Proxy) -> None:
    proxy.refuse()
    with Client(proxy.endpoint, retry=Retry(2, 0.01)) as client, pytest.raises(Unavailable, match=proxy.endpoint):
        client.get(sha(b""))


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", b""]
)
def test_a_server_that_talks_nonsense_is_asked_again(
    through: Client, server: Server, proxy: Proxy, garbage: bytes
) -> None:
    (name,) = lay(server, noise(SMALL))
    proxy.garbage, proxy.trigger = garbage or b"\0", b"GET"
    threading.Timer(0.02, lambda: setattr(proxy, "garbage", b"")).start()
    assert len(through.get(name)) == SMALL


def test_retry_after_is_waited_for(server: Server, proxy: Proxy) -> None:
    (name,) = lay(server, noise(SMALL))
    proxy.garbage = b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 5\r\n\r\nBusy\n"
    with Client(proxy.endpoint, retry=Retry(delay=0.001)) as client:
        threading.Timer(0.5, lambda: setattr(proxy, "garbage", b"")).start()
        client.get(name)
    assert proxy.connections == 2


def test_memory_is_not_filled_by_a_reader_who_does_not_read(server: Server, proxy: Proxy) -> None:
    (name,) = lay(server, noise(LARGE))

    async def read_slowly() -> int:
        async with AsyncClient(proxy.endpoint, timeout=0.3) as client, aclosing(client.stream(name)) as pieces:
            await anext(pieces)
            await asyncio.sleep(0.6)
            before = proxy.received
            assert sum([len(piece) async for piece in pieces]) > 0  # a pause of the reader is no fault of the server
            return before

    assert asyncio.run(read_slowly()) < LARGE
    assert proxy.connections == 1


# Several servers, and a bucket before them


def test_another_server_is_asked_when_one_is_away_or_has_it_not(
    server: Server, make_server: ServerFactory, proxy: Proxy
) -> None:
    other = make_server(workers=1)
    names = [*lay(server, noise(10), noise(11)), *lay(other, noise(12), noise(13))]
    with Client([proxy.endpoint, other.url], retry=QUICK) as client:
        assert [len(client.get(name)) for name in names] == [10, 11, 12, 13]
        proxy.refuse()
        assert [len(client.get(name)) for name in names[2:]] == [12, 13]
        with pytest.raises(Unavailable):  # the one that is away might have it
            client.get(sha(b"nowhere"))


@pytest.mark.parametrize("order", [(NotFound("a"), Unauthorized("b")), (Unauthorized("b"), NotFound("a"))])
def test_not_found_is_said_only_when_all_said_so(order: tuple[ClientError, ...]) -> None:
    tries = Tries(QUICK, ["first", "second"])
    assert tries.after(order[0]) == 0
    with pytest.raises(Unauthorized):
        tries.after(order[1])


@pytest.mark.parametrize("passing", [Unavailable("a"), BadContent("a")])
@pytest.mark.parametrize("first", [False, True])
def test_not_found_is_not_said_while_another_may_have_it(passing: ClientError, first: bool) -> None:
    errors = [passing, NotFound("b")] if first else [NotFound("b"), passing]
    tries = Tries(Retry(1), ["first", "second"])
    assert tries.after(errors[0]) == 0
    with pytest.raises(type(passing)):
        tries.after(errors[1])


def assert_got_in_parts(content: bytes, parts: dict[int, bytes]) -> None:
    """Get a blob from a server that closes the connection behind each of its answers, all of which it takes."""
    with (
        Scripted(lambda asked: parts[asked.number], keeps=False) as scripted,
        Client(scripted.url, retry=QUICK) as client,
    ):
        assert client.get(sha(content)) == content
        assert len(scripted.asked) == len(parts)


def test_what_goes_on_at_another_place_than_asked_is_not_taken_for_the_rest() -> None:
    content = noise(300_000)
    parts = {
        0: answer(200, content)[:-100_000],
        1: answer(206, content, "Content-Range: bytes 0-299999/300000"),
        2: answer(206, content[200_000:], "Content-Range: bytes 200000-299999/300000"),
    }
    assert_got_in_parts(content, parts)


def test_what_begins_anew_from_a_server_that_ignores_ranges_is_taken_from_where_it_broke_off() -> None:
    content = noise(4 << 20)  # several batches
    parts = {0: answer(200, content)[: -(1 << 20)], 1: answer(200, content)}
    assert_got_in_parts(content, parts)


def test_the_rest_may_come_in_several_answers() -> None:
    content = noise(300_000)
    parts = {
        0: answer(200, content)[:-100_000],
        1: answer(206, content[200_000:250_000], "Content-Range: bytes 200000-249999/300000"),
        2: answer(206, content[250_000:], "Content-Range: bytes 250000-299999/300000"),
    }
    assert_got_in_parts(content, parts)


def test_who_gets_little_between_failures_gives_up_however_much_came_before() -> None:
    content, begun = noise(2 << 20), 3 << 19

    def script(asked: Asked) -> bytes:
        if asked.number == 0:
            return answer(200, content)[: begun - len(content)]
        offset = begun + 10 * (asked.number - 1)
        rest = answer(206, content[offset:], f"Content-Range: bytes {offset}-{len(content) - 1}/{len(content)}")
        return rest[: 10 - len(content[offset:])] if asked.number < 8 else rest

    with (
        Scripted(script, keeps=False) as scripted,
        Client(scripted.url, retry=Retry(3, delay=0.01)) as client,
    ):
        with pytest.raises(Unavailable):
            client.get(sha(content))
        assert len(scripted.asked) == 3


def test_progress_makes_failures_forgotten_but_no_bad_content() -> None:
    tries = Tries(Retry(3, delay=0.0), ["only"])
    tries.after(BadContent("it is garbled"))
    for _ in range(10):
        tries.after(Unavailable("it broke off"))
        tries.progress()
    tries.after(BadContent("it is garbled again"))
    tries.progress()
    with pytest.raises(BadContent, match="for the third time"):
        tries.after(BadContent("it is garbled for the third time"))


def test_who_asked_for_a_delay_once_is_not_believed_to_ask_for_it_ever_after() -> None:
    tries = Tries(Retry(delay=0.0), ["only"])
    assert tries.after(Unavailable("it is busy", retry_after=7)) == 7
    assert tries.after(Unavailable("it broke off")) == 0


def test_nobody_knows_whether_a_blob_exists_that_the_first_server_did_not_tell_of() -> None:
    def server(status: int) -> Scripted:
        return Scripted(lambda _: answer(status))

    with (
        server(503) as busy,
        server(404) as there,
        Client([busy.url, there.url], retry=Retry(1)) as client,
    ):
        for name in [sha(noise(8)) for _ in range(8)]:  # the order is another for each
            with pytest.raises(Unavailable):
                client.exists(name)


@pytest.mark.parametrize("dice", [0.0, 0.5, 0.999])
def test_delays_double_up_to_a_limit_and_are_half_dice(dice: float) -> None:
    delays = [Retry(delay=0.1, longest=3).wait(n, rng=lambda: dice) for n in range(1, 9)]
    full = [min(3.0, 0.1 * 2**n) for n in range(8)]
    assert delays == pytest.approx([whole / 2 + whole / 2 * dice for whole in full])
    assert Retry().wait(1, wish=7) == 7
    assert Retry().wait(1, wish=1e9) == 300


def test_the_bucket_is_asked_first_and_the_server_when_it_has_it_not(
    server: Server, make_server: ServerFactory, proxy: Proxy
) -> None:
    bucket = make_server(workers=1)
    (there,) = lay(bucket, noise(20))
    (here,) = lay(server, noise(21))
    with Client(proxy.endpoint, bucket=Bucket(bucket.url, "{{.Sha}}"), retry=QUICK) as client:
        assert client.get(there, io.BytesIO()).server.startswith(bucket.url)
        assert proxy.connections == 0
        assert client.get(here, io.BytesIO()).server == proxy.endpoint


def test_the_template_of_the_original_is_that_of_the_archive() -> None:
    digest = Digest.of(b"")
    assert Bucket("http://host/b/").locate(digest) == f"http://host/b/{digest.key}"
    with pytest.raises(ValueError, match="without credentials") as caught:
        Bucket("http://key:TOPSECRET@host")
    assert "TOPSECRET" not in str(caught.value)
    with pytest.raises(ValueError, match="Fourth"):
        Bucket("http://host", "{{.FourthShaByte}}")


# Up


def _spell(kind: str, content: bytes, directory: Path) -> Any:
    async def pieces() -> AsyncIterator[bytes]:
        yield content[:10]
        yield content[10:]

    (directory / "file").write_bytes(content)
    pipe: Any = io.BufferedReader(_Pipe(content))
    return {
        "path": directory / "file",
        "text": str(directory / "file"),
        "bytes": content,
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "file": io.BytesIO(content),
        "pipe": pipe,
        "iterator": iter([content[:7], b"", content[7:]]),
        "pieces": pieces(),
    }[kind]


class _Pipe(io.RawIOBase):
    """An open file that cannot be rewound."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(buffer)


@pytest.mark.parametrize(
    "kind",
    ["path", "text", "bytes", "bytearray", "memoryview", "file", "pipe", "iterator", "pieces"],
)
@pytest.mark.parametrize("size", [100, 3 << 20])
def test_anything_that_has_bytes_is_stored(client: Client, tmp_path: Path, kind: str, size: int) -> None:
    content = noise(size)
    stored = client.put(_spell(kind, content, tmp_path))
    assert (stored.digest.hex, stored.size, stored.new, len(stored.paths)) == (sha(content), size, True, 2)
    assert client.get(stored.digest) == content
    again = client.put(content)
    assert (again.new, again.digest) == (False, stored.digest)


def test_a_file_that_is_wrapped_is_not_read_line_by_line(client: Client) -> None:
    class Wrapped:
        def __init__(self, file: io.BytesIO) -> None:
            self.read, self.seek, self.tell, self.seekable = file.read, file.seek, file.tell, file.seekable

        def __iter__(self) -> Iterator[bytes]:
            raise AssertionError("line by line")

    file: Any = Wrapped(io.BytesIO(b"line\n" * 3))
    assert client.put(file).digest.hex == sha(b"line\n" * 3)
    with tempfile.NamedTemporaryFile() as temporary:
        temporary.write(b"before after")
        temporary.seek(len(b"before "))
        assert client.put(temporary).digest.hex == sha(b"after")


@pytest.mark.parametrize("where", ["in memory", "on the disk", "in the page cache"])
@pytest.mark.parametrize("size", [0, 1, 4096, 128 << 10, (128 << 10) + 1, 1 << 20])
def test_a_file_is_stored_wherever_its_bytes_are(client: Client, tmp_path: Path, where: str, size: int) -> None:
    content = noise(size)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if where == "in memory" else tmp_path) as directory:
        path = Path(directory, "file")
        path.write_bytes(content)
        if where == "on the disk":
            with path.open("rb+") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        moved: list[int] = []
        stored = client.put(path, observe=moved.append)
    assert (stored.digest.hex, stored.size, moved[-1]) == (sha(content), size, size)
    assert client.get(stored.digest) == content


def test_a_named_pipe_is_waited_for_and_read(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    threading.Timer(0.1, lambda: (tmp_path / "pipe").write_bytes(b"late")).start()
    assert client.put(tmp_path / "pipe").digest.hex == sha(b"late")


def test_a_pipe_that_does_not_block_is_read_to_its_end(client: Client) -> None:
    output, given = os.pipe()
    os.set_blocking(output, False)

    def write() -> None:
        for piece in b"the first ", b"and the rest":
            time.sleep(0.1)
            os.write(given, piece)
        os.close(given)

    threading.Thread(target=write).start()
    with open(output, "rb") as file:
        assert client.put(file).digest.hex == sha(b"the first and the rest")


def test_a_file_that_has_grown_since_it_was_looked_at_is_read_the_long_way(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, content, look = tmp_path / "growing", noise(1000), os.stat
    path.write_bytes(content)

    def look_early(name: Any, *arguments: Any, **named: Any) -> Any:
        found = look(name, *arguments, **named)
        return SimpleNamespace(st_mode=found.st_mode, st_size=900) if name == path else found

    monkeypatch.setattr(os, "stat", look_early)
    stored = client.put(path)
    assert (stored.size, stored.digest.hex) == (1000, sha(content))


def test_the_empty_blob_is_stored(client: Client) -> None:
    assert client.put(b"").size == 0
    assert client.get(sha(b"")) == b""


def test_a_large_blob_that_the_server_has_is_not_sent(through: Client, client: Client, proxy: Proxy) -> None:
    content = noise(8 << 20)
    client.put(content)
    moved: list[int] = []
    assert not through.put(content, observe=moved.append).new
    assert [ask[:4] for ask in proxy.asked] == [b"POST"]
    assert not any(moved)


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 1000)])
@pytest.mark.parametrize("count", [1, 2])
def test_a_large_blob_that_the_server_has_in_part_is_made_whole(
    client: Client, damage: Callable[[Path], None], count: int
) -> None:
    content = noise(2 << 20)
    replicas = [Path(path) for path in client.put(content).paths]
    for replica in replicas[:count]:
        damage(replica)
    client.put(content)
    assert [replica.read_bytes() == content for replica in replicas] == [True, True]


def test_a_server_that_takes_its_time_to_look_at_what_it_has_is_not_sent_it(
    client: Client, server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_HASHED", 1_000_000)
    content = noise(4 << 20)
    client.put(content)
    proxy.delay = 1.2
    with Client(proxy.endpoint, user=server.user, password=server.password, timeout=0.5) as patient:
        assert not patient.put(content).new
    assert [ask[:4] for ask in proxy.asked] == [b"POST"]


def test_a_refused_upload_costs_nothing(proxy: Proxy) -> None:
    with (
        Client(proxy.endpoint, user="writer", password="wrong", retry=QUICK) as stranger,
        pytest.raises(Unauthorized, match="Authentication required"),
    ):
        stranger.put(noise(8 << 20))
    assert [ask[:4] for ask in proxy.asked] == [b"POST"]  # and no body


def test_a_cut_upload_is_sent_again(through: Client, proxy: Proxy) -> None:
    content = noise(2 << 20)
    proxy.hang = True
    threading.Timer(0.2, proxy.reset).start()
    threading.Timer(0.3, lambda: setattr(proxy, "hang", False)).start()
    assert through.put(content).new


def test_a_file_that_is_cut_while_it_is_sent_is_told_to_have_changed(
    through: Client, proxy: Proxy, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(noise(4 << 20))

    def cut(sent: int) -> None:
        if sent > 1 << 20:
            os.truncate(path, 2 << 20)

    with pytest.raises(BadContent, match="it was changed while it was sent"):
        through.put(path, observe=cut)
    assert sum(ask[:4] == b"POST" for ask in proxy.asked) == 1


class Failing(io.BytesIO):
    """An open file whose second half can be read once."""

    passes = 0

    def read(self, most: int | None = -1) -> bytes:
        self.passes += self.tell() == 0
        if self.passes > 1 and self.tell() > len(self.getvalue()) // 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(min(most or 0, 10_000) if self.passes > 1 else most)


@pytest.mark.parametrize("size", [200_000, 3 << 20])
def test_what_fails_while_it_is_sent_is_raised_as_what_it_is(
    client: Client, size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        client.put(Failing(noise(size)))
    assert "Traceback" not in capfd.readouterr().err


def test_an_upload_whose_observer_fails_raises_that_and_logs_nothing(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: int) -> None:
        raise KeyError("an observer's own")

    with pytest.raises(KeyError, match="an observer's own"):
        client.put(noise(3 << 20), observe=fail)
    gc.collect()  # asyncio complains when it drops what nobody asked
    assert caplog.records == []


class Shrinking(Failing):
    """An open file whose second half goes away."""

    def read(self, most: int | None = -1) -> bytes:
        try:
            return super().read(most)
        except OSError:
            return b""


@pytest.mark.parametrize(("file", "kind"), [(Failing, OSError), (Shrinking, BadContent)])
def test_what_fails_while_it_is_sent_is_no_fault_of_the_server(file: type[Failing], kind: type[Exception]) -> None:
    with (
        Scripted(lambda _: answer(200)) as one,
        Scripted(lambda _: answer(200)) as another,
        Client([one.url, another.url], retry=QUICK) as client,
    ):
        content = noise(200_000)
        first = client.head(sha(content)).server
        with pytest.raises(kind):
            client.put(file(content))
        assert client.head(sha(content)).server == first


def test_an_upload_that_moves_is_not_given_up(server: Server) -> None:
    content = noise(12 << 20)
    with Client(server.url, user=server.user, password=server.password, timeout=0.5) as client:
        assert client.put(content).new


def test_the_server_s_refusals_are_errors_of_the_same_name(make_server: ServerFactory) -> None:
    small = make_server(workers=1, config={"max_blob_size": 1000, "writable_pairs_regex": "nothing"})
    with Client(small.url, user=small.user, password=small.password, retry=QUICK) as client:
        with pytest.raises(TooLarge, match="limit of 1000 bytes"):
            client.put(noise(2000))
        with pytest.raises(NoSpace):
            client.put(noise(10))


def test_a_body_is_sent_at_once_where_nobody_knows_of_agreeing_to_it() -> None:
    """An old proxy may refuse to be asked; RFC 9110, 10.1.1."""
    content = noise(2 << 20)
    came: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_expect_100(self) -> bool:
            self.close_connection = True
            self.wfile.write(answer(417, b"", "Connection: close"))
            return False

        def do_POST(self) -> None:
            came.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.wfile.write(answer(201, b'["/a"]'))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as old:
        threading.Thread(target=old.serve_forever, args=(0.01,), daemon=True).start()
        with Client(f"http://127.0.0.1:{old.server_port}", retry=Retry(1)) as client:
            assert client.put(content).new
        old.shutdown()
    assert came == [content]


@pytest.mark.parametrize(("status", "kind"), [(400, Refused), (403, Refused), (405, Refused), (412, BadContent)])
def test_an_answer_that_asking_again_does_not_change_is_raised(
    proxy: Proxy, status: int, kind: type[ClientError]
) -> None:
    proxy.garbage = b"HTTP/1.1 %d No\r\nContent-Length: 9\r\n\r\nSo it is\n" % status
    with Client(proxy.endpoint, retry=Retry(2, 0.01)) as client, pytest.raises(kind, match="So it is"):
        client.put(b"x")


@pytest.mark.parametrize("size", [10, 3 << 20])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_an_upload_is_one_wherever_it_is_led(status: int, size: int) -> None:
    content = noise(size)

    def script(asked: Asked) -> bytes:
        if asked.path.startswith("/there/"):
            return answer(201, b'["a", "b"]')
        return answer(status, b"", f"Location: /there{asked.path}")

    with Scripted(script) as site, Client(site.url, retry=QUICK) as client:
        assert client.put(content).paths == ("a", "b")
        assert site.asked[-1][:3] == ("POST", f"/there/{sha(content)}", content)


@pytest.mark.parametrize("size", [10, 3 << 20])
@pytest.mark.parametrize("said", [b"<html>Log in!</html>", b"", b"{}", b"[1]", b'"path"', b"\xff"])
def test_what_is_not_answered_with_paths_is_not_stored(said: bytes, size: int) -> None:
    with (
        Scripted(lambda _: answer(200, said)) as site,
        Client(site.url, retry=QUICK) as client,
        pytest.raises(Refused, match=f"{site.url}: .*no answer of Stor's") as caught,
    ):
        client.put(noise(size))
    assert (caught.value.status, len(site.asked)) == (200, 1)


# Beside the blobs


@pytest.mark.parametrize(
    ("fields", "there"),
    [
        ([], True),
        (['ETag: "{0}"'], True),
        (['ETag: W/"{0}"'], True),
        (['ETag: "5d8c72a5edda8d6a"', "Repr-Digest: sha-256=:{1}:"], True),
        (["Repr-Digest: sha-256=:{1}:"], True),
        (['ETag: "5d8c72a5edda8d6a"'], False),
        (["Repr-Digest: sha-256=:AAAA:"], False),
    ],
)
def test_another_page_is_not_taken_for_a_blob(fields: list[str], there: bool) -> None:
    digest = Digest.of(b"there")
    told = [field.format(digest.hex, digest.base64) for field in fields]
    with Scripted(lambda _: answer(200, b"", *told)) as site, Client(site.url, retry=QUICK) as client:
        if there:
            assert client.exists(digest)
            return
        with pytest.raises(Refused, match=f"{site.url}: .*no answer of Stor's"):
            client.exists(digest)


def test_head_describes_a_blob(server: Server, client: Client) -> None:
    (name,) = lay(server, noise(77))
    assert (client.head(name).size, client.exists(name)) == (77, True)


def test_status_tells_of_each_server(server: Server, proxy: Proxy) -> None:
    proxy.refuse()
    with Client([server.url, proxy.endpoint]) as client:
        well, away = client.status()
    assert (well.ok, well.text, len(well.storages)) == (True, "ok", 4)
    assert not away.ok
    assert "connect" in away.text.lower()


# Secrets


def test_no_error_and_no_text_of_a_client_names_a_password(proxy: Proxy) -> None:
    url = proxy.endpoint.replace("http://", "http://writer:TOP%20SECRET@")
    with Client(url, retry=Retry(1)) as client:
        proxy.refuse()
        with pytest.raises(Unavailable) as caught:
            client.put(b"x")
        told = f"{caught.value!r} {caught.value} {client._client.servers} {client.status()}"
        assert client._client.servers[0].password == "TOP SECRET"
    assert "SECRET" not in told


@pytest.mark.parametrize(
    "url",
    [
        "ftp://u:TOPSECRET@host",
        "http://",
        "http://u:TOPSECRET@",
        "http://u:TOPSECRET@h:port",
        "http://u:TOPSECRET#1@h",
        "http://u:80#TOPSECRET@h",
        "http://u:80?TOPSECRET@h",
        "http://u:80/TOPSECRET@h",
        "u:TOPSECRET@[::1",
    ],
)
def test_a_url_that_is_none_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        Client(url)
    assert "TOPSECRET" not in str(caught.value)


def test_the_credentials_go_to_the_servers_and_not_to_the_bucket(server: Server, proxy: Proxy) -> None:
    content = noise(30)
    proxy.trigger = b"Authorization: Basic dTpw\r\n"  # u:p
    proxy.garbage = b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n" + content
    with (
        Proxy(("127.0.0.1", server.port), garbage=b"HTTP/1.1 500 No\r\n\r\n", trigger=b"Authorization") as bucket,
        Client(proxy.endpoint, user="u", password="p", bucket=Bucket(bucket.endpoint, "x/{{.Sha}}")) as client,
    ):
        assert client.get(sha(content)) == content
        assert bucket.received > 0  # it answered that it has it not, since nobody showed it a password


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_timeout_that_is_none_is_told(seconds: float) -> None:
    with pytest.raises(ValueError, match=f"the timeout is {seconds}; "):
        AsyncClient("http://h", timeout=seconds)


def test_a_timeout_may_be_infinite(server: Server) -> None:
    (name,) = lay(server, noise(200_000))
    with Client(server.url, user=server.user, password=server.password, timeout=float("inf")) as client:
        assert (len(client.get(name)), client.put(noise(2 << 20)).new) == (200_000, True)


# Threads and loops


def test_one_client_serves_many_threads(server: Server, client: Client) -> None:
    names = lay(server, *(noise(1000 + n) for n in range(40)))
    came: list[int] = []
    threads = [threading.Thread(target=lambda name=name: came.append(len(client.get(name)))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(came) == [1000 + n for n in range(40)]


@pytest.mark.parametrize(
    ("verb", "waits"),
    [
        *((verb, "for an answer") for verb in ("get", "head", "put", "status")),
        *((verb, "for the rest") for verb in ("get", "put", "status")),
        *((verb, "to ask again") for verb in ("get", "head", "put")),
    ],
)
def test_who_waits_when_the_client_is_closed_is_told_so(verb: str, waits: str) -> None:
    said = {
        "for an answer": b"H",
        "for the rest": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegin",
        "to ask again": busy(1),
    }[waits]

    async def closed() -> None:
        client = AsyncClient(site.url)
        act: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "get": lambda: client.get(sha(b"")),
            "head": lambda: client.head(sha(b"")),
            "put": lambda: client.put(b"content"),
            "status": client.status,
        }
        work = asyncio.create_task(act[verb]())
        await asyncio.to_thread(eventually, lambda: len(site.asked) > 0)
        await asyncio.sleep(0.05)  # the answer is there
        await client.close()
        with pytest.raises(ValueError, match="closed"):
            await work

    with Scripted(lambda _: said) as site:
        asyncio.run(closed())


def test_a_stream_that_is_open_when_the_client_is_closed_logs_nothing(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def slow() -> SimpleNamespace:
        return SimpleNamespace(update=lambda _: time.sleep(0.1))

    monkeypatch.setattr("pystor.client.download.sha256", slow)  # so that one piece is hashed when another was yielded
    monkeypatch.setattr("pystor.client.download.LARGE", 1)
    (name,) = lay(server, noise(8 << 20))
    pieces = client.stream(name)
    next(pieces)
    client.close()
    with pytest.raises(ValueError, match="closed"):
        next(pieces)
    assert caplog.records == []


def test_a_stream_that_is_collected_in_the_thread_of_its_client_ends_there(server: Server, client: Client) -> None:
    """One that belongs to a cycle ends wherever the garbage is collected, which may be where its end is awaited."""
    (name,) = lay(server, noise(8 << 20))

    def leave() -> None:
        pieces = client.stream(name)
        next(pieces)
        cycle = [pieces]
        cycle.append(cycle)  # type: ignore[arg-type]

    leave()
    came: list[int] = []

    def collect(*_: object) -> None:
        gc.collect()

    def work() -> None:
        came.append(len(client.get(name, observe=collect)))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert came == [8 << 20]
    assert client._streams == set()


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Ctrl-C comes within the block."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    timer.join()


def test_a_stream_that_is_interrupted_before_its_client_asks_raises_just_that(server: Server, client: Client) -> None:
    (name,) = lay(server, noise(LARGE))
    busy = threading.Event()

    def keep_busy(*_: object) -> None:
        if not busy.is_set():
            busy.set()
            time.sleep(0.3)

    other = threading.Thread(target=client.get, args=(name,), kwargs={"observe": keep_busy})
    other.start()
    assert busy.wait(5)
    with interrupted_after(0.1):
        next(client.stream(name))
    other.join()
    assert client._streams == set()


def test_nothing_is_written_after_an_interruption_was_raised(server: Server, client: Client) -> None:
    (name,) = lay(server, noise(LARGE))
    writing = False

    class Slow(io.BytesIO):
        def write(self, piece: Any) -> int:
            nonlocal writing
            writing = True
            time.sleep(0.2)
            written = super().write(piece)
            writing = False
            return written

    file = Slow()
    with interrupted_after(0.3):
        client.get(name, file)
    assert not writing
    assert file.getvalue() == b""


@pytest.mark.parametrize("act", ["get", "close"])
def test_who_observes_a_client_cannot_wait_for_it(server: Server, client: Client, act: str) -> None:
    (name,) = lay(server, noise(10))

    def wait(*_: object) -> None:
        client.close() if act == "close" else client.get(name)

    with pytest.raises(RuntimeError, match="own thread"):
        client.get(name, observe=wait)
    assert len(client.get(name)) == 10


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_an_observer_that_ends_the_program_ends_what_it_observes(
    server: Server, client: Client, end: type[BaseException]
) -> None:
    (name,) = lay(server, noise(10))

    def leave(*_: object) -> None:
        raise end

    for _ in range(2):
        with pytest.raises(end):
            client.get(name, observe=leave)
    assert len(client.get(name)) == 10


def test_a_program_that_leaves_a_stream_open_ends(server: Server) -> None:
    (name,) = lay(server, noise(8 << 20))
    program = f"""if True:
        from pystor.client import Client
        pieces = Client("{server.url}").stream("{name}")
        next(pieces)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.fixture(params=["unnamed", "by its path", "named", "refused"])
def drafts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads go into files without a name, or with one: where there are no others, or a filesystem has none."""
    real = os.open

    def refused(path: str, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        return real(path, flags, *arguments, **named)

    if request.param == "named":
        monkeypatch.setattr(unnamed, "_FLAG", None)
    if request.param == "by its path":
        monkeypatch.setattr(posix, "link", lambda *_: False)
    if request.param == "refused":
        monkeypatch.setattr(os, "open", refused)


@pytest.mark.usefixtures("drafts")
def test_a_file_appears_whole_in_the_place_of_what_was_there(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        with Draft(str(tmp_path / "file")) as draft:
            draft.write(content)
            assert (tmp_path / "file").exists() == (content == b"second")
            draft.keep(1_000_000_000.0)
        assert (tmp_path / "file").read_bytes() == content
    assert (tmp_path / "file").stat().st_mtime == 1_000_000_000
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask()
    assert left_in(tmp_path) == ["file"]


@pytest.mark.usefixtures("drafts")
@pytest.mark.parametrize("size", [SYNCED - 1, SYNCED])
def test_a_large_file_has_its_name_only_when_it_is_on_stable_storage(
    server: Server, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    (name,) = lay(server, noise(size))
    synced, real = list[tuple[bool, bool]](), os.fdatasync

    def seen(file: int) -> None:
        real(file)
        on_the_loop = threading.current_thread().name == "stor-client"
        synced.append(((tmp_path / "blob").exists(), on_the_loop))

    monkeypatch.setattr(os, "fdatasync", seen)
    client.get(name, tmp_path / "blob")
    assert synced == ([(False, False)] if size >= SYNCED else [])
    assert left_in(tmp_path) == ["blob"]


@pytest.mark.usefixtures("drafts")
@pytest.mark.parametrize("kept", [False, True])
def test_a_file_that_cannot_be_kept_leaves_nothing(tmp_path: Path, kept: bool) -> None:
    (tmp_path / "file" / "below").mkdir(parents=True)
    with pytest.raises(OSError, match="directory" if kept else "none"), Draft(str(tmp_path / "file")) as draft:  # noqa: PT012
        draft.write(b"content")
        if not kept:
            raise OSError("none")
        draft.keep(None)
    assert left_in(tmp_path) == ["file"]


@pytest.mark.parametrize("size", [10, SYNCED])
def test_a_file_whose_bytes_are_refused_when_it_is_closed_leaves_nothing(
    server: Server, client: Client, tmp_path: Path, size: int
) -> None:
    """A network filesystem may tell only then that it is full, or over a quota."""
    (name,) = lay(server, noise(size))
    disk = FaultyStorage(tmp_path)
    try:
        with disk.failing(Fault(("flush",), error="EDQUOT")), pytest.raises(OSError, match="quota"):
            client.get(name, disk.point / "blob")
        assert left_in(disk.source) == []
    finally:
        disk.close()


@pytest.mark.usefixtures("drafts")
@pytest.mark.parametrize("size", [10, 200_000])
def test_a_path_with_a_nul_is_none(server: Server, client: Client, tmp_path: Path, size: int) -> None:
    (name,) = lay(server, noise(size))
    with pytest.raises(ValueError, match="embedded null byte"):
        client.get(name, f"{tmp_path}/a\0b")
    assert left_in(tmp_path) == []


@pytest.mark.usefixtures("drafts")
@pytest.mark.parametrize("size", [10, SYNCED])
def test_what_is_no_regular_file_is_not_replaced(server: Server, client: Client, tmp_path: Path, size: int) -> None:
    """Else who has /dev/null for a target, and may, has a file there afterwards."""
    (name,) = lay(server, noise(size))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for target in ("pipe", "link"):
        with pytest.raises(FileExistsError, match=f"no regular file.*{target}"):
            client.get(name, tmp_path / target)
    assert left_in(tmp_path) == ["link", "pipe"]
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


@pytest.mark.usefixtures("drafts")
def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), Draft(str(tmp_path / "missing" / "file")):
        pass


def test_a_blob_comes_to_the_input_of_a_process(server: Server, client: Client) -> None:
    (name,) = lay(server, content := noise(LARGE))
    with subprocess.Popen(["sha256sum"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        client.get(name, process.stdin)
        said, _ = process.communicate()
    assert said.split()[0].decode() == sha(content)


def test_what_the_library_does_not_have_is_missed() -> None:
    """By who checks types as well: each `ignore` here is told of when there is nothing to ignore."""
    with pytest.raises(AttributeError, match="has no attribute 'Clientele'"):
        pystor.client.Clientele  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    "error",
    [
        BadContent("it is another"),
        ClientError("no"),
        MalformedDigest("x"),
        NoSpace("full"),
        NotFound("not found"),
        Refused("no", 403),
        TooLarge("too large"),
        Unauthorized("who?"),
        Unavailable("nobody knows", 3.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_another_process_says_what_it_said_there(error: StorError) -> None:
    here = pickle.loads(pickle.dumps(error))  # noqa: S301  it is ours
    assert (type(here), str(here), vars(here)) == (type(error), str(error), vars(error))


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_a_download_that_is_cancelled_leaves_nothing(server: Server, proxy: Proxy, tmp_path: Path) -> None:
    (name,) = lay(server, noise(LARGE))
    proxy.rate = 1 << 20

    async def interrupted() -> None:
        async with AsyncClient(proxy.endpoint) as client:
            work = asyncio.create_task(client.get(name, tmp_path / "blob"))
            await asyncio.to_thread(eventually, lambda: proxy.received > 100_000)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work

    asyncio.run(interrupted())
    assert left_in(tmp_path) == []


class Slow(io.BytesIO):
    """A file on a disk that takes its time."""

    writing = False

    def write(self, piece: Any, /) -> int:
        self.writing = True
        time.sleep(0.2)
        return super().write(piece)


def test_an_open_file_ends_where_it_stood_when_a_download_is_cancelled(server: Server) -> None:
    (name,) = lay(server, noise(LARGE))
    file = Slow(b"before")
    file.seek(0, os.SEEK_END)

    async def interrupted() -> bytes:
        async with AsyncClient(server.url) as client:
            work = asyncio.create_task(client.get(name, file))
            await asyncio.to_thread(eventually, lambda: file.writing)
            work.cancel()
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            return file.getvalue()

    assert asyncio.run(interrupted()) == b"before"  # all threads have ended now
    assert file.getvalue() == b"before"


def test_a_download_into_a_full_pipe_can_be_cancelled(server: Server) -> None:
    (name,) = lay(server, noise(LARGE))
    output, given = os.pipe()

    async def interrupted() -> None:
        async with AsyncClient(server.url) as client:
            with open(given, "wb", buffering=0) as file:  # noqa: ASYNC230  a pipe
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.get(name, file), 0.3)
                os.close(output)  # else its thread would never end

    asyncio.run(interrupted())


def test_a_request_that_is_given_up_as_it_ends_spoils_no_later_one(server: Server) -> None:
    (name,) = lay(server, noise(SMALL))

    async def again() -> bytes:
        async with AsyncClient(server.url, timeout=2) as client:
            connected = client._transport
            ask = Ask("GET", f"{server.url}/{name}")
            first = connected.exchange(ask)
            while not connected._running[first].done():  # noqa: ASYNC110  what waits is told later than pycurl is
                await asyncio.sleep(0)
            first.release()
            async with connected.exchange(ask) as next_one:
                return await next_one.body()

    assert len(asyncio.run(again())) == SMALL
