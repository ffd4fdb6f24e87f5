"""The protocol on real sockets. Clients that misbehave, and what a source sends directly."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import time

import pytest

from tests.protocol.site import ALPHABET, HOST, Site, chunked, get, line, post, status, taking
from tests.support.processes import eventually

MALFORMED: dict[str, bytes] = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two lengths": get("/long/x", b"content-length: 1", b"content-length: 2", method=b"POST") + b"x",
    "one length twice": get("/long/x", b"content-length: 1", b"content-length: 1", method=b"POST") + b"x",
    "a list of lengths": get("/long/x", b"content-length: 1, 1", method=b"POST") + b"x",
    "length and chunks": post("/long/x", b"x", b"transfer-encoding: chunked"),
    "chunks and length": get("/x", b"transfer-encoding: chunked", b"content-length: 1", method=b"POST") + b"x",
    "length 2^63": post("/long/x", b"x", length=1 << 63),
    "length 2^64": post("/long/x", b"x", length=1 << 64),
    "length of 70 digits": get("/x", b"content-length: " + b"0" * 69 + b"1", method=b"POST") + b"x",
    "a negative length": post("/long/x", b"x", length=-1),
    "a length with a sign": get("/x", b"content-length: +1", method=b"POST") + b"x",
    "a hexadecimal length": get("/x", b"content-length: 0x1", method=b"POST") + b"x",
    "no length": get("/x", b"content-length:", method=b"POST") + b"x",
    "another encoding": get("/x", b"transfer-encoding: gzip", method=b"POST") + b"x",
    "raw bytes in the path": b"GET /\xff\xfe" + HOST + b"\r\n",
    "a zero in the path": b"GET /a\0b" + HOST + b"\r\n",
    "a line end in the path": b"GET /a\rb" + HOST + b"\r\n",
    "no target": b"GET HTTP/1.1\r\n\r\n",
    "a zero in a field": get("/x", b"a: \0"),
    "a lonely line end in a field": get("/x", b"a: b\rc: d"),
    "a space before the colon": get("/x", b"a : b"),
    "a folded field": get("/x", b"a: b\r\n c"),
    "a negative chunk": chunked("/x", b"-1\r\n"),
    "a huge chunk": chunked("/x", b"1" + b"0" * 16 + b"\r\n"),
}


@pytest.mark.parametrize("request_", MALFORMED)
def test_malformed_requests_are_refused_in_one_line(site: Site, request_: str) -> None:
    answer = site.ask(MALFORMED[request_])
    assert 400 <= status(answer) < 500
    assert b"connection: close\r\n" in answer
    assert line(answer)


@pytest.mark.parametrize("cut", [1, 3, 16, 24])
def test_a_client_that_begins_with_http_2_is_told_what_to_speak(site: Site, cut: int) -> None:
    with site.connect() as client:
        client.send(MALFORMED["HTTP/2"][:cut])
        time.sleep(0.02)
        client.send(MALFORMED["HTTP/2"][cut:])
        assert line(client.rest()) == b"HTTP/2 is not spoken here; ask by HTTP/1.1"


UNUSUAL: dict[str, tuple[bytes, bytes]] = {
    "a zero, encoded": (get("/long/%00%0a"), b"/long/\\x00\\n"),
    "bad percent-encodings": (get("/long/%zz%e9%"), "/long/%zz\N{REPLACEMENT CHARACTER}%".encode()),
    "dots": (get("/long/%2e%2e%2f"), b"/long/../"),
    "a query": (get("/long/x?a=/b"), b"/long/x"),
    "a fragment": (get("/long/x#a?b"), b"/long/x"),
    "an absolute target": (get("http://host:1/long/x?a"), b"/long/x"),
    "an absolute target without a path": (get("http://host?a=/b"), b"/"),
    "an asterisk": (get("*", method=b"OPTIONS"), b"*"),
    "CONNECT": (get("host:443", method=b"CONNECT"), b"/"),
    "a space after the length": (get("/long/x", b"content-length: 1 ", method=b"POST") + b"x", b"/long/x"),
    "empty lines first": (b"\r\n\r\n" + get("/long/x"), b"/long/x"),
    "a hundred headers": (get("/long/x", *[b"a: b"] * 100), b"/long/x"),
    "chunk extensions": (chunked("/long/x", b"1;a=b\r\nx\r\n0;c\r\n\r\n"), b"/long/x"),
}


@pytest.mark.parametrize("request_", UNUSUAL)
def test_unusual_requests_reach_the_application(site: Site, request_: str) -> None:
    request, body = UNUSUAL[request_]
    answer = site.ask(request, end=True)
    assert (status(answer), line(answer)) == (200, body)


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_an_offer_to_upgrade_is_ignored_and_nothing_is_lost(site: Site, protocol: bytes) -> None:
    upgrade = (b"connection: upgrade", b"upgrade: " + protocol)
    body = b"x" * 100_000
    in_chunks = get("/echo", b"transfer-encoding: chunked", *upgrade, method=b"POST") + b"1\r\nx\r\n0\r\n\r\n"
    with site.connect() as client:
        client.send(get("/fast/1", *upgrade) + post("/echo", body, *upgrade) + in_chunks + get("/fast/3", *upgrade))
        assert line(client.answer()) == b"/fast/1"
        assert line(client.answer()).decode() == hashlib.sha256(body).hexdigest()
        assert line(client.answer()).decode() == hashlib.sha256(b"x").hexdigest()
        assert line(client.answer()) == b"/fast/3"


def test_others_are_served_while_two_hundred_clients_stall(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(200):
            client = stack.enter_context(site.connect())
            client.send((get("/stream"), b"GET /fast", post("/echo", b"x", length=9))[number % 3])
        assert status(site.ask(get("/fast/x"), end=True)) == 200
        assert status(site.ask(get("/long/x"), end=True)) == 200


@pytest.mark.parametrize("pause", [0.0, 0.0005], ids=["quick", "slow"])
def test_what_a_source_sends_directly_stands_where_it_belongs(site: Site, pause: float) -> None:
    site.app.events.clear()
    with site.connect(receive_buffer=4096) as client:
        client.send(get("/fast/x") + get("/direct") + get("/fast/y"))
        answers = bytearray()
        while not answers.endswith(b"/fast/y"):
            data = client.socket.recv(65536 if not pause else 10_000)
            assert data, f"the connection ended after {len(answers)} bytes"
            answers += data
            time.sleep(pause)
    (before, body, after) = re.split(rb"HTTP/1.1 200 OK\r\n.*?\r\n\r\n", bytes(answers), flags=re.DOTALL)[1:]
    assert (before, after) == (b"/fast/x", b"/fast/y")
    assert body == ALPHABET
    # As soon as a piece is gone there is room for more.
    assert site.app.events.count("direct True") > 9 * site.app.events.count("direct False")


def test_nothing_is_sent_directly_in_chunks_nor_to_who_is_gone(site: Site) -> None:
    site.app.events.clear()
    answer = site.ask(get("/direct/chunked", b"connection: close"))
    chunks = re.findall(rb"4e20\r\n(.{20000})\r\n", answer, re.DOTALL)
    assert b"".join(chunks) == ALPHABET
    assert set(site.app.events) == {"direct", "direct False"}

    site.app.events.clear()
    bad = site.ask(get("/direct/late", b"transfer-encoding: chunked", method=b"POST") + b"no chunk\r\n")
    assert status(bad) == 400
    eventually(lambda: site.app.events.count("direct False") > 100)
    assert "source" not in site.app.events

    with Site() as narrow:
        narrow.narrow(4096)
        with narrow.connect(receive_buffer=4096) as client:
            client.send(get("/direct"))
            client.socket.recv(1)
        eventually(lambda: narrow.app.events[-100:] == ["direct False"] * 100)


@pytest.mark.parametrize(
    "method", [b"FOO", b"get", b"DESCRIBE", b"X-PURGE", b"GETX", b"POSTS", b"OPTIONSX", b"\r\nFOO"]
)
def test_a_method_that_nobody_knows_is_405_with_those_that_are_there(site: Site, method: bytes) -> None:
    answer = site.ask(get("/fast/x", method=method))
    assert status(answer) == 405
    assert b"\r\nallow: GET, HEAD, POST, PUT, OPTIONS\r\n" in answer


@pytest.mark.parametrize("end", [2, 3, 4])
def test_such_a_method_that_comes_by_itself_is_405_too(site: Site, end: int) -> None:
    with site.connect() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.send(b"BREW /fast/x"[:end])
        time.sleep(0.05)
        client.send(get("/fast/x", method=b"BREW")[end:])
        assert status(client.rest()) == 405


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01", b"hello\r\n\r\n", b"GET\x00 / HTTP/1.1\r\n\r\n"])
def test_what_is_no_request_is_400(site: Site, garbage: bytes) -> None:
    assert status(site.ask(garbage)) == 400


TOLD: dict[str, tuple[bytes, tuple[str, str, int]]] = {
    "no HTTP": (b"garbage\r\n\r\n", ("other", "-", 400)),
    "a method of others": (get("/fast/x", method=b"BREW"), ("other", "-", 405)),
    "two lengths": (post("/long/x%20y?z", b"x", b"content-length: 2"), ("POST", "/long/x y", 400)),
    "a head that is cut": (b"GET /fast/x HTTP/1.1\r\n", ("GET", "/fast/x", 400)),
    "a long head": (get("/fast/x", b"a: " + b"b" * 70_000), ("GET", "/fast/x", 431)),
    "garbage behind a request": (get("/fast/x") + b"\0", ("other", "-", 400)),
}


@pytest.mark.parametrize("request_", TOLD)
def test_what_is_answered_without_the_application_is_told_to_it(site: Site, request_: str) -> None:
    site.app.refusals.clear()
    sent, told = TOLD[request_]
    site.ask(sent, end=True)
    assert site.app.refusals == [told]


def test_what_the_application_has_begun_to_answer_it_tells_itself(site: Site) -> None:
    site.app.refusals.clear()
    bad = get("/echo", b"transfer-encoding: chunked", method=b"POST") + b"no chunk\r\n"
    assert status(site.ask(bad)) == 400
    assert site.app.refusals == []
    answers = site.ask(get("/late/x") + bad)
    assert answers.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"HTTP/1.1 400 Bad Request\r\n" in answers
    assert site.app.refusals == [("POST", "/echo", 400)]


def test_http_1_0_that_offers_to_upgrade_is_answered_as_http_1_0(site: Site) -> None:
    fields = (b"connection: upgrade", b"upgrade: h2c", b"expect: 100-continue")
    with site.connect() as client:
        client.send(post("/echo", b"abc", *fields).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = client.rest()
    assert status(answer) == 200
    assert b"\r\nconnection: close\r\n" in answer


def test_http_1_0_that_does_not_tell_how_long_a_body_without_a_name_is_is_411(site: Site) -> None:
    """By the end of the connection it would be known too late: the empty blob would be stored, and the body dropped."""
    answer = site.ask(get("/", method=b"POST").replace(b"HTTP/1.1", b"HTTP/1.0") + b"precious bytes", end=True)
    assert (status(answer), line(answer)) == (411, b"Send Content-Length: HTTP/1.0 has no other way to tell it")
    named = site.ask(get("/echo", method=b"POST").replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert [status(named), status(site.ask(post("/echo", b"").replace(b"HTTP/1.1", b"HTTP/1.0")))] == [200, 200]
    assert [status(site.ask(method + b" / HTTP/1.0\r\n\r\n")) for method in (b"GET", b"PUT", b"OPTIONS")] == [200] * 3
    assert status(site.ask(post("/", b"a body").replace(b"HTTP/1.1", b"HTTP/1.0"))) == 200


def test_http_1_0_knows_no_interim_answer_so_its_expectation_is_ignored(site: Site) -> None:
    request = post("/echo", b"", b"expect: 100-continue", length=3).replace(b"HTTP/1.1", b"HTTP/1.0")
    with site.connect() as client:
        client.send(request)
        client.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(5)
        client.send(b"abc")
        assert status(client.rest()) == 200


@pytest.mark.parametrize("field", [b"Connection: close", b"Expect: 100-continue", b"Upgrade: h2c"])
def test_a_trailer_with_a_field_of_the_connection_is_400_and_ends_it(site: Site, field: bytes) -> None:
    with site.connect() as client:
        client.send(chunked("/echo", b"1\r\nx\r\n0\r\n", field, b"\r\n\r\n") + get("/fast/x"))
        answer = client.rest()
    name = field.partition(b":")[0].lower()
    assert (status(answer), answer.partition(b"\r\n\r\n")[2].strip()) == (400, name + b" is no field for a trailer")


def test_a_head_that_begins_behind_the_end_of_another_has_its_time_from_its_first_byte() -> None:
    with Site(header_timeout=0.5, keep_alive_timeout=30.0) as quick, quick.connect() as client:
        request = get("/fast/x")
        client.send(request[:20])
        time.sleep(0.1)
        with taking(0.45, 5.0):
            client.send(request[20:] + request[:20])
            client.answer()
            assert status(client.rest()) == 408
