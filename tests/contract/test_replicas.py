"""Two replicas are one blob: a missing, unreadable or bad one is never noticed by a client, and is made whole."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.contract import disk
from tests.contract.conftest import HouseFactory
from tests.contract.disk import Damage, fresh, is_whole, kept, place, place_on, replica, settles, sha
from tests.contract.house import House
from tests.contract.wire import request
from tests.support import needs
from tests.support.mounts import Mounts
from tests.support.processes import bytes_read
from tests.support.server import Server

SMALL, LARGE = 5_000, 3_000_000

DAMAGES: Final = (disk.missing, disk.truncated, disk.emptied, disk.flipped, disk.lengthened)
OBSTACLES: Final = (disk.a_directory, disk.a_dangling_link, disk.a_looping_link)

MEMBERS: Final = pytest.mark.parametrize("member", [0, 1], ids=["first-member", "second-member"])
SIZES: Final = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
ANY_DAMAGE: Final = pytest.mark.parametrize("damage", DAMAGES + OBSTACLES)
METHODS: Final = pytest.mark.parametrize("method", ["POST", "PUT"])


def two_replicas(stor: House, content: bytes) -> list[Path]:
    return place_on(stor.pairs[0], content)


# Uploads make blobs whole


@MEMBERS
@SIZES
@pytest.mark.parametrize("damage", [*DAMAGES, disk.a_dangling_link])
def test_an_upload_makes_a_blob_whole_and_is_200(stor: House, size: int, damage: Damage, member: int) -> None:
    content = fresh(size)
    paths = two_replicas(stor, content)
    damage(paths[member])

    answer = stor.store(content)
    assert (answer.status, json.loads(answer.body)) == (200, [str(path) for path in paths])
    assert [is_whole(path, content) for path in paths] == [True, True]


@MEMBERS
@SIZES
@pytest.mark.parametrize("obstacle", [disk.a_directory, disk.a_looping_link])
def test_an_upload_over_something_that_cannot_be_read_is_whole_where_its_answer_says_or_is_5xx(
    stor: House, size: int, obstacle: Damage, member: int
) -> None:
    content = fresh(size)
    obstacle(two_replicas(stor, content)[member])

    answer = stor.store(content)
    if answer.status < 500:
        paths = [Path(path) for path in json.loads(answer.body)]
        assert (len(paths), [is_whole(path, content) for path in paths]) == (2, [True, True])
    assert stor.get(content).body == content


@METHODS
@pytest.mark.parametrize("damage", [disk.truncated, disk.flipped, disk.lengthened])
def test_an_upload_makes_a_blob_whole_that_has_no_good_replica_left(stor: House, method: str, damage: Damage) -> None:
    content = fresh(SMALL)
    paths = two_replicas(stor, content)
    for path in paths:
        damage(path)

    assert stor.store(content, method=method).status in {200, 201}
    assert stor.replicas(content) == paths


@MEMBERS
@SIZES
@pytest.mark.parametrize("damage", [disk.truncated, disk.flipped, disk.lengthened])
def test_a_bad_replica_is_kept_aside_on_its_own_storage(stor: House, size: int, damage: Damage, member: int) -> None:
    content = fresh(size)
    paths = two_replicas(stor, content)
    spoilt = damage(paths[member])
    assert spoilt is not None
    stor.store(content)

    assert kept(stor.pairs[0][member], spoilt)
    assert not kept(stor.pairs[0][1 - member], spoilt)


def test_a_bad_replica_that_is_kept_lies_out_of_the_way_of_the_blobs(stor: House) -> None:
    content = fresh(SMALL)
    paths = two_replicas(stor, content)
    before = disk.blobs(stor.storages)
    disk.flipped(paths[0])
    stor.store(content)

    assert disk.blobs(stor.storages) == before


def test_a_replica_found_bad_after_it_was_served_is_made_whole(stor: House) -> None:
    content = fresh(SMALL)
    stor.store(content)
    for _ in range(20):
        assert stor.get(content).body == content
    disk.flipped(stor.replicas(content)[1])

    assert stor.store(content).status == 200
    assert len(stor.replicas(content)) == 2


def test_a_wrong_body_never_gets_into_a_blob_that_is_not_whole(stor: House) -> None:
    content, wrong = fresh(SMALL), fresh(SMALL)
    disk.missing(two_replicas(stor, content)[1])
    answer = stor.store(wrong, name=sha(content))

    assert answer.status in {200, 412}
    assert not any(kept(storage, wrong) for storage in stor.storages)
    assert stor.get(content).body == content


@pytest.mark.parametrize("keep", [1, 2_500])
def test_a_cut_body_never_gets_into_a_blob_that_is_not_whole(stor: House, keep: int) -> None:
    content = fresh(SMALL)
    paths = two_replicas(stor, content)
    disk.missing(paths[1])
    with stor.nothing_left_behind(), stor.wire() as wire:
        wire.send(stor.head_of_upload(sha(content), SMALL), content[:keep])
        wire.end()
        wire.rest()

    assert stor.get(content).body == content


def test_making_a_blob_whole_leaves_nothing_else_behind(make_stor: HouseFactory) -> None:
    stor, content = make_stor(), fresh(SMALL)  # of its own: elsewhere the blobs of other tests are being repaired
    path = two_replicas(stor, content)[1]
    before = disk.files(stor.storages)
    disk.missing(path)
    stor.store(content)

    assert settles(lambda: disk.files(stor.storages) == before)


def test_a_blob_in_two_pairs_is_made_whole_in_both(stor: House) -> None:
    content = fresh(SMALL)
    paths = [path for pair in stor.pairs for path in place_on(pair, content)]
    disk.missing(paths[1])
    disk.truncated(paths[2])

    answer = stor.store(content)
    assert (answer.status, sorted(json.loads(answer.body))) == (200, sorted(map(str, paths)))
    assert stor.replicas(content) == paths


# Reads go to the replica that is good


@MEMBERS
@ANY_DAMAGE
def test_a_get_gives_the_right_bytes_whatever_one_replica_is_like(stor: House, damage: Damage, member: int) -> None:
    content = fresh(SMALL)
    damage(two_replicas(stor, content)[member])

    for _ in range(8):
        answer = stor.get(content)
        assert (answer.status, answer.body == content) == (200, True)


@MEMBERS
@pytest.mark.parametrize("damage", [disk.missing, disk.emptied, *OBSTACLES])
def test_a_get_of_a_large_blob_gives_the_right_bytes_though_a_replica_cannot_be_read(
    stor: House, damage: Damage, member: int
) -> None:
    content = fresh(LARGE)
    damage(two_replicas(stor, content)[member])

    for _ in range(8):
        answer = stor.get(content)
        assert (answer.status, answer.body == content) == (200, True)


@MEMBERS
@pytest.mark.parametrize("damage", [disk.truncated, disk.flipped, disk.lengthened])
def test_a_get_of_a_large_blob_gives_the_right_bytes_or_is_cut_and_right_when_tried_again(
    stor: House, damage: Damage, member: int
) -> None:
    content = fresh(LARGE)
    damage(two_replicas(stor, content)[member])
    whole = 0

    for _ in range(20):
        with contextlib.suppress(ConnectionError):
            answer = stor.get(content)
            assert (answer.status, answer.body == content) == (200, True)
            whole += 1
    assert whole


@MEMBERS
@ANY_DAMAGE
def test_a_get_gives_the_right_bytes_when_a_replica_that_was_served_goes_bad(
    stor: House, damage: Damage, member: int
) -> None:
    content = fresh(SMALL)
    paths = two_replicas(stor, content)
    for _ in range(20):
        assert stor.get(content).body == content
    damage(paths[member])

    assert [stor.get(content).body == content for _ in range(8)] == [True] * 8


@MEMBERS
@ANY_DAMAGE
def test_a_head_and_a_range_are_right_whatever_one_replica_is_like(stor: House, damage: Damage, member: int) -> None:
    content = fresh(SMALL)
    damage(two_replicas(stor, content)[member])

    for _ in range(8):
        head = stor.ask("HEAD", f"/{sha(content)}")
        part = stor.get(content, {"Range": "bytes=2400-2600"})
        assert (head.status, head.headers["content-length"]) == (200, str(SMALL))
        assert (part.status, part.body == content[2400:2601]) == (206, True)


@pytest.mark.parametrize("damage", [disk.truncated, disk.emptied, disk.flipped, disk.lengthened])
@SIZES
def test_wrong_bytes_never_look_like_a_blob(stor: House, damage: Damage, size: int) -> None:
    content = fresh(size)
    for path in two_replicas(stor, content):
        damage(path)

    for _ in range(4):
        try:
            answer = stor.get(content)
        except ConnectionError:
            continue  # found out on the way, and cut
        assert answer.status >= 400


@pytest.mark.parametrize("damage", [disk.truncated, disk.flipped, disk.lengthened])
def test_a_bad_replica_found_by_reading_is_not_deleted(stor: House, damage: Damage) -> None:
    content = fresh(SMALL)
    spoilt = damage(two_replicas(stor, content)[0])
    assert spoilt is not None
    for _ in range(8):
        assert stor.get(content).body == content

    assert settles(lambda: kept(stor.pairs[0][0], spoilt))  # a walk may miss what is moved to quarantine meanwhile


def test_reads_are_spread_over_the_members_of_a_pair(stor: House) -> None:
    content = fresh()
    for storage, modified in zip(stor.pairs[1], [disk.OLD, disk.OLD + 1000], strict=True):
        place(storage, content, modified)
    times = [stor.get(content).headers["last-modified"] for _ in range(100)]

    assert len(set(times)) == 2
    assert all(times.count(time) >= 20 for time in set(times)), times


def test_a_large_blob_is_read_from_both_members_too(stor: House) -> None:
    content = fresh(LARGE)
    for storage, modified in zip(stor.pairs[1], [disk.OLD, disk.OLD + 1000], strict=True):
        place(storage, content, modified)

    assert len({stor.get(content).headers["last-modified"] for _ in range(40)}) == 2


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_the_replicas_of_an_upload_are_of_one_time_though_one_disk_took_longer(
    make_stor: HouseFactory, mounts: Mounts, size: int
) -> None:
    """`Last-Modified` is that of whichever replica is read: it must not change from one request to the next."""
    needs.tool("fsfreeze")
    pair = (mounts.ext4(), mounts.ext4())
    stor, content = make_stor(pairs=[pair]), fresh(size)
    with stor.wire() as wire:
        wire.send(stor.head_of_upload(sha(content), size))
        wire.send(content[: size // 2])
        assert settles(lambda: all(begun(storage) or size == SMALL for storage in pair))
        with frozen(pair[1]):
            wire.send(content[size // 2 :])
            time.sleep(1.05)
        assert wire.answer().status == 201

    assert len({stor.get(content).headers["last-modified"] for _ in range(20)}) == 1
    first, second = (replica(storage, sha(content)).stat().st_mtime for storage in pair)
    assert int(first) == int(second)


def begun(storage: Path) -> bool:
    """Whether something of an upload is written."""
    return any(path.stat().st_size for path in (storage / ".stor" / "tmp").iterdir())


@contextlib.contextmanager
def frozen(storage: Path) -> Iterator[None]:
    """A disk that does not write for a while."""
    subprocess.run(["fsfreeze", "--freeze", storage], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", storage], check=True)


@pytest.mark.parametrize("pair", [0, 1])
@MEMBERS
def test_a_single_replica_anywhere_is_found(stor: House, pair: int, member: int) -> None:
    content = fresh()
    place(stor.pairs[pair][member], content)

    assert [stor.get(content).body for _ in range(6)] == [content] * 6


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_a_large_replica_is_hashed_once_for_all_who_need_it_at_the_same_time(
    make_stor: HouseFactory, method: str
) -> None:
    stor = make_stor(workers=1)
    content = fresh(16 << 20)
    paths = place_on(stor.pairs[0], content)
    if method == "HEAD":
        disk.truncated(paths[1])  # so its length is told only when one of them is known to be good
    asked = request("HEAD", f"/{sha(content)}")
    offered = stor.head_of_upload(sha(content), len(content), {"Expect": "100-continue"})
    before = sum(map(bytes_read, stor.server.processes()))
    with stor.wires(20) as wires:
        for wire in wires:
            wire.send(asked if method == "HEAD" else offered)
        assert {wire.answer(head=method == "HEAD").status for wire in wires} == {200}
    assert sum(map(bytes_read, stor.server.processes())) - before < 6 * len(content)


def test_a_read_goes_on_from_the_other_replica_when_one_ends_too_early(stor: House) -> None:
    content = fresh(64 << 20)
    paths = {}
    for storage, modified in zip(stor.pairs[0], [disk.OLD, disk.OLD + 1000], strict=True):
        path = place(storage, content, modified)
        paths[stat_time(path)] = path
    with stor.wire(receive_buffer=65_536) as wire:
        wire.send(f"GET /{sha(content)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        status, headers = wire.start()
        begin = wire.receive(100_000)
        with paths[headers["last-modified"]].open("r+b") as file:
            file.truncate(8 << 20)
        rest = wire.receive(len(content) - len(begin))

    assert (status, begin + rest == content) == (200, True)


def test_a_body_that_nobody_can_go_on_with_is_cut_short_of_its_length(stor: House) -> None:
    content = fresh(64 << 20)
    paths = two_replicas(stor, content)
    with stor.wire(receive_buffer=65_536) as wire:
        wire.send(f"GET /{sha(content)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wire.start()
        begin = wire.receive(100_000)
        for path in paths:
            with path.open("r+b") as file:
                file.truncate(8 << 20)
        rest = wire.rest()

    assert len(begin + rest) < len(content)
    assert content.startswith(begin + rest[: (8 << 20) - len(begin)])


def stat_time(path: Path) -> str:
    return {disk.OLD: "Fri, 13 Feb 2009 23:31:30 GMT", disk.OLD + 1000: "Fri, 13 Feb 2009 23:48:10 GMT"}[
        path.stat().st_mtime
    ]


# A storage that fails is not a storage that has nothing


@pytest.fixture(scope="module")
def ailing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server whose storages fail now and then."""
    with Server(tmp_path_factory.mktemp("ailing")) as server:
        yield House(server)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@MEMBERS
def test_unknown_is_503_and_not_404_when_a_storage_did_not_answer(ailing: House, method: str, member: int) -> None:
    unknown = sha(fresh())
    with disk.a_failing_branch(ailing.pairs[1][member], unknown):
        for _ in range(8):
            answer = ailing.ask(method, f"/{unknown}")
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["content-length"] != "0"


def test_unknown_is_404_again_when_the_storage_answers_again(ailing: House) -> None:
    unknown = sha(fresh())
    with disk.a_failing_branch(ailing.pairs[1][0], unknown):
        assert ailing.ask("GET", f"/{unknown}").status == 503

    assert settles(lambda: ailing.ask("GET", f"/{unknown}").status == 404)


@pytest.mark.parametrize("failing", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_blob_is_served_though_a_storage_fails(ailing: House, failing: tuple[int, int]) -> None:
    content = fresh()
    place_on(ailing.pairs[0], content)
    with disk.a_failing_branch(ailing.pairs[failing[0]][failing[1]], sha(content)):
        for _ in range(8):
            answer = ailing.get(content)
            assert (answer.status, answer.body) == (200, content)


def test_a_file_where_a_directory_should_be_is_a_blob_that_is_not_there(ailing: House) -> None:
    unknown, branch = next(
        (name, branch)
        for name in iter(lambda: sha(fresh()), None)
        if not (branch := replica(ailing.pairs[0][0], name).parents[2]).exists()
    )
    branch.write_bytes(b"no directory")
    try:
        assert ailing.ask("GET", f"/{unknown}").status == 404
    finally:
        branch.unlink()


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_an_upload_is_not_acknowledged_without_both_replicas(ailing: House, size: int) -> None:
    content = fresh(size)
    with contextlib.ExitStack() as failures:
        for pair in ailing.pairs:
            failures.enter_context(disk.a_failing_branch(pair[1], sha(content)))
        answer = ailing.store(content)

    assert answer.status in {500, 503, 507}
    assert answer.headers["content-type"].startswith("text/plain")
    assert b"Traceback" not in answer.body
    # A good replica that got its name already may stay; a temporary may not.
    assert ailing.names(sha(content)) == ailing.replicas(content)
    assert all(kept_only_under_its_name(storage, content) for storage in ailing.storages)


def kept_only_under_its_name(storage: Path, content: bytes) -> bool:
    return all(path == replica(storage, sha(content)) for path in disk.files([storage]) if is_whole(path, content))
