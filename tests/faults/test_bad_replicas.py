"""A replica that cannot be read, or is wrong: readers get the right bytes from the other, and it is repaired."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.contract.disk import fresh, kept, replica, settles, sha
from tests.contract.house import House
from tests.faults.conftest import FaultyFactory, HouseFactory
from tests.faults.reads import read_once
from tests.support.fuse import Fault, FaultyStorage

MIB: Final = 1 << 20
SMALL, LARGE = 5_000, 20 * MIB
_CLIENTS: Final = 4


@pytest.fixture
def faulty(make_faulty: FaultyFactory) -> FaultyStorage:
    """The storage that fails, one of two."""
    return make_faulty()


@pytest.fixture
def stor(faulty: FaultyStorage, make_stor: HouseFactory, tmp_path: Path) -> House:
    """One pair of storages, one of which fails when it is told to."""
    return make_stor(pairs=[[tmp_path / "healthy", faulty.point]])


def read_many(stor: House, content: bytes, times: int) -> set[str]:
    with ThreadPoolExecutor(_CLIENTS) as pool:
        return set(pool.map(partial(read_once, stor), [content] * times))


def inode_of(faulty: FaultyStorage, content: bytes) -> int:
    return replica(faulty.source, sha(content)).stat().st_ino


@pytest.mark.parametrize(
    ("size", "times", "where"),
    [
        (SMALL, 300, Fault(("open",), error="EIO")),
        (SMALL, 300, Fault(("read",), error="EIO")),
        (LARGE, 100, Fault(("open",), error="EIO")),
        (LARGE, 100, Fault(("read",), error="EIO", start=10 * MIB)),
    ],
    ids=["open-small", "read-small", "open-large", "read-large-in-the-middle"],
)
def test_every_read_is_right_and_a_replica_with_bad_sectors_is_replaced_within_seconds(
    stor: House, faulty: FaultyStorage, size: int, times: int, where: Fault
) -> None:
    content = fresh(size)
    assert stor.store(content).status == 201
    bad = inode_of(faulty, content)
    faulty.fail(Fault(where.operations, error=where.error, start=where.start, inode=bad))

    assert read_many(stor, content, times) == {"ok"}
    assert settles(lambda: inode_of(faulty, content) != bad)
    assert replica(faulty.source, sha(content)).read_bytes() == content
    assert settles(lambda: not (faulty.source / ".stor/repair" / sha(content).upper()).exists())


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
    make_faulty: FaultyFactory, make_stor: HouseFactory, size: int, fault: Fault
) -> None:
    pair = [make_faulty(), make_faulty()]
    stor, content = make_stor(pairs=[[side.point for side in pair]]), fresh(size)
    assert stor.store(content).status == 201
    for side in pair:
        side.fail(Fault(fault.operations, r"\.dat$", error=fault.error, flip=fault.flip))
    found = read_many(stor, content, 30)
    assert found <= {"503", "cut"}
    assert stor.ask("GET", "/live").status == 200

    for side in pair:
        side.heal()
    assert settles(lambda: read_once(stor, content) == "ok", within=20)
    for side in pair:
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
