"""Clients that misbehave: each gets a 4xx or a closed connection, stores nothing, and holds nobody up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import pytest

from tests.contract.conftest import HouseFactory
from tests.contract.disk import fresh, sha
from tests.contract.house import House
from tests.contract.wire import Wire, chunked, request
from tests.support.processes import eventually, links_of
from tests.support.server import Server

HEADER_TIMEOUT: Final = 2.0
KEEP_ALIVE: Final = 1.5
IDLE: Final = 1.0

BODY: Final = b"Bytes that must never be stored.\n"
NAME: Final = sha(BODY)

Attack: TypeAlias = Callable[[House], bytes]


@pytest.fixture(scope="module")
def wary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server with short timeouts."""
    config = {
        "header_timeout": HEADER_TIMEOUT,
        "keep_alive_timeout": KEEP_ALIVE,
        "upload_idle_timeout": IDLE,
        "download_idle_timeout": IDLE,
    }
    with Server(tmp_path_factory.mktemp("wary"), config=config) as server:
        yield House(server)


@pytest.fixture(autouse=True)
def _others_are_served(wary: House) -> Iterator[None]:
    """Whatever a test does: it adds no file, and another client is served afterwards."""
    content = fresh()
    assert wary.store(content).status == 201
    with wary.nothing_left_behind():
        yield
    began = time.monotonic()
    assert wary.get(content).body == content
    assert wary.store(content).status == 200
    assert time.monotonic() - began < 5
    assert wary.ask("GET", f"/{NAME}").status == 404


def upload(*fields: str, body: bytes = BODY, name: str = NAME, method: str = "POST") -> Attack:
    """An upload with credentials whose other header lines are given as they are."""

    def spell(house: House) -> bytes:
        login = f"Authorization: {house.login['Authorization']}"
        lines = [f"{method} /{name} HTTP/1.1", "Host: x", login, *fields]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

    return spell


def plain(raw: bytes) -> Attack:
    return lambda _: raw


def get(target: str, *fields: str) -> Attack:
    return plain("\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *fields]).encode("latin-1") + b"\r\n\r\n")


LENGTH: Final = f"Content-Length: {len(BODY)}"
CHUNKED: Final = "Transfer-Encoding: chunked"

REFUSED: Final[dict[str, Attack]] = {
    # Which length?
    "Content-Length and Transfer-Encoding": upload(LENGTH, CHUNKED, body=chunked([BODY])),
    "Transfer-Encoding and Content-Length": upload(CHUNKED, LENGTH, body=chunked([BODY])),
    "two Content-Lengths": upload(LENGTH, "Content-Length: 5"),
    "two Content-Lengths in one field": upload(f"{LENGTH}, 5"),
    "a Content-Length of 2^63": upload(f"Content-Length: {2**63}"),
    "a Content-Length of 2^63 - 1": upload(f"Content-Length: {2**63 - 1}"),
    "a Content-Length of 2^64": upload(f"Content-Length: {2**64}"),
    "a Content-Length of 2^64 and the length": upload(f"Content-Length: {2**64 + len(BODY)}"),
    "a negative Content-Length": upload(f"Content-Length: -{len(BODY)}"),
    "a Content-Length with a sign": upload(f"Content-Length: +{len(BODY)}"),
    "a Content-Length with an underscore": upload("Content-Length: 3_3"),
    "a Content-Length in another base": upload(f"Content-Length: 0x{len(BODY):x}"),
    "a Content-Length in letters": upload("Content-Length: all"),
    "an empty Content-Length": upload("Content-Length:"),
    "no length at all": upload(body=b""),
    "an unknown Transfer-Encoding": upload("Transfer-Encoding: gzip"),
    "another Transfer-Encoding, and then chunked": upload("Transfer-Encoding: gzip, chunked", body=chunked([BODY])),
    "another Transfer-Encoding, and chunked in a field of its own": upload(
        "Transfer-Encoding: deflate", CHUNKED, body=chunked([BODY])
    ),
    "chunked, and then another": upload("Transfer-Encoding: chunked, gzip", body=chunked([BODY])),
    "a Transfer-Encoding that only looks chunked": upload("Transfer-Encoding: xchunked", body=chunked([BODY])),
    # Which chunk?
    "a chunk with no size": upload(CHUNKED, body=b"\r\n" + BODY),
    "a chunk with a size that is no number": upload(CHUNKED, body=b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk with a negative size": upload(CHUNKED, body=b"-21\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk with a size past 2^64": upload(CHUNKED, body=b"f" * 17 + b"\r\n" + BODY),
    "a chunk that is longer than its size": upload(CHUNKED, body=b"1\r\n" + BODY + b"\r\n0\r\n\r\n"),
    # Whose name?
    "a name that climbs": upload(LENGTH, name="../../../../etc/passwd"),
    "a name that climbs, encoded": upload(LENGTH, name="%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
    "a name with an encoded zero": upload(LENGTH, name=f"{NAME[:63]}%00"),
    "a name with an encoded zero at its end": upload(LENGTH, name=f"{NAME}%00"),
    "a name with an encoded line end": upload(LENGTH, name=f"{NAME}%0a"),
    "a name with an encoded line end and a header": upload(LENGTH, name="%0d%0aX-Evil:%20yes"),
    "a name in digits of another script": upload(LENGTH, name="%D9%A3" * 64),
    "a name with bytes that are no text": upload(LENGTH, name="%FF%FE" * 32),
    "a name with raw bytes": upload(LENGTH, name="\xff" * 64),
    "a name with a zero": upload(LENGTH, name=f"{NAME[:63]}\x00"),
    "a name with a bad encoding": upload(LENGTH, name="%zz" * 21 + "0"),
    "reading a name that climbs": get("/../../etc/passwd"),
    "reading a name that climbs, encoded": get("/%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
    "reading an encoded zero": get("/%00"),
    "reading an encoded line end": get("/%0a"),
    "reading digits of another script": get("/" + "%D9%A3" * 64),
    "a path of 70 kB": get("/" + "a" * 70_000),
    "an upload under a name of 70 kB": upload(LENGTH, name="a" * 70_000),
    "a query of 70 kB": get("/live?" + "a" * 70_000),
    # How much?
    "500 kB of headers": get("/live", *(f"X-{number}: {'x' * 1000}" for number in range(500))),
    "500 kB in one header": get("/live", f"X-Long: {'x' * 500_000}"),
    "100 headers of 1 kB": get("/live", *(f"X-{number}: {'x' * 1000}" for number in range(100))),
    "a header name of 100 kB": get("/live", f"{'x' * 100_000}: x"),
    "an upload with 500 kB of headers": upload(LENGTH, f"X-Long: {'x' * 500_000}"),
    "trailers of 500 kB": upload(CHUNKED, body=chunked([b"x"], end=False) + b"0\r\nX: " + b"x" * 500_000 + b"\r\n\r\n"),
    # What is this?
    "no HTTP": plain(b"How do you do?\r\n\r\n"),
    "zeros": plain(bytes(1000)),
    "TLS": plain(bytes.fromhex("16030100c8010000c40303") + bytes(200)),
    "HTTP/2": plain(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/9.9": plain(b"GET /live HTTP/9.9\r\nHost: x\r\n\r\n"),
    "an unknown method": plain(b"BREW /live HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a method in lower case": plain(b"get /live HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a header without a colon": get("/live", "no colon"),
    "a header with a space in its name": get("/live", "X Y: z"),
    "a header with a zero": get("/live", "X: a\x00b"),
    "a proxy's CONNECT": plain(b"CONNECT stor.test:443 HTTP/1.1\r\nHost: stor.test:443\r\n\r\n"),
    # Who?
    "credentials that are no ASCII": plain(
        f"POST /{NAME} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic \xe9\xfc\r\n{LENGTH}\r\n\r\n".encode("latin-1")
        + BODY
    ),
    "credentials of a megabyte": plain(
        f"POST /{NAME} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {'A' * 1_000_000}\r\n{LENGTH}\r\n\r\n".encode()
        + BODY
    ),
}


def outcome(house: House, attack: bytes) -> int | None:
    """The first status that comes back, or None for a connection that was closed without one."""
    with house.wire(timeout=10) as wire:
        try:
            wire.send(attack)
            return wire.answer().status
        except (ConnectionError, BrokenPipeError):
            return None


@pytest.mark.parametrize("attack", REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_request_is_4xx_or_a_closed_connection(wary: House, attack: Attack) -> None:
    status = outcome(wary, attack(wary))

    assert status is None or 400 <= status < 500


@pytest.mark.parametrize("count", [70, 500])
def test_headers_over_64_kib_are_431(wary: House, count: int) -> None:
    fields = {f"X-{number}": "x" * 1000 for number in range(count)}

    assert outcome(wary, request("GET", "/live", fields)) == 431


def test_headers_below_64_kib_are_none_of_our_business(wary: House) -> None:
    fields = {f"X-{number}": "x" * 500 for number in range(100)}

    assert outcome(wary, request("GET", "/live", fields)) == 200


def test_what_follows_a_bad_request_is_not_another_request(wary: House) -> None:
    smuggled = request("POST", f"/{NAME}", wary.login, BODY)
    with wary.wire() as wire:
        wire.send(upload(LENGTH, CHUNKED, body=b"0\r\n\r\n")(wary), smuggled)
        statuses = [wire.answer().status]
        assert wire.rest() == b""

    assert statuses == [400]


# Slow


def test_a_silent_connection_is_closed(wary: House) -> None:
    began = time.monotonic()
    with wary.wire(timeout=10) as wire:
        wire.rest()

    assert time.monotonic() - began < HEADER_TIMEOUT + KEEP_ALIVE + 3


def test_an_idle_connection_is_closed_after_its_answer(wary: House) -> None:
    with wary.wire(timeout=10) as wire:
        wire.send(request("GET", "/live"))
        wire.answer()
        began = time.monotonic()
        assert wire.rest() == b""

    assert KEEP_ALIVE * 0.8 < time.monotonic() - began < KEEP_ALIVE + 3


@pytest.mark.parametrize("pause", [0.1, 10.0], ids=["trickling", "standing-still"])
def test_slow_headers_are_408(wary: House, pause: float) -> None:
    began = time.monotonic()
    with wary.wire() as wire:
        wire.send(b"GET /live HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        for _ in range(100):
            if wire.hears(pause):
                break
            wire.send(b"x")
        assert wire.answer().status == 408

    assert time.monotonic() - began < HEADER_TIMEOUT + 3


def test_a_slow_second_request_is_408_too(wary: House) -> None:
    with wary.wire(timeout=10) as wire:
        wire.send(request("GET", "/live"))
        assert wire.answer().status == 200
        wire.send(b"GET /live HTTP/1.1\r\nHost: x\r\n")
        assert wire.answer().status == 408


def test_a_slow_body_is_408(wary: House) -> None:
    with wary.wire(timeout=10) as wire:
        wire.send(upload(LENGTH, body=BODY[:-1])(wary))
        assert wire.answer().status == 408
        assert wire.rest() == b""


def test_two_hundred_slow_and_silent_clients_hold_nobody_up(wary: House) -> None:
    begins = [b"", b"G", b"GET /live HTTP/1.1\r\nX: y", upload(LENGTH, body=b"B")(wary)]
    with wary.wires(200) as wires:
        for at, wire in enumerate(wires):
            wire.send(begins[at % 4])
        content, began = fresh(), time.monotonic()
        assert wary.get(content).status == 404
        assert wary.ask("GET", "/live").status == 200
        assert time.monotonic() - began < HEADER_TIMEOUT
        for wire in wires:
            wire.rest()


def test_a_client_that_sends_requests_and_reads_no_answers_is_let_go(wary: House) -> None:
    with wary.wire(receive_buffer=4096) as wire:
        wire.socket.settimeout(1)
        try:
            for _ in range(2000):
                wire.send(request("GET", "/live") * 100)
        except (TimeoutError, ConnectionError):
            pass
        assert wary.ask("GET", "/live").status == 200


def test_a_reader_that_stands_still_is_cut_and_keeps_no_file_open(make_stor: HouseFactory) -> None:
    stor, content = make_stor(config={"download_idle_timeout": IDLE}), fresh(16 << 20)
    stor.store(content)
    with stor.wire(receive_buffer=65536) as wire:
        wire.send(request("GET", f"/{sha(content)}"))
        wire.receive(1)
        assert _open_files(stor)
        began = time.monotonic()
        eventually(lambda: not _open_files(stor), what="the reader is not cut")
        assert IDLE * 0.5 < time.monotonic() - began < IDLE * 2 + 3
    assert stor.get(content).body == content


def test_a_reader_that_takes_little_all_the_time_gets_all(make_stor: HouseFactory) -> None:
    stor, content = make_stor(config={"download_idle_timeout": IDLE / 2}), fresh(16 << 20)
    stor.store(content)
    with stor.wire(receive_buffer=65536) as wire:
        wire.send(request("GET", f"/{sha(content)}", {"Connection": "close"}))
        wire.receive(1)
        until = time.monotonic() + IDLE * 2
        while time.monotonic() < until:
            wire.receive(65536)
            time.sleep(IDLE / 10)
        assert _open_files(stor)
        assert content.endswith(wire.rest()[-1024:])


def _open_files(house: House) -> list[str]:
    """The replicas that the server and its workers have open."""
    links = (link for pid in house.server.processes() for link in links_of(pid))
    return [link for link in links if link.endswith(".dat")]


# Cut


@pytest.mark.parametrize(
    "attack",
    [
        upload(f"Content-Length: {len(BODY) + 1}"),
        upload(CHUNKED, body=chunked([BODY], end=False)),
        upload(CHUNKED, body=chunked([BODY], end=False) + b"0\r\n"),
        upload(CHUNKED, body=chunked([BODY])[:-8]),
        upload(LENGTH, body=b""),
        upload("Expect: 100-continue", LENGTH, body=b""),
    ],
    ids=["short", "no-last-chunk", "half-a-last-chunk", "half-a-chunk", "no-body", "expecting"],
)
@pytest.mark.parametrize("ending", [Wire.end, Wire.close, Wire.reset], ids=["half-closed", "closed", "reset"])
def test_an_upload_that_is_cut_is_not_stored(wary: House, attack: Attack, ending: Callable[[Wire], None]) -> None:
    wire = wary.wire()
    wire.send(attack(wary))
    time.sleep(0.05)
    ending(wire)
    if ending is Wire.end:
        wire.rest()
        wire.close()


def test_a_reader_that_hangs_up_in_the_middle_harms_nobody(stor: House) -> None:
    content = fresh(8 << 20)
    stor.store(content)
    for ending in (Wire.close, Wire.reset):
        for _ in range(10):
            wire = stor.wire(receive_buffer=4096)
            wire.send(request("GET", f"/{sha(content)}"))
            wire.receive(1)
            ending(wire)

    assert stor.get(content).body == content
