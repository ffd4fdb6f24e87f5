"""The protocol on real sockets. The fast path, and that the long one says the same; answers in their order."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from pystor import uring
from pystor.http.protocol import StorProtocol
from tests.protocol.site import MIB, Client, Site, chunked, get, line, named, post, status
from tests.support.processes import eventually


def without_date(answer: bytes) -> bytes:
    return re.sub(rb"date: [^\r]+\r\n", b"date: \r\n", answer)


@pytest.mark.parametrize("kind", ["plain", "404", "204", "304", "bytes/4096", "bytes/100000", "close", "unsized"])
@pytest.mark.parametrize(
    ("method", "version", "fields"),
    [
        (b"GET", b"1.1", b""),
        (b"HEAD", b"1.1", b""),
        (b"GET", b"1.1", b"connection: close\r\n"),
        (b"GET", b"1.1", b"Connection: keep-alive\r\n"),
        (b"GET", b"1.1", b"connection: TE, Close\r\n"),
        (b"GET", b"1.0", b""),
        (b"GET", b"1.0", b"connection: keep-alive\r\n"),
        (b"HEAD", b"1.0", b""),
    ],
)
def test_both_ways_answer_alike_byte_for_byte(
    site: Site, kind: str, method: bytes, version: bytes, fields: bytes
) -> None:
    rest = kind.encode() + b" HTTP/" + version + b"\r\n" + fields + b"\r\n"
    fast = without_date(site.ask(method + b" /fast/" + rest, end=True))
    slow = without_date(site.ask(method + b" /long/" + rest, end=True))
    assert fast.count(b"date: \r\n") == 1
    # A client that has ended its half learns from the long way that the connection ends; the fast one does not look.
    assert fast.replace(b"connection: close\r\n", b"") == slow.replace(b"connection: close\r\n", b"").replace(
        b"/long/", b"/fast/"
    )
    if fields.lower().endswith(b"close\r\n") or version == b"1.0" or kind == "close":
        assert b"connection: close\r\n" in fast


@pytest.mark.parametrize("way", ["fast", "long"])
def test_a_connection_serves_until_it_is_asked_to_close(site: Site, way: str) -> None:
    with site.connect() as client:
        for number in range(3):
            client.send(get(f"/{way}/{number}"))
            assert line(client.answer()) == f"/{way}/{number}".encode()
        client.send(get(f"/{way}/last", b"connection: close") + get(f"/{way}/never"))
        assert line(client.rest()) == f"/{way}/last".encode()


@pytest.mark.parametrize("way", ["fast", "long", "late"])
@pytest.mark.parametrize("last", [b"1.1\r\nconnection: close", b"1.0\r\nconnection: keep-alive"])
@pytest.mark.parametrize(
    "more", [b"garbage\r\n\r\n", post("/x", b"x", length=1 << 63), b"GET /x HTT", get("/fast/y"), post("/echo", b"y")]
)
def test_what_follows_the_last_request_is_ignored_whatever_it_is(
    site: Site, way: str, last: bytes, more: bytes
) -> None:
    request = b"GET /" + way.encode() + b"/x HTTP/" + last + b"\r\n\r\n"
    assert line(site.ask(request + more)) == f"/{way}/x".encode()


def test_what_follows_the_last_request_is_not_even_read_while_that_is_answered(site: Site) -> None:
    with site.connect() as client:
        client.socket.settimeout(0.3)
        client.send(b"GET /watch HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" + post("/x", b"", length=64 * MIB))
        with pytest.raises(TimeoutError):
            client.pour(bytes(MIB), 64 * MIB)  # each piece has its time


def test_only_a_plain_get_or_head_is_offered_to_the_fast_path(site: Site) -> None:
    site.app.targets.clear()
    for request in (
        get("/fast/a", method=b"DELETE"),
        post("/fast/b", b"body"),
        get("/fast/c", b"content-length: 1") + b"x",
        get("/fast/d", b"transfer-encoding: chunked") + b"0\r\n\r\n",
        get("/fast/e", b"expect: 100-continue"),
    ):
        assert status(site.ask(request, end=True)) == 200
    assert site.app.targets == []
    assert status(site.ask(get("/fast/f?q#x"), end=True)) == 200
    assert site.app.targets == [b"/fast/f?q#x"]


def test_an_error_on_the_fast_path_is_the_long_ways_affair(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    answer = site.ask(get("/fast-error/x"), end=True)
    assert status(answer) == 200
    assert line(answer) == b"/fast/x"
    assert "The fast path failed" in caplog.text


def test_an_answer_that_cannot_be_sent_at_once_is_an_error(site: Site) -> None:
    answer = site.ask(get("/fast/stream"))
    assert (status(answer), line(answer)) == (500, b"Internal Server Error")


def test_an_error_on_the_long_way_is_one_line_that_tells_nothing_of_the_inside(site: Site) -> None:
    answer = site.ask(get("/error"), end=True)
    assert (status(answer), line(answer)) == (500, b"Internal Server Error")


def test_an_error_in_the_middle_of_an_answer_cuts_it(site: Site) -> None:
    answer = site.ask(get("/error/midway"))
    assert answer.endswith(b"content-length: 9\r\n\r\nbegun")


def test_pipelined_requests_are_answered_in_order_whichever_way_they_take(site: Site) -> None:
    paths = ["/fast/1", "/late/2", "/fast/3", "/fast/4", "/long/5", "/late/6", "/fast/7"]
    with site.connect() as client:
        client.send(b"".join(map(get, paths)))
        assert [line(client.answer()).decode() for _ in paths] == paths


def test_pipelined_uploads_and_downloads_keep_their_order(site: Site) -> None:
    bodies = [b"x" * size for size in (10, 100_000, 0, 300_000)]
    with site.connect() as client:
        threading.Thread(
            target=client.send, args=(b"".join(post("/echo", body) + get("/fast/x") for body in bodies),)
        ).start()
        for body in bodies:
            assert line(client.answer()).decode() == hashlib.sha256(body).hexdigest()
            assert line(client.answer()) == b"/fast/x"


@contextlib.contextmanager
def at_once(site: Site) -> Iterator[None]:
    """What is sent meanwhile comes to the server in one turn of its event loop."""
    with site.connect() as client:
        client.send(get("/fast/1"))
        client.answer()
        connection = site.connection_of(client)
        assert connection is not None
        go_on = threading.Event()
        connection.loop.call_soon_threadsafe(go_on.wait, 10)
        try:
            yield
        finally:
            go_on.set()


def test_answers_that_are_made_in_one_turn_leave_in_one_call_if_that_is_how_they_are_sent(
    site: Site, sending: str
) -> None:
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(site.connect()) for _ in range(20)]
            turn = site.outbox.turn
            with at_once(site):
                for number, client in enumerate(clients):
                    client.send(get(named("fast", number)))
            for number, client in enumerate(clients):
                assert line(client.answer()).decode() == named("fast", number)
            # That of the one who stopped the server, those before it had stopped, and all others.
            assert site.outbox.turn - turn <= (3 if sending == "together" else 1)
            assert sending != "together" or site.outbox.turn > turn


def test_an_answer_that_is_not_sent_yet_goes_to_nobody_else_when_its_client_is_gone(site: Site) -> None:
    for _ in range(5):
        with contextlib.ExitStack() as stack:
            leaving = [site.connect() for _ in range(10)]
            staying = [stack.enter_context(site.connect()) for _ in range(10)]
            for client in leaving + staying:
                client.send(get("/fast/begin"))
                client.answer()
            with at_once(site):
                for number, (gone, client) in enumerate(zip(leaving, staying, strict=True)):
                    gone.send(get("/fast/gone") + get("/fast/gone", b"connection: close"))
                    gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    gone.socket.close()
                    client.send(get(named("fast", number)))
                new = [stack.enter_context(site.connect()) for _ in range(10)]
                for number, client in enumerate(new):
                    client.send(get(named("new", number)))
            for number, client in enumerate(staying):
                assert line(client.answer()).decode() == named("fast", number)
            for number, client in enumerate(new):
                assert line(client.answer()).decode() == named("new", number)


def test_an_answer_that_is_made_in_the_turn_in_which_its_connection_is_lost_goes_to_nobody_else(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        leaving = [stack.enter_context(site.connect()) for _ in range(5)]
        for client in leaving:
            client.send(get("/fast/begin"))
            client.answer()
        lost = [connection for client in leaving if (connection := site.connection_of(client))]
        go_on = threading.Event()

        def lose() -> None:
            for connection in lost:
                connection.loop.call_soon(connection.data_received, get("/fast/gone"))
            for connection in lost:
                connection.transport.abort()
            go_on.wait(10)

        lost[0].loop.call_soon_threadsafe(lose)
        new = [stack.enter_context(site.connect()) for _ in range(len(lost))]  # they get the sockets of the others
        for number, client in enumerate(new):
            client.send(get(named("new", number)))
        go_on.set()
        for number, client in enumerate(new):
            assert line(client.answer()).decode() == named("new", number)


def test_where_there_is_no_io_uring_an_answer_whose_end_or_body_is_empty_is_one_like_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uring, "_SYS_SETUP", 9999)
    with Site() as plain, plain.connect() as client:
        for path in ("/long/bytes/0", "/direct", "/fast/bytes/0", "/direct", "/long/plain"):
            client.send(get(path))
            assert status(client.answer()) == 200, path


def test_answers_are_whole_and_in_order_wherever_the_socket_is_full() -> None:
    with Site() as narrow:
        narrow.narrow(4096)
        for count in range(1, 80):
            paths = [f"/fast/{number}".ljust(2000, "x") for number in range(count)]
            with narrow.connect(receive_buffer=4096) as client:
                client.send(b"".join([get(path) for path in paths[:-1]] + [get(paths[-1], b"connection: close")]))
                time.sleep(0.01)  # nobody reads for a while
                assert re.findall(rb"/fast/\d+x+", client.rest()) == [path.encode() for path in paths]


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("fields", [(), (b"accept: */*", b"connection: keep-alive"), (b"x: " + b"y" * 2000,)])
def test_requests_with_the_fields_of_earlier_ones_are_answered_each_for_itself(
    site: Site, method: bytes, fields: tuple[bytes, ...]
) -> None:
    site.app.targets.clear()
    with site.connect() as client:
        for number in range(5):
            path = named("fast", number)
            client.send(get(path, *fields, method=method))
            if method == b"GET":
                assert line(client.answer()).decode() == path
            time.sleep(0.02)  # each comes by itself
        client.send(get(named("fast", 5), b"connection: close"))
        heads = client.rest().split(b"\r\n\r\n")
        assert heads[-1].decode() == named("fast", 5)
        assert len(heads) == (2 if method == b"GET" else 7)
    assert site.app.targets == [named("fast", number).encode() for number in range(6)]


def test_a_head_that_is_known_is_not_parsed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with site.connect() as client:
        client.send(get(named("fast", 0)))
        client.answer()
        connection = site.connection_of(client)
        assert connection is not None
        monkeypatch.setattr(connection, "parser", None)
        for number in range(3):
            client.send(get(named("fast", number)))
            assert line(client.answer()).decode() == named("fast", number)


def test_a_remembered_head_that_the_fast_path_declines_goes_the_long_way_once(site: Site) -> None:
    with site.connect() as client:
        client.send(get(named("fast", 0)))
        client.answer()
        site.app.targets.clear()
        site.app.events.clear()
        for number in range(3):
            client.send(get(named("long", number)))
            assert line(client.answer()).decode() == named("long", number)
            client.send(get(named("fast", number)))
            assert line(client.answer()).decode() == named("fast", number)
    assert site.app.targets == [named(way, n).encode() for n in range(3) for way in ("long", "fast")]
    assert site.app.events == [named("long", number)[1:] for number in range(3)]


def test_a_remembered_head_waits_for_the_answer_before_it(site: Site) -> None:
    with site.connect() as client:
        client.send(get(named("fast", 0)))
        client.answer()
        client.send(get("/late/1"))
        time.sleep(0.1)
        client.send(get(named("fast", 2)))
        assert [line(client.answer()).decode() for _ in range(2)] == ["/late/1", named("fast", 2)]


@pytest.mark.parametrize(
    "odd",
    [
        b" HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n",
        b" HTTP/1.0\r\nhost: test\r\n\r\n",
        b" HTTP/1.0\r\nhost: test\r\nconnection: keep-alive\r\n\r\n",
    ],
)
def test_a_head_that_ends_the_connection_does_so_each_time(site: Site, odd: bytes) -> None:
    for number in range(3):
        answer = site.ask(b"GET " + named("fast", number).encode() + odd)
        assert line(answer).decode() == named("fast", number)


def test_a_remembered_head_has_no_body(site: Site) -> None:
    fields = (b"x-same: 1",)
    body = b"a body"
    with site.connect() as client:
        for number in range(3):
            client.send(get(named("fast", number), *fields) + post("/echo", body, *fields))
            assert line(client.answer()).decode() == named("fast", number)
            assert line(client.answer()).decode() == hashlib.sha256(body).hexdigest()
            client.send(get(named("fast", number), b"content-length: 6", *fields) + body)
            assert line(client.answer()).decode() == named("fast", number)


@pytest.mark.parametrize(
    "path", ["/" + "fast".ljust(63, "x") + "%", "/" + "fast".ljust(63, "x") + "?", "/fast" + "x" * 61]
)
def test_what_is_not_named_as_a_blob_is_left_to_the_parser(site: Site, path: str) -> None:
    with site.connect() as client:
        for request in (get(named("fast", 0)), get(named("fast", 0)), get(path), get(path)):
            client.send(request)
            assert status(client.answer()) == 200
        client.send(b"GET /" + b"x" * 30 + b" " + b"x" * 33 + get("")[len(b"GET ") :])
        assert status(client.rest()) == 400


def test_answers_from_memory_that_is_used_again_reach_a_reader_who_is_slow_as_they_were(site: Site) -> None:
    with site.connect(receive_buffer=4096) as client:
        for number in range(200):
            client.send(get(f"/fast/room/{number}"))
        time.sleep(0.5)
        for number in range(200):
            assert client.answer().endswith(b"\r\n\r\n" + bytes([number]) * 60_000)


def test_a_malformed_request_is_refused_after_the_answers_before_it(site: Site) -> None:
    answers = site.ask(get("/late/1") + get("/fast/2") + b"garbage\r\n\r\n")
    assert [int(found) for found in re.findall(rb"HTTP/1.1 (\d+)", answers)] == [200, 200, 400]


def test_pipelined_answers_that_nobody_reads_do_not_grow(site: Site) -> None:
    request = get("/fast/bytes/60000")
    with site.connect(receive_buffer=4096) as client:
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.send(request * 200_000)
        connection = site.connection_of(client)
        assert connection is not None
        assert connection.transport.get_write_buffer_size() < MIB
        assert len(connection.pipeline) < 200
        assert len(connection._unparsed) <= 300_000


def hold_up(site: Site, client: Client) -> StorProtocol:
    """Keep the server's event loop busy while more is sent to it; returns its end of the client's connection."""
    eventually(lambda: site.connection_of(client) is not None)
    connection = site.connection_of(client)
    assert connection is not None
    connection.loop.call_soon_threadsafe(time.sleep, 0.3)
    return connection


def test_a_client_that_sends_thousands_of_requests_in_one_go_makes_nobody_else_wait_for_all_of_them(site: Site) -> None:
    many = 2000
    with site.connect() as greedy, site.connect() as other:
        hold_up(site, other)
        greedy.send(get("/fast/204") * many + get("/fast/last", b"connection: close"))
        other.send(get("/fast/other"))
        assert other.answer().endswith(b"/fast/other")
        answers = greedy.rest()
    assert answers.count(b"HTTP/1.1 204 ") == many
    assert answers.endswith(b"/fast/last")
    asked = site.app.targets[-many - 2 :]
    assert asked.index(b"/fast/other") < many / 2


def test_a_client_that_sends_thousands_of_small_chunks_makes_nobody_else_wait_for_all_of_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    many, seen, count = 20_000, site.app.targets, StorProtocol.on_chunk_header

    def counted(protocol: StorProtocol) -> None:
        seen.append(b"a chunk")
        count(protocol)

    monkeypatch.setattr(StorProtocol, "on_chunk_header", counted)
    with site.connect() as greedy, site.connect() as other:
        hold_up(site, other)
        greedy.send(chunked("/echo", b"1\r\nx\r\n" * many, b"0\r\n\r\n"))
        other.send(get("/fast/other"))
        assert other.answer().endswith(b"/fast/other")
        assert greedy.answer().endswith(hashlib.sha256(b"x" * many).hexdigest().encode())
        greedy.send(get("/fast/after"))
        assert greedy.answer().endswith(b"/fast/after")
    before = seen[: seen.index(b"/fast/other")]
    assert before.count(b"a chunk") < many / 2


def test_small_chunks_that_nobody_takes_do_not_grow(site: Site) -> None:
    with site.connect() as client:
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.send(chunked("/stall", b"1\r\nx\r\n" * 3_000_000))
        connection = site.connection_of(client)
        assert connection is not None
        assert connection._reading is not None
        assert len(connection._reading.body) < 300_000
        assert len(connection._unparsed) <= 300_000


def test_a_client_that_is_gone_before_all_that_it_has_sent_is_parsed_harms_nobody(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.connect() as greedy:
        connection = hold_up(site, greedy)
        greedy.send(get("/fast/204") * 2000)
        greedy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it ends with a reset
    assert status(site.ask(get("/fast/1", b"connection: close"))) == 200
    eventually(lambda: connection not in site.connections)
    assert not caplog.records


def test_pipelined_requests_behind_a_slow_one_wait_outside(site: Site) -> None:
    with site.connect() as client:
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.send(get("/watch") + get("/long/x") * 1_000_000)
        connection = site.connection_of(client)
        assert connection is not None
        assert len(connection.pipeline) < 300
        assert len(connection._unparsed) <= 300_000
