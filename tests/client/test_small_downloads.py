"""What `stor get` does first: small blobs over a few sockets; what is not one is left, and nothing is made of it."""

from __future__ import annotations

import os
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pystor.client.bulk import AHEAD, Done, Event, Failed, Skipped
from pystor.client.downloads import Downloads, Input, Naming
from pystor.client.servers import Server as Address
from pystor.client.servers import ranked
from pystor.client.small import SMALL
from pystor.client.small_downloads import SmallDownloads
from pystor.digest import Digest
from tests.client.conftest import lay, sha
from tests.client.test_library import left_in, noise
from tests.client.trouble import heal
from tests.neighbours.servers.proxy import Proxy
from tests.support.processes import eventually
from tests.support.server import Server

AT_ONCE = 4
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n"


@dataclass
class Run:
    """Small downloads into a directory."""

    directory: Path
    timeout: float = 5.0
    events: list[Event] = field(default_factory=list)
    at_once: int = AT_ONCE

    def get(self, endpoints: Sequence[str], names: Sequence[str], descriptor: int | None = None) -> list[str]:
        """Download, and tell what is left."""
        given = Input(self.events.append, [Digest(name) for name in names], descriptor)
        return self.go(endpoints, given)

    def go(self, endpoints: Sequence[str], given: Input, meanwhile: Callable[[], None] = lambda: None) -> list[str]:
        downloads = Downloads(Naming(str(self.directory)), self.events.append)
        servers = [Address.parse(each) for each in endpoints]
        small_downloads = SmallDownloads(servers, downloads, at_once=self.at_once, timeout=self.timeout)
        left = small_downloads.run(given, meanwhile)
        assert downloads._begun == {}  # whoever comes next may begin all that is left
        return [digest.hex for digest in left]

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def out(tmp_path: Path) -> Run:
    (tmp_path / "out").mkdir()
    return Run(tmp_path / "out")


def assert_came(out: Run, names: Sequence[str], contents: Sequence[bytes]) -> None:
    assert left_in(out.directory) == sorted(names)
    assert all((out.directory / name).read_bytes() == content for name, content in zip(names, contents, strict=True))
    assert sorted(done.name for done in out.of(Done)) == sorted(names)


def test_small_ones_come_over_as_many_connections_as_may_be_used_at_once(
    server: Server, proxy: Proxy, out: Run
) -> None:
    contents = [noise(size) + b"%d" % n if size else b"" for n, size in enumerate((0, *(1, 4096, SMALL - 9) * 30))]
    names = lay(server, *contents)
    assert out.get([proxy.endpoint], names) == []
    assert_came(out, names, contents)
    assert proxy.connections == AT_ONCE
    path = Path(server.pairs[0][0], Digest(names[0]).path)
    assert (out.directory / names[0]).stat().st_mtime == int(path.stat().st_mtime)


def test_what_is_there_or_is_asked_for_twice_is_skipped(server: Server, proxy: Proxy, out: Run) -> None:
    contents = [noise(10), noise(11)]
    names = lay(server, *contents)
    (out.directory / names[0]).write_bytes(contents[0])
    assert out.get([proxy.endpoint], [*names, names[1].upper().lower()]) == []
    assert [skipped.why for skipped in out.of(Skipped)] == ["it exists", "it is being downloaded already"]
    assert_came(Run(out.directory, events=[*out.events, Done(names[0], "", 10, 0.0)]), names, contents)


@pytest.mark.parametrize("kind", ["large", "missing", "flip", "cut", "hang", "refusal", "close", "reset"])
def test_one_that_is_not_as_usual_is_left_and_the_others_come(
    server: Server, proxy: Proxy, out: Run, kind: str
) -> None:
    contents = [noise(4000 + n) for n in range(30)]
    contents[9] = noise(SMALL + 1 if kind == "large" else 4096)
    names = lay(server, *contents)
    if kind == "missing":
        for storage in server.pairs[0]:
            Path(storage, Digest(names[9]).path).unlink()
    if kind not in {"large", "missing"}:
        out.timeout = 0.3
        proxy.trigger, proxy.garbage = (
            names[9].encode(),
            {
                "flip": GOOD + noise(4096),
                "cut": GOOD + contents[9][:-1],
                "hang": GOOD,
                "refusal": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
                "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4096\r\n\r\n" + contents[9],
                "reset": b" ",
            }[kind],
        )
    assert out.get([proxy.endpoint], names) == [names[9]]
    del names[9], contents[9]
    assert_came(out, names, contents)
    assert proxy.connections <= AT_ONCE + 1


def test_a_server_that_says_no_to_everything_is_not_asked_for_everything(proxy: Proxy, out: Run) -> None:
    names = [sha(b"missing %d" % n) for n in range(100)]
    proxy.trigger, proxy.garbage = b"GET", b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    assert sorted(out.get([proxy.endpoint], names)) == sorted(names)
    assert len(proxy.asked) < 2 * AT_ONCE
    assert (out.of(Failed), left_in(out.directory)) == ([], [])


@pytest.mark.parametrize(("each", "given_up"), [(10, False), (2, True)])
def test_a_server_is_given_up_where_many_are_lost_among_those_that_come(
    server: Server, out: Run, each: int, given_up: bool
) -> None:
    """Each of them costs a connection, and is asked for twice."""
    out.at_once = 1
    contents = [noise(20 + n) for n in range(100)]
    names, missing = lay(server, *contents), [sha(b"missing %d" % n) for n in range(100 // each)]
    mixed = [name for n, name in enumerate(names) for name in ([missing[n // each], name] if n % each == 0 else [name])]
    left = out.get([server.url], mixed)
    assert set(left) >= set(missing)
    assert (left == missing) != given_up
    came = [n for n, name in enumerate(names) if name not in left]
    assert_came(out, [names[n] for n in came], [contents[n] for n in came])
    assert bool(came)


def test_a_server_that_is_away_is_tried_once(proxy: Proxy, out: Run) -> None:
    names, tried = [sha(b"missing %d" % n) for n in range(100)], []
    connect = socket.create_connection

    def counted(*given: Any, **named: Any) -> socket.socket:
        tried.append(given)
        return connect(*given, **named)

    proxy.refuse()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_connection", counted)
        assert sorted(out.get([proxy.endpoint], names)) == sorted(names)
    assert len(tried) == 1


def test_one_that_hangs_is_left_when_patience_is_over(server: Server, proxy: Proxy, out: Run) -> None:
    (name,) = lay(server, noise(10))
    proxy.hang, out.timeout = True, 0.3
    began = time.monotonic()
    assert out.get([proxy.endpoint], [name]) == [name]
    assert 0.3 <= time.monotonic() - began < 3


def test_of_several_servers_each_is_asked_for_its_own(server: Server, proxy: Proxy, out: Run) -> None:
    with Proxy(("127.0.0.1", server.port)) as second:
        endpoints = [proxy.endpoint, second.endpoint]
        addresses = [Address(each) for each in endpoints]
        contents = [noise(50 + n) for n in range(60)]
        names = lay(server, *contents)
        first = {name: ranked(addresses, Digest(name))[0].url for name in names}
        assert set(first.values()) == set(endpoints)
        assert out.get(endpoints, names) == []
        assert_came(out, names, contents)
        for each in (proxy, second):
            asked = {piece[5:64].decode() for piece in each.asked}
            assert asked == {name[:59] for name in names if first[name] == each.endpoint}


def test_a_server_that_is_away_holds_up_nobody_who_asks_another(server: Server, proxy: Proxy, out: Run) -> None:
    with Proxy(("127.0.0.1", server.port)) as away:
        away.refuse()
        endpoints = [proxy.endpoint, away.endpoint]
        contents = [noise(50 + n) for n in range(60)]
        names = lay(server, *contents)
        first = {name: ranked([Address(each) for each in endpoints], Digest(name))[0].url for name in names}
        left = out.get(endpoints, names)
        assert sorted(left) == sorted(name for name in names if first[name] == away.endpoint)
        came = [n for n, name in enumerate(names) if name not in left]
        assert_came(out, [names[n] for n in came], [contents[n] for n in came])


def test_a_connection_that_is_lost_before_its_turn_to_be_looked_at_is_left_alone(
    server: Server, proxy: Proxy, out: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came of one server may be answered with a request to another, whose reset was told in the same moment."""
    gate, made = threading.Event(), select.poll

    class Held:
        def __init__(self) -> None:
            self.real = made()
            self.register, self.unregister, self.modify = self.real.register, self.real.unregister, self.real.modify

        def poll(self, most: float) -> list[tuple[int, int]]:
            gate.wait(20)
            return self.real.poll(most)

    monkeypatch.setattr(select, "poll", Held)
    out.at_once = 2
    with Proxy(("127.0.0.1", server.port)) as second:
        addresses = [Address(proxy.endpoint), Address(second.endpoint)]
        names = lay(server, *(noise(50 + n) for n in range(60)))
        one, two, three = (
            [name for name in names if ranked(addresses, Digest(name))[0].url == url][n]
            for url, n in ((proxy.endpoint, 0), (second.endpoint, 0), (second.endpoint, 1))
        )
        reader, writer = os.pipe()
        os.write(writer, f"{one} {two}".encode())
        proxy.hang = True
        gate.set()

        def go_on() -> None:
            eventually(lambda: bool(out.of(Done)))
            gate.clear()
            time.sleep(0.3)  # whoever waits now, waits for the gate
            os.write(writer, three.encode())
            os.close(writer)
            proxy.hang = False
            second.reset()
            time.sleep(0.5)
            gate.set()

        thread = threading.Thread(target=go_on)
        thread.start()
        assert out.get([proxy.endpoint, second.endpoint], [], reader) == [three]
        thread.join()
        os.close(reader)
    assert sorted(done.name for done in out.of(Done)) == sorted([one, two])


@pytest.mark.parametrize("bound", ["number", "time"])
def test_whoever_is_left_does_not_wait_for_all_others(
    server: Server, proxy: Proxy, out: Run, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr("pystor.client.small_downloads._MOST_LEFT", 5 if bound == "number" else 10**9)
    monkeypatch.setattr("pystor.client.small_downloads._LONGEST", 60.0 if bound == "number" else 0.3)
    names = lay(server, *(noise(20 + n) for n in range(500)))
    mixed = [name for pair in zip(names, (sha(b"missing %d" % n) for n in range(500)), strict=True) for name in pair]
    proxy.delay = 0.0 if bound == "number" else 0.02
    left = out.get([proxy.endpoint], mixed)
    came = [done.name for done in out.of(Done)]
    assert sorted(left + came) == sorted(mixed)
    assert 0 < len(came) < 400


def test_what_came_while_nobody_looked_is_not_late(server: Server, proxy: Proxy, out: Run) -> None:
    contents = [noise(100 + n) for n in range(60)]
    names, slept = lay(server, *contents), list[float]()
    out.timeout, proxy.delay = 0.4, 0.05

    def sleep() -> None:
        if not slept:
            slept.append(1.5)
            time.sleep(1.5)

    given = Input(out.events.append, [Digest(name) for name in names])
    assert out.go([proxy.endpoint], given, sleep) == []
    assert_came(out, names, contents)
    assert slept


def test_there_are_not_more_connections_than_descriptors(
    server: Server, proxy: Proxy, out: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = list[tuple[int, int]]()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (35, 40))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    contents = [noise(100 + n) for n in range(60)]
    names, out.at_once = lay(server, *contents), 1000
    assert out.get([proxy.endpoint], names) == []
    assert_came(out, names, contents)
    assert (proxy.connections, raised) == (8, [(40, 40)])


def test_a_name_of_no_host_is_nobody_s(out: Run) -> None:
    name = sha(b"blob")
    assert out.get(["http://host..example"], [name]) == [name]


def test_what_the_reader_of_the_events_raises_is_raised_and_all_is_closed(
    server: Server, proxy: Proxy, out: Run
) -> None:
    names = lay(server, noise(70), noise(71))

    def fail() -> None:
        raise BrokenPipeError("nobody listens")

    proxy.hang = True
    given = Input(out.events.append, [Digest(name) for name in names])
    with pytest.raises(BrokenPipeError, match="nobody listens"):
        out.go([proxy.endpoint], given, fail)
    proxy.hang = False
    eventually(lambda: all(client.fileno() < 0 or client.recv(1) == b"" for client, _ in proxy._pairs))


@pytest.mark.parametrize("moment", ["at once", "after a while"])
def test_a_request_that_does_not_fit_into_the_socket_goes_on(
    server: Server, out: Run, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class Narrow(socket.socket):
        def send(self, data: bytes, *_: Any) -> int:  # type: ignore[override]
            if moment == "after a while" and not hasattr(self, "asked"):
                self.asked = True
                raise BlockingIOError
            return super().send(data[:10])

        __slots__ = ("asked",)

    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda *given: Narrow(fileno=connect(*given).detach()))
    contents = [noise(100 + n) for n in range(20)]
    names = lay(server, *contents)
    assert out.get([server.url], names) == []
    assert_came(out, names, contents)


def test_a_connection_that_ends_between_two_blobs_is_made_again(server: Server, proxy: Proxy, out: Run) -> None:
    contents = [noise(10), noise(11)]
    names = lay(server, *contents)
    reader, writer = os.pipe()

    def write() -> None:
        os.write(writer, names[0].encode())
        eventually(lambda: bool(out.of(Done)))  # nothing waits for the end of the input
        proxy.reset()
        time.sleep(0.1)
        os.write(writer, names[1].encode())
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    assert out.get([proxy.endpoint], [], reader) == []
    thread.join()
    os.close(reader)
    assert_came(out, names, contents)
    assert proxy.connections == 2


def test_whoever_is_left_does_not_wait_for_the_rest_of_the_input(server: Server, proxy: Proxy, out: Run) -> None:
    content = noise(10)
    (name,), missing = lay(server, content), sha(b"missing")
    reader, writer = os.pipe()
    os.write(writer, f"{missing} {name}".encode())
    given = Input(out.events.append, (), reader)
    assert out.go([proxy.endpoint], given) == [missing]
    assert given.descriptor == reader
    os.close(writer)
    os.close(reader)
    assert_came(out, [name], [content])


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_the_input_is_read_no_further_than_is_of_use(
    server: Server, proxy: Proxy, out: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("pystor.client.small_downloads.AHEAD", 50)
    contents = [noise(20 + n) for n in range(2500)]
    names = lay(server, *contents)
    (tmp_path / "list").write_text("\n".join(names))
    most, listen = [0], SmallDownloads._listen

    def measured(self: SmallDownloads, descriptor: int | None) -> None:
        most.append(len(self._ahead))
        listen(self, descriptor)

    monkeypatch.setattr(SmallDownloads, "_listen", measured)
    with (
        subprocess.Popen(["cat", tmp_path / "list"], stdout=subprocess.PIPE) as cat,
        (tmp_path / "list").open() as file,
    ):
        assert cat.stdout is not None
        descriptor = file.fileno() if kind == "file" else cat.stdout.fileno()
        assert out.get([proxy.endpoint], [], descriptor) == []
        cat.stdout.close()
    assert_came(out, names, contents)
    assert max(most) < 50 + (64 << 10) // 64
    assert AHEAD > 50


@pytest.mark.parametrize(
    ("urls", "environment", "suits"),
    [
        (["http://one", "http://two"], {}, True),
        (["http://one", "https://two"], {}, False),
        (["http://one"], {"http_proxy": "http://127.0.0.1:9"}, False),
        (["http://one"], {"ALL_PROXY": "http://127.0.0.1:9"}, False),
    ],
)
def test_what_libcurl_knows_better_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch, urls: list[str], environment: dict[str, str], suits: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert SmallDownloads.suits([Address.parse(url) for url in urls]) == suits


def test_nothing_is_loaded_that_small_ones_do_not_need(server: Server, tmp_path: Path) -> None:
    """An event loop and an HTTP library take longer to load than two thousand blobs to come."""
    names = lay(server, noise(10), noise(11))
    code = (
        "import sys; from pystor.cli import main; status = main(sys.argv[1:]); "
        "assert not {'asyncio', 'uvloop', 'pycurl', 'ssl', 'logging', 'inspect', 'email'} & set(sys.modules); "
        "sys.exit(status)"
    )
    command = [sys.executable, "-S", "-c", code, "get", "-u", server.url, *names, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, left_in(tmp_path)) == (0, sorted(names)), done.stderr


def test_trouble_that_comes_and_goes_loses_nothing(server: Server, proxy: Proxy, out: Run) -> None:
    contents = [noise(100 + n) for n in range(200)]
    names = lay(server, *contents)
    breaking = threading.Timer(0.02, proxy.reset)
    breaking.start()
    left = out.get([proxy.endpoint], names)
    breaking.join()
    heal(proxy)
    assert out.get([proxy.endpoint], left) == []
    assert_came(out, names, contents)
