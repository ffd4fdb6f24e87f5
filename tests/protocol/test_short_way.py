"""The protocol on real sockets. The short way: bodies that come in one piece, with a head that is known."""

from __future__ import annotations

import hashlib
import os
import socket
import time

import pytest

from tests.protocol.site import MIB, Client, Site, chunked, get, introduce, line, named, post, sent, status, taking
from tests.support.processes import eventually


def occupy(site: Site, client: Client, name: str) -> None:
    """Have something that takes long asked for on the short way."""
    introduce(client, b"x-known: busy")
    site.app.events.clear()
    client.send(sent(name, b"a body", b"x-known: busy"))
    eventually(lambda: "short" in site.app.events)


def echoed(body: bytes = b"a body") -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


@pytest.mark.parametrize("method", [b"POST", b"PUT"])
@pytest.mark.parametrize("size", [0, 1, 7000])
def test_a_body_that_comes_with_a_known_head_takes_the_short_way(site: Site, method: bytes, size: int) -> None:
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
def test_what_says_something_of_the_connection_takes_the_long_way_each_time(site: Site, field: bytes) -> None:
    for _ in range(3):
        site.app.events.clear()
        answer = site.ask(sent("short", b"a body", field), end=True)
        assert answer.endswith(echoed())
        assert site.app.events == [named("short", 0)[1:]]


def test_an_offer_to_upgrade_is_ignored_on_the_short_way_too(site: Site) -> None:
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


def test_the_head_after_a_first_request_by_the_short_way_has_its_time_from_its_first_byte() -> None:
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


def test_what_comes_while_the_short_way_is_busy_waits_and_is_answered_in_its_turn(site: Site) -> None:
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


def test_no_more_is_read_while_the_short_way_is_busy_than_one_read_brings(site: Site) -> None:
    with site.connect() as client:
        occupy(site, client, "shortstall")
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.pour(b"x" * MIB, 200 * MIB)


def test_who_has_ended_his_half_is_answered_by_the_short_way_and_that_is_all(site: Site) -> None:
    with site.connect() as client:
        introduce(client, b"x-known: half")
        client.send(sent("shortlate", b"a body", b"x-known: half"))
        client.end()
        answer = client.rest()
        assert line(answer) == echoed()
        assert b"\r\nconnection: close\r\n" in answer


def test_a_client_that_goes_while_the_short_way_is_busy_harms_nobody(
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


def test_an_error_on_the_short_way_is_one_line_that_tells_nothing_of_the_inside(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.connect() as client:
        introduce(client, b"x-known: error")
        client.send(sent("shorterror", b"a body", b"x-known: error"))
        answer = client.rest()
    assert (status(answer), line(answer)) == (500, b"Internal Server Error")
    assert "a secret of the inside" in caplog.text


def test_an_upload_by_the_short_way_has_as_long_as_it_takes_and_then_the_connection_as_long_as_any(
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
