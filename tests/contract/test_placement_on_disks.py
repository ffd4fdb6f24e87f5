"""A3: where new blobs go, seen on disks of different sizes."""

from __future__ import annotations

from typing import Final

from tests.contract import disk
from tests.contract.conftest import HouseFactory
from tests.contract.disk import Pair, fresh
from tests.contract.house import House, at_once
from tests.support.mounts import Mounts

GIB: Final = 1 << 30
MIB: Final = 1 << 20

# A filesystem in memory takes memory for what lies in it, not for its size.


def pair(mounts: Mounts, first: int, second: int) -> Pair:
    return mounts.tmpfs(first), mounts.tmpfs(second)


def store(stor: House, count: int) -> list[int]:
    """Store small blobs; gives how many each pair took."""
    answers = at_once(stor, [(fresh(100), "POST") for _ in range(count)])
    assert {answer.status for answer in answers} == {201}
    return [len(disk.blobs(members[:1])) for members in stor.pairs]


def test_new_blobs_are_spread_in_proportion_to_the_free_space(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[pair(mounts, 4 * GIB, 4 * GIB), pair(mounts, 12 * GIB, 12 * GIB)])
    small, large = store(stor, 200)

    assert small + large == 200
    assert 25 <= small <= 75  # a quarter, four standard deviations to either side


def test_the_fullest_member_stands_for_its_pair(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[pair(mounts, 4 * GIB, 40 * GIB), pair(mounts, 40 * GIB, 12 * GIB)])
    small, _ = store(stor, 200)

    assert 25 <= small <= 75


def test_when_none_has_a_gigabyte_left_the_roomiest_takes_all(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[pair(mounts, 64 * MIB, 64 * MIB), pair(mounts, 192 * MIB, 192 * MIB)])

    assert store(stor, 50) == [0, 50]


def test_the_members_of_a_pair_keep_the_same_blobs(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[pair(mounts, 4 * GIB, 4 * GIB), pair(mounts, 12 * GIB, 12 * GIB)])
    store(stor, 60)

    for first, second in stor.pairs:
        names = [{path.relative_to(member) for path in disk.blobs([member])} for member in (first, second)]
        assert names[0] == names[1]


def test_a_tuple_may_have_one_or_three_storages(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[(mounts.tmpfs(4 * GIB),), tuple(mounts.tmpfs(4 * GIB) for _ in range(3))])
    contents = [fresh() for _ in range(40)]
    answers = [stor.store(content) for content in contents]

    assert {answer.status for answer in answers} == {201}
    assert {len(stor.replicas(content)) for content in contents} == {1, 3}
    assert [stor.get(content).body for content in contents] == contents
    assert {stor.store(content).status for content in contents} == {200}


def test_a_blob_stays_where_it_is_when_the_free_space_changes(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[pair(mounts, 4 * GIB, 4 * GIB), pair(mounts, 4 * GIB, 4 * GIB)])
    contents = [fresh() for _ in range(40)]
    for content in contents:
        stor.store(content)
    with (stor.pairs[0][0] / "filler").open("wb") as filler:
        filler.write(bytes(256 * MIB))
    before = disk.blobs(stor.storages)

    assert {stor.store(content).status for content in contents} == {200}
    assert disk.blobs(stor.storages) == before
    assert [stor.get(content).body for content in contents] == contents
