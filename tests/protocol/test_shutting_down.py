"""The protocol on real sockets. The end of a server: who is still answered, and for how long."""

from __future__ import annotations

import time

import pytest

from pystor.http import server
from tests.protocol.site import Site, get, introduce, post, sent, status, taking
from tests.support.processes import eventually


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
            answer = client.rest()
    assert status(answer) == expected
    assert (b"\r\nretry-after: " in answer) == (expected == 503)


@pytest.mark.parametrize(("name", "expected"), [("shortlate", 200), ("shortstall", 503)])
def test_shutting_down_waits_for_the_short_way_for_a_while(name: str, expected: int) -> None:
    with Site() as running, running.connect() as client:
        introduce(client, b"x-known: end")
        running.app.events.clear()
        client.send(sent(name, b"a body", b"x-known: end"))
        eventually(lambda: running.app.events == ["short"])
        running.stop()
        with taking(0.0, 5.0):
            answer = client.rest()
    assert status(answer) == expected
    assert (b"\r\nretry-after: " in answer) == (expected == 503)
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
