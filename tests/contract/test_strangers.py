"""What one client asks is never answered by what another has asked, however its requests were cut."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.contract.disk import fresh, sha
from tests.contract.house import House
from tests.contract.wire import Wire, chunked, request
from tests.support.server import Server

SMALL = fresh(200)
LARGE = fresh(3 << 20)  # which the fast path leaves to the long way


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server with one worker, which has all the clients."""
    with Server(tmp_path_factory.mktemp("lonely"), workers=1) as server:
        stor = House(server)
        for content in (SMALL, LARGE):
            assert stor.store(content).status == 201
            for _ in range(3):
                assert stor.get(content).body == content
        yield stor


def send_in_two(wire: Wire, raw: bytes) -> None:
    wire.send(raw[:100])
    time.sleep(0.05)
    wire.send(raw[100:])


@pytest.mark.parametrize("field", [{"Range": "bytes=0-99"}, {"If-None-Match": "*"}], ids=["a range", "a condition"])
@pytest.mark.parametrize("long", [False, True], ids=["in two pieces", "in a long head"])
def test_who_reads_a_part_does_not_make_others_read_a_part(lonely: House, field: dict[str, str], long: bool) -> None:
    agent = {"User-Agent": f"{field}{long}"}
    special = request("GET", f"/{sha(LARGE)}", {**agent, **field, **({"X": "x" * 9000} if long else {})})
    plain = request("GET", f"/{sha(LARGE)}", agent)
    with lonely.wire() as wire:
        for _ in range(2):
            send_in_two(wire, special)
            assert wire.answer().status in (206, 304)
            wire.send(plain)
            assert wire.answer().status == 200

    with lonely.wire() as stranger:
        for _ in range(3):
            stranger.send(request("GET", f"/{sha(SMALL)}", agent))
            answer = stranger.answer()
            assert (answer.status, answer.body) == (200, SMALL)


@pytest.mark.parametrize("unruly", ["x: \x01", "transfer-encoding: nonsense", "content-length: x"])
def test_a_strangers_upload_is_not_let_in_by_the_password_of_who_used_the_connection_before(
    lonely: House, unruly: str
) -> None:
    """As behind a proxy that keeps its connections and shares them."""
    body, name = fresh(9000), fresh(5)
    with lonely.wire() as wire:
        wire.send(lonely.head_of_upload(sha(body), None) + chunked([body]))
        assert wire.answer().status in (200, 201)
        head = f"POST /{sha(body)} HTTP/1.1\r\nHost: x\r\ncontent-length: 5\r\n{unruly}\r\n\r\n".encode()
        wire.send(head + b"12345")
        assert wire.answer().status == 400

    for _ in range(3):
        with lonely.wire() as stranger:
            stranger.send(head.replace(sha(body).encode(), sha(name).encode()) + name)
            assert stranger.answer().status in (400, 401)
    assert lonely.get(name).status == 404
