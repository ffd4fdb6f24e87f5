"""The protocol on real sockets. What a client may take: time, bytes of its head, and what is sent in vain."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time

import pytest

from tests.protocol.site import MIB, Client, Site, chunked, get, line, post, status, taking
from tests.support.processes import eventually


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


@pytest.mark.parametrize("way", ["fast", "long"])
def test_an_idle_connection_is_closed_without_a_word(brisk: Site, way: str) -> None:
    with brisk.connect() as client:
        client.send(get(f"/{way}/x"))
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


def test_a_field_that_is_repeated_very_often_costs_little() -> None:
    with Site(max_header_bytes=2 * MIB) as site:
        began = time.process_time()
        assert status(site.ask(get("/fast/x", b"connection: close", *[b"a:"] * 400_000))) == 200
        assert time.process_time() - began < 1.5  # when each was appended to those before it, 4 or more


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


def test_a_head_that_began_behind_a_slow_request_is_not_refused_while_that_is_answered() -> None:
    with Site(header_timeout=0.3) as site, site.connect() as client:
        client.send(get("/watch") + b"GET /fast")
        eventually(lambda: site.app.events == ["watch"])
        time.sleep(0.5)
        assert site.app.refusals == []


def test_a_client_that_is_still_sending_gets_the_early_answer_and_goes_on_with_its_connection(site: Site) -> None:
    with site.connect() as client:
        client.send(post("/early", b"", length=50 * MIB))
        time.sleep(0.1)
        for _ in range(50):
            client.send(bytes(MIB))
        assert line(client.answer()) == b"early"
        client.send(get("/fast/next"))
        assert line(client.answer()) == b"/fast/next"


def test_what_waits_for_an_application_that_answers_without_it_keeps_no_connection_from_going_on(site: Site) -> None:
    with site.connect() as client:
        client.send(post("/late", bytes(10 * MIB)))
        assert line(client.answer()) == b"/late"
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


def test_a_client_that_asked_before_one_body_is_told_nothing_unasked_before_the_next(site: Site) -> None:
    with site.connect() as client:
        client.send(post("/echo", b"", b"expect: 100-continue", length=3))
        assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        client.answer()
        for field in (b"x: y", b"expect: something else"):
            client.send(post("/echo", b"abc", field))
            assert status(client.answer()) == 200


def test_a_client_that_asks_and_is_refused_need_not_send_so_the_connection_ends(site: Site) -> None:
    with site.connect() as client:
        client.send(post("/early", b"", b"expect: 100-continue", length=3))
        answer = client.rest()
    assert status(answer) == 401
    assert b"connection: close\r\n" in answer


def watching(site: Site, stack: contextlib.ExitStack, count: int) -> list[Client]:
    """Open connections on which something is under way."""
    clients = [stack.enter_context(site.connect()) for _ in range(count)]
    for client in clients:
        client.send(get("/watch"))
    eventually(lambda: site.app.events.count("watch") == count)
    return clients


def test_idle_connections_make_room_for_new_ones_and_leave_half_of_the_descriptors_for_files(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Site() as site, contextlib.ExitStack() as stack:
        site.crowd(240)
        busy = watching(site, stack, 100)
        for number in range(60):
            client = stack.enter_context(site.connect())
            client.send((b"", b"GET /", get("/fast/1"))[number % 3])
        assert status(site.ask(get("/fast/2", b"connection: close"))) == 200
        eventually(lambda: len(site.connections) <= 120)
        assert None not in map(site.connection_of, busy)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "pystor"]
    assert "LimitNOFILE" in line


def test_where_no_connection_is_idle_a_new_one_is_closed_and_no_other() -> None:
    with Site() as site, contextlib.ExitStack() as stack:
        site.crowd(6)
        busy = watching(site, stack, 3)
        with site.connect() as fourth:
            assert fourth.rest() == b""
        assert None not in map(site.connection_of, busy)
