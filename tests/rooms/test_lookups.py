"""A name that is looked for below many directories in one system call."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest

from pystor import posix, uring
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.lookups import CachedLookups
from pystor.nonblocking import NonBlockingLookup
from pystor.replicas import ReplicaSet
from pystor.watch import Watch
from tests.rooms.tools import adopted, place, where

BLOB = Digest.of(b"a blob")
NAME = BLOB.path.encode()


def _open() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    """Five directories, of which the kernel knows that the blob is in none."""
    found = [tmp_path / f"root{number}" for number in range(5)]
    for root in found:
        (root / BLOB.path).parent.mkdir(parents=True)
        assert not (root / BLOB.path).exists()
    return found


@pytest.fixture
def looking(roots: list[Path]) -> CachedLookups:
    return CachedLookups([*map(str, roots)])


def test_what_is_in_none_of_the_chosen_is_missing_however_often_it_is_looked_for(
    looking: CachedLookups, roots: list[Path]
) -> None:
    (roots[1] / BLOB.path).touch()
    choices = [looking.choose(numbers) for numbers in ([0], [0, 2, 4], [4, 3, 2, 0], [1], [0, 1, 2, 3, 4], [3, 1])]
    before = _open()
    for _ in range(50):
        assert [looking.none_has(NAME, choice) for choice in choices] == [True, True, True, False, False, False]
    assert _open() == before


def test_another_name_is_looked_for_anew(looking: CachedLookups, roots: list[Path]) -> None:
    other = Digest.of(b"another")
    everywhere = looking.choose(range(5))
    assert looking.none_has(NAME, everywhere)
    assert not looking.none_has(other.path.encode(), everywhere)  # nobody has asked the disk for it
    assert not any((root / other.path).exists() for root in roots)
    assert looking.none_has(other.path.encode(), everywhere)


def test_a_name_that_comes_is_not_missing_any_more(looking: CachedLookups, roots: list[Path]) -> None:
    everywhere = looking.choose(range(5))
    assert looking.none_has(NAME, everywhere)
    (roots[4] / BLOB.path).touch()
    assert not looking.none_has(NAME, everywhere)
    (roots[4] / BLOB.path).unlink()
    assert looking.none_has(NAME, everywhere)


def test_a_link_that_leads_nowhere_is_not_missing(looking: CachedLookups, roots: list[Path]) -> None:
    (roots[4] / BLOB.path).symlink_to("nowhere")
    assert not (roots[4] / BLOB.path).exists()
    assert not looking.none_has(NAME, looking.choose(range(5)))


def test_a_ring_is_given_back(roots: list[Path]) -> None:
    gc.collect()  # what other tests have left
    before = _open()
    for _ in range(3):
        CachedLookups([*map(str, roots)])
    assert _open() == before


class Town:
    """Four pairs, watched; and how often a storage was asked by itself."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        watch = Watch()
        self.storages = [adopted(directory / f"s{number}", watch=watch) for number in range(8)]
        members = [Bulkhead(storage) for storage in self.storages]
        self.sets = [ReplicaSet(members[number : number + 2]) for number in range(0, 8, 2)]
        self.asked: list[bytes] = []
        real = posix.open_cached

        def counted(path: bytes, how: posix.How) -> int:
            self.asked.append(path)
            return real(path, how)

        monkeypatch.setattr(posix, "open_cached", counted)
        self.lookup = NonBlockingLookup(self.sets, watch)
        for storage in self.storages:
            assert not where(storage, BLOB).exists()


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    return Town(tmp_path, monkeypatch)


def _miss(town: Town) -> int:
    """Look for what is nowhere; tell how many storages were asked one by one."""
    town.asked.clear()
    seen = town.lookup.look(BLOB, town.sets[1])
    assert seen is not None
    assert (seen.replica, seen.attempts) == (None, 8)
    return len(town.asked)


def test_a_miss_asks_the_likeliest_pair_and_all_others_at_once(town: Town) -> None:
    assert _miss(town) == 8  # until all are known to be in their places
    assert _miss(town) == 2


@pytest.mark.parametrize("number", range(8))
def test_a_blob_is_found_wherever_it_is(town: Town, number: int) -> None:
    assert [_miss(town) for _ in range(2)] == [8, 2]
    place(town.storages[number], b"a blob")
    for _ in range(20):
        seen = town.lookup.look(BLOB, town.sets[1])
        assert seen is not None
        assert seen.replica is not None
        with seen.replica as replica:
            assert replica.storage == town.storages[number].root


def test_a_storage_that_is_moved_away_makes_a_miss_doubtful(town: Town, tmp_path: Path) -> None:
    assert [_miss(town) for _ in range(2)] == [8, 2]
    (tmp_path / "s7").rename(tmp_path / "elsewhere")
    assert town.lookup.look(BLOB, town.sets[1]) is None
    (tmp_path / "elsewhere").rename(tmp_path / "s7")
    assert not where(town.storages[7], BLOB).exists()
    assert town.lookup.look(BLOB, town.sets[1]) is None  # it may have come back just now
    assert _miss(town) == 8  # it is not watched any more, so each look at it counts for itself


def test_a_storage_that_was_away_for_a_moment_makes_a_miss_doubtful(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = posix.open_cached
    away = False

    def while_away(path: bytes, how: posix.How) -> int:
        if not away or b"/s7/" not in path:
            return real(path, how)
        (tmp_path / "s7").rename(tmp_path / "elsewhere")
        try:
            assert not os.access(path, os.F_OK)  # the kernel knows it by now
            return real(path, how)
        finally:
            (tmp_path / "elsewhere").rename(tmp_path / "s7")

    monkeypatch.setattr(posix, "open_cached", while_away)
    place(town.storages[7], b"a blob")
    for _ in range(2):  # from when its place is watched, and when that is not watched any more
        away = False
        for _ in range(2):
            seen = town.lookup.look(BLOB, town.sets[1])
            assert seen is not None
            assert seen.replica is not None
            seen.replica.close()
        away = True
        assert town.lookup.look(BLOB, town.sets[3]) is None
        assert town.storages[7].open_cached(BLOB) is False


def test_what_is_not_local_any_more_is_not_asked_so(town: Town, tmp_path: Path) -> None:
    assert [_miss(town) for _ in range(2)] == [8, 2]
    town.storages[7].local = False
    (tmp_path / "s7").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path / "s7")
    assert not where(town.storages[7], BLOB).exists()
    assert [town.lookup.look(BLOB, town.sets[1]) for _ in range(3)] == [None] * 3


def test_where_there_is_no_io_uring_each_is_asked_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uring, "_SYS_SETUP", 9999)
    town = Town(tmp_path, monkeypatch)
    assert [_miss(town) for _ in range(2)] == [8, 8]


def test_when_io_uring_fails_each_is_asked_by_itself_from_then_on(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [_miss(town) for _ in range(2)] == [8, 2]
    with monkeypatch.context() as broken:
        broken.setattr(uring, "_SYS_ENTER", 9999)
        assert _miss(town) == 8
    assert _miss(town) == 8


def test_when_io_uring_answers_a_part_each_is_asked_by_itself_from_then_on(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [_miss(town) for _ in range(2)] == [8, 2]
    real = posix.call
    with monkeypatch.context() as short_of_memory:

        def short(number: int, fd: int, count: int, least: int, *rest: Any) -> int:
            assert number == uring._SYS_ENTER
            return real(number, fd, count - 1, least - 1, *rest)

        short_of_memory.setattr(posix, "call", short)
        assert _miss(town) == 8
    monkeypatch.setattr(posix, "call", lambda *_: pytest.fail("io_uring is asked again"))
    assert _miss(town) == 8
