"""What is posted in a turn of the event loop is sent in one system call."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from pystor import posix, uring
from pystor.outbox import LARGEST, Outbox

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    """A hundred connections: our end, which does not wait, and the other."""
    found = [socket.socketpair() for _ in range(100)]
    for ours, theirs in found:
        ours.setblocking(False)
        theirs.setblocking(False)
    yield found
    for pair in found:
        for end in pair:
            end.close()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries each submission had."""
    found: list[int] = []
    real = posix.call

    def counted(number: int, *arguments: Any) -> int:
        if number == uring._SYS_ENTER:
            found.append(arguments[1])
        return real(number, *arguments)

    monkeypatch.setattr(posix, "call", counted)
    return found


def fail(rest: bytes) -> None:
    pytest.fail(f"{len(rest)} bytes were not sent")


def run(work: Callable[[Outbox], Awaitable[None]]) -> None:
    async def go() -> None:
        await work(Outbox(asyncio.get_running_loop()))

    asyncio.run(go())


def test_what_is_posted_in_a_turn_leaves_in_one_call_to_each_its_own(pairs: list[Pair], calls: list[int]) -> None:
    async def work(outbox: Outbox) -> None:
        for _ in range(3):
            turns = {
                outbox.post(ours.fileno(), b"head %d, " % number, memoryview(b"body"), fail)
                for number, (ours, _) in enumerate(pairs[:50])
            }
            assert turns == {outbox.turn}
            with pytest.raises(BlockingIOError):
                pairs[0][1].recv(100)
            await asyncio.sleep(0)
            assert turns != {outbox.turn}
            assert [theirs.recv(100) for _, theirs in pairs[:50]] == [b"head %d, body" % n for n in range(50)]

    run(work)
    assert calls == [50, 50, 50]


def test_more_than_there_is_room_for_takes_more_calls(pairs: list[Pair], calls: list[int]) -> None:
    async def work(outbox: Outbox) -> None:
        turns = [outbox.post(ours.fileno(), b"x" * LARGEST, b"", fail) for ours, _ in pairs]
        assert turns == [0] * 64 + [1] * 36
        await asyncio.sleep(0)
        assert [theirs.recv(LARGEST + 1) for _, theirs in pairs] == [b"x" * LARGEST] * 100
        await asyncio.sleep(0)
        assert outbox.takes(1)

    run(work)
    assert calls == [64, 36]


def test_what_is_asked_for_earlier_leaves_earlier_and_once(pairs: list[Pair]) -> None:
    async def work(outbox: Outbox) -> None:
        (ours, theirs), *_ = pairs
        for number in range(5):
            outbox.post(ours.fileno(), b"%d" % number, b"", fail)
            outbox.flush()
            outbox.flush()
        assert theirs.recv(100) == b"01234"
        await asyncio.sleep(0)
        with pytest.raises(BlockingIOError):
            theirs.recv(100)

    run(work)


@pytest.mark.parametrize("beside", [0, 3])
def test_what_a_socket_does_not_take_is_told(pairs: list[Pair], beside: int) -> None:
    async def work(outbox: Outbox) -> None:
        (full, reader), (broken, gone), *others = pairs
        gone.close()
        poured = 0
        while True:
            try:
                poured += full.send(b"x" * 1000)
            except BlockingIOError:
                break
        rests: list[tuple[str, bytes]] = []
        outbox.post(full.fileno(), b"head", b"body", lambda rest: rests.append(("full", rest)))
        outbox.post(broken.fileno(), b"head", b"", lambda rest: rests.append(("broken", rest)))
        for ours, _ in others[:beside]:
            outbox.post(ours.fileno(), b"head", b"", fail)
        await asyncio.sleep(0)
        assert rests == [("full", b"headbody"), ("broken", b"head")]
        assert [theirs.recv(100) for _, theirs in others[:beside]] == [b"head"] * beside
        assert len(reader.recv(1 << 30)) == poured

    run(work)


def test_of_what_a_socket_takes_in_part_the_rest_is_told(pairs: list[Pair]) -> None:
    async def work(outbox: Outbox) -> None:
        (ours, theirs), (other, _), *_ = pairs
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # which is the least that the kernel allows
        content, rests = os.urandom(LARGEST), list[bytes]()
        outbox.post(other.fileno(), b"beside", b"", fail)
        outbox.post(ours.fileno(), content[:100], content[100:], rests.append)
        await asyncio.sleep(0)
        (rest,) = rests
        assert 0 < len(rest) < LARGEST
        assert theirs.recv(LARGEST) + rest == content

    run(work)


def test_what_is_too_large_is_not_taken_nor_what_comes_alone_for_a_while(pairs: list[Pair], calls: list[int]) -> None:
    async def work(outbox: Outbox) -> None:
        assert (outbox.takes(LARGEST), outbox.takes(LARGEST + 1)) == (True, False)
        outbox.post(pairs[0][0].fileno(), b"alone", b"", fail)
        await asyncio.sleep(0)
        assert [outbox.takes(1) for _ in range(33)] == [False] * 32 + [True]
        for ours, _ in pairs[:10]:
            outbox.post(ours.fileno(), b"together", b"", fail)
        await asyncio.sleep(0)
        assert outbox.takes(1)

    run(work)
    assert calls == [1, 10]


def test_without_io_uring_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uring, "_SYS_SETUP", 9999)

    async def work(outbox: Outbox) -> None:
        assert not outbox.takes(0)
        assert not outbox.takes(1)

    run(work)


@pytest.mark.parametrize("count", [5, 70])
@pytest.mark.parametrize("done", [0, 1, 3])
def test_when_io_uring_fails_what_it_did_not_send_is_told_and_nothing_is_taken_any_more(
    pairs: list[Pair], monkeypatch: pytest.MonkeyPatch, done: int, count: int
) -> None:
    real = posix.call

    def short(number: int, fd: int, _count: int, _least: int, *rest: Any) -> int:
        assert number == uring._SYS_ENTER
        return real(number if done else 9999, fd, done, done, *rest)

    async def work(outbox: Outbox) -> None:
        monkeypatch.setattr(posix, "call", short)
        rests: list[bytes] = []
        for number, (ours, _) in enumerate(pairs[:count]):
            outbox.post(ours.fileno(), b"%d" % number, b"", rests.append)
        await asyncio.sleep(0)
        assert rests == [b"%d" % number for number in range(done, count)]
        assert [theirs.recv(9) for _, theirs in pairs[:done]] == [b"0", b"1", b"2"][:done]
        assert not outbox.takes(0)
        assert not outbox.takes(1)
        for _, theirs in pairs[done:count]:
            with pytest.raises(BlockingIOError):
                theirs.recv(9)

    run(work)


def test_an_outbox_gives_back_what_it_has() -> None:
    gc.collect()  # what other tests have left
    before = len(os.listdir("/proc/self/fd"))

    async def work(outbox: Outbox) -> None:
        assert len(os.listdir("/proc/self/fd")) > before
        del outbox

    run(work)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
