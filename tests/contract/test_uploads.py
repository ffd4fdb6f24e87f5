"""B1: uploads on the wire - slow ones, cut ones, refused ones, many at once - and what they leave on disk: nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Final

import pytest

from tests.contract import disk
from tests.contract.disk import fresh, place_on, settles, sha
from tests.contract.house import House, at_once
from tests.contract.wire import Wire, chunked, request
from tests.support.server import Server

IDLE: Final = 2.0
"""Seconds after which the impatient server gives an upload up."""

MIB: Final = 1 << 20


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server that waits two seconds for an upload that stands still, and takes no blob over 4 MiB."""
    config = {"upload_idle_timeout": IDLE, "max_blob_size": 4 * MIB}
    with Server(tmp_path_factory.mktemp("impatient"), config=config) as server:
        yield House(server)


# Quick


def test_the_answer_to_an_upload_is_one_segment(stor: House) -> None:
    """Each one more would cost as much as all the rest of it."""
    content = fresh(100)
    with stor.wire() as wire:
        for _ in range(2):
            before = wire.segments
            wire.send(stor.head_of_upload(sha(content), len(content)) + content)
            assert wire.answer().status in {200, 201}
            assert wire.segments - before == 1


# Slow


def test_an_upload_byte_by_byte_is_stored(stor: House) -> None:
    content = fresh(300)
    with stor.wire() as wire:
        for byte in stor.head_of_upload(sha(content), len(content)) + content:
            wire.send(bytes([byte]))
        assert wire.answer().status == 201

    assert stor.get(content).body == content


def test_a_chunked_upload_byte_by_byte_is_stored(stor: House) -> None:
    content = fresh(100)
    with stor.wire() as wire:
        for byte in stor.head_of_upload(sha(content), None) + chunked(content[at : at + 1] for at in range(100)):
            wire.send(bytes([byte]))
        assert wire.answer().status == 201

    assert stor.get(content).body == content


def test_a_chunked_upload_is_stored(stor: House) -> None:
    content = fresh(3_000_000)
    with stor.only_adds(content):
        assert stor.store_chunked(content, piece=77_777).status == 201


def test_a_chunked_upload_with_extensions_and_trailers_is_stored(stor: House) -> None:
    content = fresh(10)
    coded = b"a;name=value\r\n" + content + b"\r\n0\r\nX-Trailer: yes\r\n\r\n"
    with stor.wire() as wire:
        wire.send(stor.head_of_upload(sha(content), None), coded)
        assert wire.answer().status == 201


def test_an_upload_that_trickles_is_not_one_that_stands_still(impatient: House) -> None:
    content = fresh(4)
    with impatient.wire() as wire:
        wire.send(impatient.head_of_upload(sha(content), len(content)))
        for byte in content:
            time.sleep(IDLE * 0.4)
            wire.send(bytes([byte]))
        assert wire.answer().status == 201


@pytest.mark.parametrize("sent", [0, 500_000])
@pytest.mark.parametrize("size", [MIB, None], ids=["declared", "chunked"])
def test_an_upload_that_stands_still_is_408_and_leaves_nothing_behind(
    impatient: House, size: int | None, sent: int
) -> None:
    content = fresh(MIB)
    body = content[:sent] if size else b"%x\r\n" % MIB + content[:sent]
    began = time.monotonic()
    with impatient.nothing_left_behind(), impatient.wire() as wire:
        wire.send(impatient.head_of_upload(sha(content), size), body)
        answer = wire.answer()
        wire.rest()

    assert answer.status == 408
    assert IDLE * 0.9 < time.monotonic() - began < IDLE + 5
    assert impatient.get(content).status == 404


def test_many_uploads_that_stand_still_hold_nobody_up(impatient: House) -> None:
    with impatient.wires(60) as wires:
        for wire in wires:
            wire.send(impatient.head_of_upload(sha(fresh()), MIB), b"x" * 1000)
        content, began = fresh(), time.monotonic()
        assert impatient.store(content).status == 201
        assert impatient.get(content).body == content
        assert time.monotonic() - began < IDLE
        statuses = {wire.answer().status for wire in wires}

    assert statuses == {408}


# Cut


CUTS: Final = pytest.mark.parametrize("sent", [0, 1, 50_000, 199_999])


@CUTS
def test_a_body_shorter_than_declared_is_400_to_a_client_that_still_listens(stor: House, sent: int) -> None:
    content = fresh(200_000)
    with stor.nothing_left_behind(), stor.wire() as wire:
        wire.send(stor.head_of_upload(sha(content), len(content)), content[:sent])
        wire.end()
        assert wire.answer().status == 400

    assert stor.get(content).status == 404


@CUTS
def test_a_chunked_body_that_is_cut_is_400_to_a_client_that_still_listens(stor: House, sent: int) -> None:
    content = fresh(200_000)
    while sent and stor.get(content[:sent]).status != 404:
        content = fresh(200_000)  # another test may have stored the same single byte
    with stor.nothing_left_behind(), stor.wire() as wire:
        # The empty blob may be stored already, and a duplicate is answered early.
        wire.send(stor.head_of_upload(sha(content[:sent] or content), None))
        wire.send(chunked([content[:sent]] if sent else [], end=False))
        wire.end()
        assert wire.answer().status == 400

    assert stor.ask("GET", f"/{sha(content[:sent])}").status == 404 or sent == 0


def test_a_body_shorter_than_declared_is_not_stored_though_its_hash_is_right(stor: House) -> None:
    content = fresh(1000)
    with stor.nothing_left_behind(), stor.wire() as wire:
        wire.send(stor.head_of_upload(sha(content), 2000), content)
        wire.end()
        wire.rest()

    assert stor.get(content).status == 404


def test_an_upload_without_a_name_that_is_cut_is_not_stored(stor: House) -> None:
    content = fresh(1000)
    for size, body in ((2000, content), (None, chunked([content], end=False))):
        with stor.nothing_left_behind(), stor.wire() as wire:
            wire.send(stor.head_of_upload("", size), body)
            wire.end()
            wire.rest()

    assert stor.get(content).status == 404


@pytest.mark.parametrize("size", [200_000, None], ids=["declared", "chunked"])
def test_an_upload_whose_client_is_killed_leaves_nothing_behind(stor: House, size: int | None) -> None:
    content = fresh(200_000)
    with stor.nothing_left_behind():
        wire = stor.wire()
        wire.send(stor.head_of_upload(sha(content), size), content[:100_000] if size else chunked([content], end=False))
        time.sleep(0.1)
        wire.reset()

    assert stor.get(content).status == 404


def test_an_upload_that_is_aborted_and_retried_at_the_same_time_is_stored(stor: House) -> None:
    content = fresh(200_000)
    first = stor.wire()
    first.send(stor.head_of_upload(sha(content), len(content)), content[:150_000])
    time.sleep(0.1)
    with stor.only_adds(content):
        assert stor.store(content).status in {200, 201}
        first.reset()
        time.sleep(0.2)

    assert stor.get(content).body == content


# Expect: 100-continue


def expecting(stor: House, name: str, size: int, *, login: bool = True) -> bytes:
    return stor.head_of_upload(name, size, {"Expect": "100-continue"}, login=login)


def test_a_client_that_asks_first_is_told_to_go_on(stor: House) -> None:
    content = fresh()
    with stor.wire() as wire:
        wire.send(expecting(stor, sha(content), len(content)))
        assert wire.start() == (100, {})
        wire.send(content)
        assert wire.answer().status == 201


def test_a_client_that_asks_first_is_not_told_to_go_on_when_its_body_is_not_wanted(impatient: House) -> None:
    known = fresh()
    impatient.store(known)
    for status, head in (
        (401, expecting(impatient, sha(fresh()), 1000, login=False)),
        (200, expecting(impatient, sha(known), 1000)),
        (413, expecting(impatient, sha(fresh()), 5 * MIB)),
        (412, expecting(impatient, "xyz", 1000)),
    ):
        with impatient.wire() as wire:
            wire.send(head)
            answer = wire.answer()
            assert (answer.status, answer.interim) == (status, ())


# Early answers


BIG: Final = 20 * MIB


def early(stor: House, head: bytes) -> tuple[int, bool]:
    """Send a head and 20 MiB and only then listen: gives the status, and whether the connection can be used again."""
    piece = bytes(MIB)
    with stor.wire(timeout=30) as wire:
        wire.send(head, *(piece for _ in range(BIG // MIB)))
        status = wire.answer().status
        try:
            wire.send(request("GET", "/live"))
            return status, wire.answer().status == 200
        except ConnectionError:
            return status, False


def early_chunked(stor: House, head: bytes) -> int:
    piece = bytes(MIB)
    with stor.wire(timeout=30) as wire:
        wire.send(head, *(chunked([piece], end=False) for _ in range(BIG // MIB)), b"0\r\n\r\n")
        return wire.answer().status


def test_a_client_without_credentials_that_is_still_sending_gets_its_401(stor: House) -> None:
    assert early(stor, stor.head_of_upload(sha(fresh()), BIG, login=False))[0] == 401
    assert early_chunked(stor, stor.head_of_upload(sha(fresh()), None, login=False)) == 401


def test_a_client_that_is_still_sending_a_duplicate_gets_its_200(stor: House) -> None:
    content = fresh()
    stor.store(content)

    assert early(stor, stor.head_of_upload(sha(content), BIG))[0] == 200
    assert early_chunked(stor, stor.head_of_upload(sha(content), None)) == 200


def test_a_client_that_is_still_sending_too_much_gets_its_413(impatient: House) -> None:
    assert early(impatient, impatient.head_of_upload(sha(fresh()), BIG))[0] == 413
    assert early_chunked(impatient, impatient.head_of_upload(sha(fresh()), None)) == 413


def test_a_client_that_is_still_sending_under_a_malformed_name_gets_its_412(stor: House) -> None:
    assert early(stor, stor.head_of_upload("xyz", BIG))[0] == 412


def test_a_client_that_is_still_sending_to_nowhere_gets_its_answer(stor: House) -> None:
    assert early(stor, stor.head_of_upload("a/b", BIG))[0] == 404
    assert early(stor, stor.head_of_upload("status", BIG))[0] == 405


def test_a_connection_goes_on_or_is_closed_after_an_early_answer_but_never_lies(stor: House) -> None:
    content = fresh()
    stor.store(content)
    with Wire(stor.address) as wire:
        wire.send(stor.head_of_upload(sha(content), 3), b"GET", request("GET", "/live"))
        assert wire.answer().status == 200
        after = wire.up_to(12)

    assert after in {b"", b"HTTP/1.1 200"}


# Many


def test_sixteen_identical_uploads_at_once_are_one_blob(stor: House) -> None:
    for size in (100, 300_000, 300_000):
        content = fresh(size)
        with stor.only_adds(content):
            answers = at_once(stor, [(content, "POST")] * 16)

        assert {answer.status for answer in answers} <= {200, 201}
        assert 201 in {answer.status for answer in answers}
        assert len({answer.body for answer in answers}) == 1
        assert len(stor.replicas(content)) == 2


def test_sixteen_identical_uploads_without_a_name_at_once_are_one_blob(stor: House) -> None:
    content = fresh(300_000)
    with stor.only_adds(content), stor.wires(16) as wires:
        for wire in wires:
            wire.send(request("POST", "/", stor.login, content))
        answers = [wire.answer() for wire in wires]

    assert {answer.status for answer in answers} <= {200, 201}
    assert len(stor.replicas(content)) == 2


def test_fifty_different_uploads_at_once_are_fifty_blobs(stor: House) -> None:
    contents = [fresh(20_000 + number) for number in range(50)]
    with stor.only_adds(*contents):
        answers = at_once(stor, [(content, "POST" if at % 2 else "PUT") for at, content in enumerate(contents)])

    assert [answer.status for answer in answers] == [201] * 50
    assert [stor.get(content).body == content for content in contents] == [True] * 50


def test_right_and_wrong_bodies_of_one_digest_at_once_store_the_right_one(stor: House) -> None:
    content = fresh(100_000)
    bodies = [*(fresh(100_000) for _ in range(8)), content]
    with stor.only_adds(content), stor.wires(9) as wires:
        for wire, body in zip(wires, bodies, strict=True):
            wire.send(stor.head_of_upload(sha(content), len(body)), body)
        statuses = [wire.answer().status for wire in wires]

    assert statuses[-1] in {200, 201}
    assert set(statuses) <= {200, 201, 412}


def test_uploads_one_after_another_go_over_one_connection(stor: House) -> None:
    contents = [fresh(1000 * number) for number in range(1, 20)]
    with stor.wire() as wire:
        for content in contents:
            wire.send(request("POST", f"/{sha(content)}", stor.login, content), request("GET", f"/{sha(content)}"))
            assert wire.answer().status == 201
            assert wire.answer().body == content


def test_a_connection_goes_on_after_an_upload_that_was_refused(stor: House) -> None:
    with stor.wire() as wire:
        wire.send(request("POST", f"/{sha(fresh())}", stor.login, b"another"))
        assert wire.answer().status == 412
        wire.send(request("GET", "/live"))
        assert wire.answer().status == 200


# On disk


def test_an_upload_of_which_more_came_while_the_server_was_paused_goes_on(impatient: House) -> None:
    content = fresh(200_000)
    with impatient.wire() as wire:
        wire.send(impatient.head_of_upload(sha(content), len(content)), content[:1000])
        time.sleep(0.2)
        processes = impatient.server.processes()
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        wire.send(content[1000:])
        time.sleep(IDLE + 0.5)
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
        assert wire.answer().status == 201


def test_no_final_name_appears_before_the_upload_is_whole(stor: House) -> None:
    content = fresh(400_000)
    with stor.wire() as wire:
        wire.send(stor.head_of_upload(sha(content), len(content)), content[:-1])
        time.sleep(0.3)
        assert stor.names(sha(content)) == []
        assert stor.get(content).status == 404
        wire.send(content[-1:])
        assert wire.answer().status == 201

    assert len(stor.names(sha(content))) == 2


def test_both_replicas_are_on_disk_when_the_answer_comes(stor: House) -> None:
    for _ in range(20):
        content = fresh(10_000)
        assert stor.store(content).status == 201
        assert len(stor.replicas(content)) == 2


def test_what_is_on_its_way_lies_in_a_directory_that_starts_with_a_dot(stor: House) -> None:
    content = fresh(2 * MIB)
    before = disk.files(stor.storages)
    with stor.wire() as wire:
        wire.send(stor.head_of_upload(sha(content), len(content)), content[:MIB])
        assert settles(lambda: len(disk.files(stor.storages) - before) == 2)
        new = disk.files(stor.storages) - before
        wire.send(content[MIB:])
        assert wire.answer().status == 201

    holders = [storage for storage in stor.storages for path in new if path.is_relative_to(storage)]
    assert tuple(holders) in stor.pairs
    assert all(
        path.relative_to(storage).parts[0].startswith(".") for path, storage in zip(sorted(new), holders, strict=True)
    )


def test_a_disk_filled_by_the_original_is_served_as_it_is(stor: House) -> None:
    contents = [fresh(number * 100) for number in range(1, 30)]
    paths = [path for at, content in enumerate(contents) for path in place_on(stor.pairs[at % 2], content)]
    before = [(path.stat().st_mode, path.stat().st_mtime_ns, path.stat().st_ino) for path in paths]

    for content in contents:
        answer = stor.get(content)
        assert (answer.status, answer.body) == (200, content)
        assert answer.headers["last-modified"] == "Fri, 13 Feb 2009 23:31:30 GMT"
    assert [(path.stat().st_mode, path.stat().st_mtime_ns, path.stat().st_ino) for path in paths] == before


def test_the_original_could_serve_what_was_stored(stor: House) -> None:
    contents = [fresh() for _ in range(10)]
    with stor.only_adds(*contents):
        for content in contents:
            stor.store(content)

    for content in contents:
        paths = stor.replicas(content)
        assert len(paths) == 2
        assert all(path.is_file() and not path.is_symlink() for path in paths)
