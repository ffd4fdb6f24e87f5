"""A replica that cannot be read, or is wrong: readers get the right bytes from the other, and it is repaired."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import pytest

from tests.contract import disk
from tests.contract.disk import Damage, fresh, is_whole, kept, place_on, replica, settles, sha
from tests.contract.house import House
from tests.faults.conftest import Shared, shared
from tests.faults.reads import Repeated, page, read_once, reads
from tests.support.fuse import Fault, FaultyStorage
from tests.support.server import Server

MIB: Final = 1 << 20
READS: Final = max(100, int(os.environ.get("STOR_TEST_READS", "1000")))
"""Reads of small blobs for each fault; of large ones there are fewer, by their size."""
SMALL, LARGE, HUGE = 5_000, 20 * MIB, 100 * MIB
_CLIENTS: Final = 4
_WORKERS: Final = 2


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """One pair of storages, both of which fail when they are told to."""
    with shared(tmp_path_factory.mktemp("both"), faulty=2, healthy=0) as mine:
        yield mine


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two pairs of plain directories, for damage that needs no failing disk, and is done to blobs of one's own."""
    with Server(tmp_path_factory.mktemp("sound"), workers=_WORKERS) as server:
        yield House(server)


def read_all(stor: House, contents: Sequence[bytes], times: int) -> Counter[str]:
    """Read so many times, each blob in its turn; tells what came of it how often."""
    with ThreadPoolExecutor(_CLIENTS) as pool:
        return Counter(pool.map(partial(read_once, stor), itertools.islice(itertools.cycle(contents), times)))


def read_many(stor: House, content: bytes, times: int) -> set[str]:
    return set(read_all(stor, [content], times))


@contextlib.contextmanager
def no_repair(stor: House) -> Iterator[None]:
    """Have the turn of every repair queue, so that what is bad stays so."""
    with contextlib.ExitStack() as stack:
        for storage in stor.storages:
            fd = os.open(storage / ".stor/repair", os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield


def inode_of(faulty: FaultyStorage, content: bytes) -> int:
    return replica(faulty.source, sha(content)).stat().st_ino


@pytest.mark.parametrize(
    ("size", "times", "where"),
    [
        (SMALL, READS, Fault(("open",), error="EIO")),
        (SMALL, READS, Fault(("read",), error="EIO")),
        (LARGE, READS // 50, Fault(("open",), error="EIO")),
        (HUGE, READS // 100, Fault(("read",), error="EIO", start=50 * MIB)),
    ],
    ids=["open-small", "read-small", "open-large", "read-huge-in-the-middle"],
)
def test_every_read_is_right_and_a_replica_with_bad_sectors_is_replaced_within_seconds(
    stor: House, faulty: FaultyStorage, size: int, times: int, where: Fault
) -> None:
    content = fresh(size)
    assert stor.store(content).status == 201
    bad = inode_of(faulty, content)
    faulty.fail(Fault(where.operations, error=where.error, start=where.start, inode=bad))

    with no_repair(stor):
        assert read_all(stor, [content], times) == {"ok": times}
        assert inode_of(faulty, content) == bad
    assert settles(lambda: inode_of(faulty, content) != bad)
    assert replica(faulty.source, sha(content)).read_bytes() == content
    assert settles(lambda: not (faulty.source / ".stor/repair" / sha(content).upper()).exists())


@pytest.mark.parametrize("size", [SMALL, 3 * MIB], ids=["small", "large"])
def test_a_bad_sector_that_a_disk_takes_long_to_give_up_costs_one_timeout_and_no_storage(
    stor: House, faulty: FaultyStorage, size: int
) -> None:
    content = fresh(size)
    assert stor.store(content).status == 201
    bad = inode_of(faulty, content)
    with (
        faulty.failing(Fault(("read",), error="EIO", delay=4.0, inode=bad)),
        page(stor, "/status") as status,
        Repeated(lambda: str(stor.store(fresh(SMALL)).status), 1) as stored,
        reads(stor, [content], 2) as asked,
    ):
        assert settles(lambda: inode_of(faulty, content) != bad)

    assert asked.outcomes() == {"ok"}
    assert asked.worst() < 3.0  # the timeout of 2 s once; the rest is for the machine
    assert status.outcomes() == {"200"}
    assert stored.outcomes() == {"201"}
    assert replica(faulty.source, sha(content)).read_bytes() == content
    assert len(list((faulty.source / ".stor/quarantine").glob(f"{sha(content).upper()}.*"))) == 1


@pytest.mark.parametrize("damage", [disk.flipped, disk.truncated, disk.emptied, disk.lengthened, disk.missing])
@pytest.mark.parametrize(
    ("size", "count", "times"), [(SMALL, 20, READS), (5 * MIB, 2, READS // 20)], ids=["small", "large"]
)
def test_every_read_is_right_and_a_replica_that_is_bad_or_missing_is_replaced_within_seconds(
    sound: House, damage: Damage, size: int, count: int, times: int
) -> None:
    contents = [fresh(size) for _ in range(count)]
    spoilt = {path: damage(path) for content in contents for path in place_on(sound.pairs[0], content)[:1]}
    with no_repair(sound):
        found = read_all(sound, contents, times)
        assert {path: path.read_bytes() if path.exists() else None for path in spoilt} == spoilt
    if damage is disk.flipped and size > SMALL:
        # It is hashed while it is sent: who has its beginning already is cut off, and the next one gets the other.
        assert found["cut"] <= count * _WORKERS * _CLIENTS
        found["ok"] += found.pop("cut", 0)
    assert found == {"ok": times}

    for content, (path, wrong) in zip(contents, spoilt.items(), strict=True):
        # They are repaired one after the other, in any order, and each waits for the disk several times.
        assert settles(lambda path=path, content=content: is_whole(path, content), within=30)  # type: ignore[misc]
        assert wrong is None or kept(sound.storages[0], wrong)
    assert read_all(sound, contents, times) == {"ok": times}


@pytest.mark.parametrize("size", [SMALL, 3 * MIB], ids=["small", "large"])
def test_a_replica_that_goes_bad_again_is_repaired_again(sound: House, size: int) -> None:
    content = fresh(size)
    path = place_on(sound.pairs[0], content)[0]
    for damage in (disk.truncated, disk.missing, disk.emptied):
        damage(path)
        assert settles(lambda: read_once(sound, content) == "ok" and is_whole(path, content), within=15)


def test_a_large_replica_of_which_only_parts_are_read_is_found_bad_and_replaced_within_seconds(sound: House) -> None:
    content = fresh(LARGE)
    path = place_on(sound.pairs[0], content)[0]
    spoilt = disk.flipped(path)
    for _ in range(20):
        assert sound.get(content, {"Range": "bytes=5-9"}).body == content[5:10]
    assert settles(lambda: is_whole(path, content))
    assert spoilt is not None
    assert kept(sound.storages[0], spoilt)


@pytest.mark.parametrize("damage", [disk.truncated, disk.emptied, disk.lengthened])
def test_the_length_of_a_large_blob_is_right_whatever_one_replica_is_like(sound: House, damage: Damage) -> None:
    content = fresh(3 * MIB)
    damage(place_on(sound.pairs[0], content)[0])
    lengths = {sound.ask("HEAD", f"/{sha(content)}").headers["content-length"] for _ in range(20)}
    ends = {sound.get(content, {"Range": "bytes=-1"}).headers["content-range"] for _ in range(20)}
    assert lengths == {str(len(content))}
    assert ends == {f"bytes {len(content) - 1}-{len(content) - 1}/{len(content)}"}


@pytest.mark.parametrize("operation", ["open", "read"])
def test_every_read_is_right_while_a_disk_gives_nothing_and_it_is_used_again_afterwards(
    stor: House, faulty: FaultyStorage, operation: str
) -> None:
    contents = [fresh(SMALL) for _ in range(5)]
    assert {stor.store(content).status for content in contents} == {201}
    with faulty.failing(Fault((operation,), path=r"\.dat$", error="EIO")):
        for content in contents:
            assert read_many(stor, content, 20) == {"ok"}

    assert settles(lambda: stor.ask("GET", "/status").status == 200)
    queue = faulty.source / ".stor/repair"
    assert settles(lambda: list(queue.iterdir()) == [], within=20)
    for content in contents:
        assert replica(faulty.source, sha(content)).read_bytes() == content
        assert read_many(stor, content, 20) == {"ok"}


@pytest.mark.parametrize("size", [SMALL, 3 * MIB], ids=["small", "large"])
def test_bits_that_flip_on_the_way_from_the_disk_never_reach_a_reader(
    stor: House, faulty: FaultyStorage, size: int
) -> None:
    content = fresh(size)
    assert stor.store(content).status == 201
    with faulty.failing(Fault(("read",), path=r"\.dat$", flip=True)):
        found = read_many(stor, content, 100)
    # A large blob is hashed while it is sent: a reader who has the beginning already is cut off.
    assert found == {"ok"} if size == SMALL else found <= {"ok", "cut"}


@pytest.mark.parametrize("size", [SMALL, 3 * MIB], ids=["small", "large"])
@pytest.mark.parametrize(
    "fault",
    [Fault(("open",), error="EIO"), Fault(("read",), error="EIO"), Fault(("read",), flip=True), Fault(error="EIO")],
    ids=["open", "read", "flip", "everything"],
)
def test_without_any_good_replica_a_read_is_503_or_cut_and_never_wrong_and_never_404(
    both: Shared, size: int, fault: Fault
) -> None:
    stor, content = both.stor, fresh(size)
    with both.used():
        assert stor.store(content).status == 201
        for side in both.faulty:
            side.fail(Fault(fault.operations, r"\.dat$", error=fault.error, flip=fault.flip))
        found = read_many(stor, content, 30)
        assert found <= {"503", "cut"}
        assert stor.ask("GET", "/live").status == 200

        for side in both.faulty:
            side.heal()
        assert settles(lambda: read_once(stor, content) == "ok", within=20)
        for side in both.faulty:
            assert kept(side.source, content)


def test_short_writes_are_written_on(stor: House, faulty: FaultyStorage) -> None:
    contents = [fresh(SMALL), fresh(3 * MIB)]
    with faulty.failing(Fault(("write",), short=1000)):
        assert {stor.store(content).status for content in contents[:1]} == {201}
    with faulty.failing(Fault(("write",), short=100_000)):
        assert {stor.store(content).status for content in contents[1:]} == {201}
    for content in contents:
        assert replica(faulty.source, sha(content)).read_bytes() == content


@pytest.mark.parametrize("size", [SMALL, 3 * MIB], ids=["small", "large"])
def test_bits_that_flip_on_the_way_to_the_disk_are_repaired_when_they_are_read(
    stor: House, faulty: FaultyStorage, size: int
) -> None:
    content = fresh(size)
    with faulty.failing(Fault(("write",), flip=True)):
        assert stor.store(content).status == 201
    assert read_many(stor, content, 30) <= ({"ok"} if size == SMALL else {"ok", "cut"})
    assert settles(lambda: replica(faulty.source, sha(content)).read_bytes() == content)
    assert read_many(stor, content, 10) == {"ok"}
