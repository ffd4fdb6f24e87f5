"""How long the client goes on with servers that are in trouble: as often as it was told, and when they ask it to."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.utils import formatdate
from itertools import count, islice
from pathlib import Path

import pytest

from pystor.client import AsyncClient, BadContent, Client, Digest, Retry, Unavailable
from pystor.client.plain_http import USUAL
from pystor.client.retry import Tries
from pystor.client.servers import Server as Address
from pystor.client.servers import ranked
from pystor.client.unreachable import Unreachable
from tests.client.conftest import sha
from tests.client.scripted import Asked, Scripted, answer, busy
from tests.client.test_commands import Shell
from tests.client.test_library import noise
from tests.support.server import Server


@pytest.fixture
def shell(server: Server, tmp_path: Path) -> Shell:
    return Shell(server, tmp_path)


@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_bad_content_ends_the_tries_however_much_of_it_came(size: int) -> None:
    content = noise(size)
    with (
        Scripted(lambda _: answer(200, content)) as bad,
        Client(bad.url, retry=Retry(3, 0.01)) as client,
        pytest.raises(BadContent),
    ):
        client.get(sha(b"another"))
    assert len(bad.asked) == 3


# How often, and when


def run(shell: Shell, server: Scripted, *words: str) -> int:
    return shell.run(
        "stor", "get", "--delay", "10ms", "--timeout", "300ms", *words, "out", STOR_URL=server.url
    ).returncode


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize(
    "said",
    [busy(), busy(status=429), answer(200, b"garbled"), b"H", b"HTTP/1.1 500 No\r\n"],
    ids=["503", "429", "garbled", "a letter", "half"],
)
def test_a_command_asks_as_often_as_it_was_told(shell: Shell, attempts: int, said: bytes) -> None:
    with Scripted(lambda _: said) as server:
        assert run(shell, server, "--attempts", str(attempts), sha(b"blob")) == 1
    assert len(server.asked) == attempts


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 So\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nblob\r\n0\r\n\r\n",
        b"HTTP/1.1 200 So\r\nContent-Length: 1234567890\r\n\r\nblob",
        b"HTTP/1.1 103 So\r\n\r\n" + answer(200, b"blob"),
        answer(302, b"", "Location: /there"),
    ],
    ids=["chunked", "more than a gigabyte", "interim", "redirected"],
)
def test_what_is_led_on_or_comes_in_another_way_is_no_try_that_failed(shell: Shell, said: bytes) -> None:
    with Scripted(lambda asked: answer(200, b"blob") if asked.number else said) as server:
        assert run(shell, server, "--attempts", "1", sha(b"blob")) == 0
    assert [asked.path for asked in server.asked] == [f"/{sha(b'blob')}"] * 2


def test_a_command_asks_again_when_the_server_wishes(shell: Shell) -> None:
    with Scripted(lambda asked: answer(200, b"blob") if asked.number else busy(1)) as server:
        assert run(shell, server, sha(b"blob")) == 0
    assert [pause >= 1 for pause in server.pauses] == [True]


def test_a_space_after_the_wish_is_none_of_it(shell: Shell) -> None:
    said = answer(503, b"", "Retry-After: 1 ")
    with Scripted(lambda asked: answer(200, b"blob") if asked.number else said) as server:
        assert run(shell, server, sha(b"blob")) == 0
    assert [pause >= 1 for pause in server.pauses] == [True]


def test_a_date_in_the_wish_is_one_to_come(shell: Shell) -> None:
    def script(asked: Asked) -> bytes:
        if asked.number:
            return answer(200, b"blob")
        return answer(503, b"", f"Retry-After: {formatdate(time.time() + 2, usegmt=True)}")

    with Scripted(script) as server:
        assert run(shell, server, sha(b"blob")) == 0
    assert [0.8 <= pause < 3 for pause in server.pauses] == [True]


@pytest.mark.parametrize("verb", ["get", "put"])
def test_the_first_try_of_a_small_one_in_a_row_counts_as_well(verb: str) -> None:
    """The blobs before it were small: this one is asked for over a connection of our own."""

    def script(asked: Asked) -> bytes:
        return answer(200, b"blob") if asked.number < USUAL else busy(1)

    with Scripted(script) as server, Client(server.url, retry=Retry(2, 0.01)) as client:
        for _ in range(USUAL):
            client.get(sha(b"blob"))
        with pytest.raises(Unavailable, match="Busy"):
            client.get(sha(b"blob")) if verb == "get" else client.put(b"blob")
        assert len(server.asked) == USUAL + 2
        assert server.pauses[-1] >= 1


@pytest.mark.parametrize("first", [False, True])
def test_of_all_who_were_asked_the_longest_wish_is_heeded(first: bool) -> None:
    order = ["wishes", "does not"] if first else ["does not", "wishes"]
    tries = Tries(Retry(3, 0.001), order)
    wish = {"wishes": Unavailable("a", 7), "does not": Unavailable("b")}
    assert tries.after(wish[tries.target]) == 0
    assert tries.after(wish[tries.target]) == 7
    assert [tries.after(Unavailable("c")) < 1 for _ in order] == [True, True]  # it was for that time


# A server that is away


@contextmanager
def black_hole() -> Iterator[str]:
    """A server whose machine drops packets: its queue of connections is full."""
    with socket.socket() as listening, ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def hangs() -> Iterator[str]:
    """A server that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_how_long_an_answer_was_waited_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server has a while for what it may have to read, and that is told as well."""
    monkeypatch.setattr("pystor.client.transport._HASHED", 1_000_000)
    with (
        hangs() as away,
        Client(away, timeout=0.3, retry=Retry(1)) as client,
        pytest.raises(Unavailable, match=r"no answer within 0\.5 s"),
    ):
        client.put(noise(200_000))


@pytest.mark.parametrize("kind", ["drops packets", "hangs"])
@pytest.mark.parametrize("verb", ["get", "head", "put"])
def test_a_server_that_is_away_costs_its_patience_once_and_not_for_each_blob(
    monkeypatch: pytest.MonkeyPatch, kind: str, verb: str
) -> None:
    monkeypatch.setattr("pystor.client.aio.PROMPT", 0.3)
    by_name = {sha(content): content for content in (b"blob %d" % number for number in range(40))}

    def script(asked: Asked) -> bytes:
        return (
            answer(201, b'["there"]')
            if verb == "put"
            else answer(200, b"" if verb == "head" else by_name[asked.path[1:]])
        )

    with (
        black_hole() if kind == "drops packets" else hangs() as away,
        Scripted(script) as there,
        Client([there.url, away], timeout=9 if kind == "drops packets" else 0.3) as client,
    ):
        began = time.monotonic()
        for name, content in by_name.items():
            match verb:
                case "get":
                    assert client.get(name) == content
                case "head":
                    client.head(name)
                case "put":
                    client.put(content)
        assert time.monotonic() - began < 4


def test_a_server_that_is_away_is_asked_last_for_some_seconds_or_until_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    servers, away = [Address(f"http://host{number}") for number in range(3)], Unreachable(30)
    first, second, third = servers
    assert away.last(servers) == servers
    away.note(f"{first.url}/name")
    assert away.last(servers) == [second, third, first]
    away.note(f"{second.url}/name")
    assert away.last(servers) == [third, first, second]
    away.back(f"{first.url}/another")
    assert away.last(servers) == [first, third, second]
    now += 11
    assert away.last(servers) == servers


def test_when_a_server_was_away_for_a_while_one_finds_out_whether_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    servers, away = [Address(f"http://host{number}") for number in range(2)], Unreachable(30)
    first, second = servers
    away.note(first.url)
    now += 11
    assert away.last([second, first]) == [second, first]  # it would not be asked
    for wait in 29, 11:  # the second time it is known to be away still
        assert away.last(servers) == servers
        now += wait
        assert away.last(servers) == [second, first]
        away.note(first.url)
        now += 11
    away.back(first.url)
    assert [away.last(servers), away.last(servers)] == [servers, servers]


def preferring(url: str, other: str) -> Iterator[bytes]:
    """Blobs for which one of two servers is asked first."""
    servers = [Address.parse(each) for each in (url, other)]
    contents = (b"blob %d" % number for number in count())
    return (content for content in contents if ranked(servers, Digest.of(content))[0].url == url)


def test_a_server_that_hangs_keeps_one_at_a_time_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pystor.client.unreachable._SECONDS", 0.2)

    async def timed(client: AsyncClient, content: bytes) -> bool:
        began = time.monotonic()
        assert await client.exists(sha(content))
        return time.monotonic() - began >= 0.4

    async def ask() -> None:
        async with AsyncClient([away, there.url], timeout=0.4) as client:
            blobs = preferring(away, there.url)
            assert await timed(client, next(blobs))
            await asyncio.sleep(0.25)
            late = await asyncio.gather(*(timed(client, next(blobs)) for _ in range(8)))
            assert sum(late) == 1

    with hangs() as away, Scripted(lambda _: answer(200)) as there:
        asyncio.run(ask())


@pytest.mark.parametrize("verb", ["get", "put"])
def test_a_server_that_hangs_when_the_usual_small_ones_are_asked_for_is_asked_last(verb: str) -> None:
    def script(asked: Asked) -> bytes:
        return good(asked) if asked.number < USUAL else b"H"

    def good(asked: Asked) -> bytes:
        return answer(200, by_name[asked.path[1:]]) if verb == "get" else answer(201, b'["there"]')

    with (
        Scripted(script) as once,
        Scripted(good) as there,
        Client([once.url, there.url], timeout=0.3, retry=Retry(2, 0.01)) as client,
    ):
        contents = list(islice(preferring(once.url, there.url), USUAL + 40))
        by_name = {sha(content): content for content in contents}
        for name, content in by_name.items():
            client.get(name) if verb == "get" else client.put(content)
        assert len(once.asked) == USUAL + 1
