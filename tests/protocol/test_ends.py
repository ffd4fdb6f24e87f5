"""The protocol on real sockets. How connections end: early, by halves, or by mistake; and who waits for whom."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time

import pytest

from tests.protocol.site import INCOMPLETE, MIB, Site, chunked, get, line, post, status
from tests.support.processes import eventually


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
