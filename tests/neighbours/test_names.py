"""Names of neighbours: a name server that is silent, one that is slow, and names with several addresses."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pystor.adapters.names import Host
from tests.neighbours.scenarios import run
from tests.neighbours.servers.names import SilentNames, named
from tests.neighbours.servers.nobody import hung
from tests.rooms.tools import no_thread_to_give
from tests.support.processes import eventually
from tests.support.server import Server


async def connected(address: str, port: int) -> str:
    _, writer = await asyncio.open_connection(address, port)
    writer.close()
    return address


def used(host: Host) -> list[str]:
    return [place[0] for _, place in host.addresses]


def test_a_name_server_that_is_silent_holds_up_neither_other_neighbours_nor_the_end(tmp_path: Path) -> None:
    with (
        SilentNames(tmp_path, {"broker.test": "127.0.0.1"}) as machine,
        socket.create_server(("127.0.0.1", 0)) as broker,
    ):
        broker.settimeout(5)
        config = {
            "memcached_servers": [f"cache{number}.hangs.test" for number in range(4)],
            "rabbitmq_uri": f"amqp://broker.test:{broker.getsockname()[1]}",
            "statsite": {"host": "statsite.hangs.test"},
        }
        with Server(tmp_path / "stor", config=config, workers=1, machine=machine) as server:
            for _ in range(3):  # it hangs up, and is connected to again and again
                broker.accept()[0].close()
            told = "memcached failed: cache0.hangs.test:11211: the host cannot be looked up"
            eventually(lambda: told in server.stderr, what=told)
            began = time.monotonic()
            server.stop()
            assert time.monotonic() - began < 6


def test_one_look_up_of_a_name_is_under_way_however_often_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = list[str](), threading.Event()

    def look_up(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        answer.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def scenario() -> None:
        host = Host("slow.test", 1)
        for _ in range(3):
            with pytest.raises(socket.gaierror, match="no name server answered within"):
                await host.look_up(0.02)
        waiting = [asyncio.create_task(host.look_up(10)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.pop().cancel()
        answer.set()
        await asyncio.gather(*waiting)
        assert (asked, used(host)) == (["slow.test"], ["127.0.0.1"])

    run(scenario())


def test_what_a_slow_name_server_says_at_last_is_used_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    real, slow = socket.getaddrinfo, threading.Event()

    def look_up(*words: Any, **options: Any) -> list[Any]:
        slow.wait(10)
        return real("127.0.0.1", *words[1:], **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def scenario(port: int) -> None:
        host = Host("slow.test", port)
        with pytest.raises(socket.gaierror):
            await host.reach(connected, 0.1)
        answer = host.ask()
        slow.set()
        await asyncio.wrap_future(answer)
        assert await host.reach(connected, 5) == "127.0.0.1"

    with hung() as port:
        run(scenario(port))


def test_what_was_found_is_used_on_while_nobody_answers_for_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(port: int) -> None:
        known = {"a.test": ["127.0.0.1"]}
        named(monkeypatch, known)
        host = Host("a.test", port)
        assert await host.reach(connected, 1) == "127.0.0.1"
        known["a.test"] = ["no-such-host.invalid"]
        assert await host.reach(connected, 1) == "127.0.0.1"
        monkeypatch.setattr(socket, "getaddrinfo", be_silent)
        assert await host.reach(connected, 1) == "127.0.0.1"
        over.set()

    over = threading.Event()

    def be_silent(*_: object, **__: object) -> None:
        over.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "no name server answered")

    with hung() as port:
        run(scenario(port))


def test_a_name_that_no_host_can_have_is_an_answer() -> None:
    async def scenario() -> None:
        with pytest.raises(socket.gaierror, match="no host has such a name"):
            await Host("a..test", 1).look_up(10)

    run(scenario())


def test_a_host_is_looked_up_when_the_system_has_a_thread_to_give_again() -> None:
    async def scenario() -> None:
        host = Host("127.0.0.1", 1)
        with no_thread_to_give(), pytest.raises(BlockingIOError, match="can't start new thread"):
            await host.look_up(10)
        await host.look_up(10)
        assert used(host) == ["127.0.0.1"]

    run(scenario())


def test_a_name_that_nobody_knew_is_found_when_somebody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        known = {"a.test": ["no-such-host.invalid"]}
        named(monkeypatch, known)
        host = Host("a.test", 1)
        for _ in range(2):
            with pytest.raises(socket.gaierror):
                await host.look_up(10)
        known["a.test"] = ["127.0.0.1"]
        await host.look_up(10)
        assert used(host) == ["127.0.0.1"]

    run(scenario())


def test_the_address_that_worked_is_tried_first_as_long_as_the_name_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(port: int) -> None:
        known = {"a.test": ["127.0.0.4", "127.0.0.3", "127.0.0.1"]}
        named(monkeypatch, known)
        host = Host("a.test", port)
        assert await host.reach(connected, 1) == "127.0.0.1"
        known["a.test"] = ["127.0.0.5", "127.0.0.1"]
        await host.look_up(1)
        assert used(host) == ["127.0.0.1", "127.0.0.5"]
        known["a.test"] = ["127.0.0.6"]
        await host.look_up(1)
        assert used(host) == ["127.0.0.6"]
        with pytest.raises(ConnectionRefusedError):
            await host.reach(connected, 1)

    with hung() as port:
        run(scenario(port))


def test_a_place_is_written_with_its_ipv6_address_in_brackets() -> None:
    assert [Host(name, 80).place for name in ("a.test", "::1")] == ["a.test:80", "[::1]:80"]


def test_each_address_has_its_turn_however_often_the_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        known = {"a.test": ["127.0.0.1", "127.0.0.2", "127.0.0.3"]}
        named(monkeypatch, known)
        host, seen = Host("a.test", 1), list[str]()
        for _ in range(4):
            await host.look_up(1)
            seen.append(used(host)[0])
            host.turn()
        assert seen == ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.1"]
        known["a.test"] = ["127.0.0.4", "127.0.0.1", "127.0.0.3"]
        await host.look_up(1)
        assert used(host) == ["127.0.0.3", "127.0.0.1", "127.0.0.4"]

    run(scenario())


def test_an_address_of_a_link_is_reached_by_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attempt(address: str, _: int) -> str:
        return address

    place = ("fe80::1", 1, 0, socket.if_nametoindex("lo"))
    answer = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", place)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)

    async def scenario() -> None:
        assert await Host("link.test", 1).reach(attempt, 1) == "fe80::1%lo"

    run(scenario())


def test_each_address_has_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attempt(address: str, _: int) -> str:
        await asyncio.sleep(0 if address == "127.0.0.3" else 10)
        return address

    async def scenario() -> None:
        named(monkeypatch, {"a.test": ["127.0.0.1", "127.0.0.2", "127.0.0.3"], "b.test": ["127.0.0.1", "127.0.0.2"]})
        began = time.monotonic()
        assert await Host("a.test", 1).reach(attempt, 0.6) == "127.0.0.3"
        with pytest.raises(TimeoutError):
            await Host("b.test", 1).reach(attempt, 0.2)
        assert time.monotonic() - began < 5

    run(scenario())


def test_who_takes_datagrams_is_asked_by_ipv4_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        named(monkeypatch, {"two.test": ["::1", "127.0.0.1"]})
        host = Host("two.test", 1, socket.SOCK_DGRAM)
        await host.look_up(1)
        assert used(host) == ["127.0.0.1", "::1"]

    run(scenario())
