"""The sets of a pool by their room, and what keeps their storages in use."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from pystor import places, upkeep
from pystor.blob import Space, Timeouts
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.events import Event, LeftoversSwept, StorageFailed
from pystor.places import Places
from pystor.replicas import ReplicaSet
from pystor.temporary import TEMPORARIES
from pystor.upkeep import Upkeep
from tests.rooms.tools import adopted, break_disk, eventually, run
from tests.support.mounts import Mounts

MIB, GB = 1 << 20, 10**9
DIGESTS = [Digest.of(b"%d" % number) for number in range(200)]


def sets_of(*storages: Directory) -> list[ReplicaSet]:
    return [ReplicaSet([Bulkhead(storage, threads=1)]) for storage in storages]


def fill(storage: Directory, size: int) -> Path:
    path = Path(storage.root) / "something else"
    path.write_bytes(bytes(size))
    return path


def test_a_blob_is_looked_for_first_where_there_is_more_room(mounts: Mounts) -> None:
    storages = [adopted(mounts.tmpfs(32 * MIB)), adopted(mounts.tmpfs(32 * MIB))]
    fill(storages[0], 31 * MIB)
    sets = sets_of(*storages)
    ranks = Places(sets)

    async def scenario() -> None:
        assert 50 < [ranks.likeliest(digest) for digest in DIGESTS].count(sets[0]) < 150
        await ranks.measure(0.0)
        assert [ranks.likeliest(digest) for digest in DIGESTS].count(sets[0]) < 20

    run(scenario())
    assert all(ranks.ranked(digest)[0] is ranks.likeliest(digest) for digest in DIGESTS)
    assert all(set(ranks.ranked(digest)) == set(sets) for digest in DIGESTS)


def test_nobody_is_refused_for_room_that_has_been_freed_a_moment_ago(mounts: Mounts) -> None:
    storage = adopted(mounts.tmpfs(8 * MIB))
    fat = fill(storage, 7 * MIB)
    ranks = Places(sets_of(storage))

    async def scenario() -> None:
        assert await ranks.choose(DIGESTS[0], 4 * MIB) == []
        fat.unlink()
        assert len(await ranks.choose(DIGESTS[0], 4 * MIB)) == 1

    run(scenario())


def test_a_blob_of_unknown_length_goes_where_there_is_most_room_unless_there_is_plenty(mounts: Mounts) -> None:
    tight, roomy = sets_of(*(adopted(mounts.tmpfs(gigabytes * GB)) for gigabytes in (3, 8)))
    vast = sets_of(*(adopted(mounts.tmpfs(gigabytes * GB)) for gigabytes in (250, 500)))

    async def scenario() -> None:
        one, other = Places([tight, roomy]), Places(vast)
        await asyncio.gather(one.measure(0.0), other.measure(0.0))
        assert {(await one.choose(digest, 0))[0] for digest in DIGESTS} == {roomy}
        assert {(await one.choose(digest, MIB))[0] for digest in DIGESTS} == {tight, roomy}
        assert {(await other.choose(digest, 0))[0] for digest in DIGESTS} == set(vast)

    run(scenario())


def test_a_storage_that_is_slow_to_tell_its_room_delays_no_upload_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_FRESH", 0.0)
    slow, well = (adopted(tmp_path / name) for name in "ab")
    sets, over = sets_of(slow, well), threading.Event()

    async def scenario() -> None:
        ranks = Places(sets)
        await ranks.measure(0.0)
        check = slow.check

        def wait() -> Space:
            over.wait(20)
            return check()

        monkeypatch.setattr(slow, "check", wait)
        monkeypatch.setattr(slow, "timeouts", Timeouts(answer=20))
        before = sets[0].left
        began = time.monotonic()
        for digest in DIGESTS[:20]:
            assert set(await ranks.choose(digest, MIB)) == set(sets)
        assert time.monotonic() - began < 10
        assert sets[0].left == before

        asked = asyncio.create_task(ranks.choose(DIGESTS[0], 1 << 60))
        await asyncio.sleep(0.05)
        assert not asked.done()  # it may be the one that has room
        over.set()
        assert await asked == []
        await ranks.stop()

    run(scenario())


def test_a_storage_that_has_not_told_its_room_yet_keeps_no_upload_waiting_that_finds_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_MOMENT", 0.3)  # however busy the machine is
    slow, well = (adopted(tmp_path / name) for name in "ab")
    sets, over = sets_of(slow, well), threading.Event()
    monkeypatch.setattr(slow, "check", lambda: over.wait(20))
    monkeypatch.setattr(slow, "timeouts", Timeouts(answer=20))

    async def scenario() -> None:
        ranks = Places(sets)
        began = time.monotonic()
        assert await ranks.choose(DIGESTS[0], MIB) == [sets[1]]
        assert time.monotonic() - began < 10
        assert not ranks.all_take
        over.set()
        await ranks.stop()

    run(scenario())


def test_the_room_is_measured_though_nobody_stores(mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_MEASURED_EVERY", 0.0)
    monkeypatch.setattr(upkeep, "_RECOVERED_EVERY", 0.01)
    storage = adopted(mounts.tmpfs(8 * MIB))
    sets = sets_of(storage)

    async def scenario() -> None:
        kept = Upkeep(sets[0].members, Places(sets), sweep_period=1800, observe=lambda _: None)
        await kept.start()
        before = sets[0].left
        fill(storage, 4 * MIB)
        await eventually(lambda: before - 5 * MIB < sets[0].left <= before - 4 * MIB)
        await kept.stop()

    run(scenario())


def test_a_disk_that_died_is_found_and_told_though_nobody_asks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_PROVED_EVERY", 0.0)
    monkeypatch.setattr(upkeep, "_RECOVERED_EVERY", 0.01)
    storage = adopted(tmp_path / "a")
    sets = sets_of(storage)
    events: list[Event] = []

    async def scenario() -> None:
        kept = Upkeep(sets[0].members, Places(sets), sweep_period=1800, observe=events.append)
        await kept.start()
        break_disk(monkeypatch, "fsync", storage.root)
        await eventually(lambda: any(isinstance(event, StorageFailed) for event in events))
        assert sets[0].members[0].unwritable
        await kept.stop()

    run(scenario())


def test_a_disk_that_hangs_keeps_no_other_from_being_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_PROVED_EVERY", 0.0)
    monkeypatch.setattr(upkeep, "_RECOVERED_EVERY", 0.01)
    hanging, well = (adopted(tmp_path / name) for name in "ab")
    begun, over, probed = threading.Event(), threading.Event(), list[int]()

    def hang() -> None:
        begun.set()
        over.wait(20)

    monkeypatch.setattr(hanging, "probe", hang)
    monkeypatch.setattr(well, "probe", lambda: probed.append(1))
    sets = sets_of(hanging, well)

    async def scenario() -> None:
        members = [member for each in sets for member in each.members]
        kept = Upkeep(members, Places(sets), sweep_period=1800, observe=lambda _: None)
        await kept.start()
        await eventually(begun.is_set)
        seen = len(probed)
        await eventually(lambda: len(probed) > seen + 2)
        over.set()
        await kept.stop()

    run(scenario())


def test_what_the_dead_have_left_is_swept_but_not_from_a_storage_that_is_not_to_be_written(tmp_path: Path) -> None:
    ours, theirs = adopted(tmp_path / "ours"), adopted(tmp_path / "theirs")
    left = [Path(each.root) / TEMPORARIES / "left" for each in (ours, theirs)]
    for path in left:
        path.write_bytes(b"half of a blob")
    old = Directory(theirs.root, writable=False)
    events: list[Event] = []

    async def scenario() -> None:
        sets = sets_of(old, ours)
        members = [member for each in sets for member in each.members]
        kept = Upkeep(members, Places(sets), sweep_period=1800, observe=events.append)
        await kept.start()
        await eventually(lambda: LeftoversSwept(ours.root, 1) in events)
        await kept.stop()

    run(scenario())
    assert [path.exists() for path in left] == [False, True]
    assert events == [LeftoversSwept(ours.root, 1)]
