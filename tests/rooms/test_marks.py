"""What was found good is known in eight bytes, and nothing else is."""

from __future__ import annotations

import itertools

import pytest

from pystor.blob import Fingerprint
from pystor.marks import Marks

FILE: Fingerprint = (64768, 4711, 4096, 1_790_000_000_123_456_789, 1_790_000_000_123_456_790)
NAME = "ab" * 32


def test_a_file_is_known_as_the_blob_that_it_was_marked_as_and_as_no_other() -> None:
    marks = Marks()
    assert not marks.has(FILE, NAME)
    marks.add(FILE, NAME)
    assert marks.has(FILE, NAME)
    assert not marks.has(FILE, "ac" * 32)


@pytest.mark.parametrize("field", range(5), ids=["device", "inode", "size", "mtime", "ctime"])
@pytest.mark.parametrize("change", [-1, 1, 1 << 31, 1 << 61])
def test_a_file_that_has_changed_in_anything_is_not_known(field: int, change: int) -> None:
    marks = Marks(2)
    marks.add(FILE, NAME)
    changed = list(FILE)
    changed[field] += change
    assert not marks.has((changed[0], changed[1], changed[2], changed[3], changed[4]), NAME)
    assert marks.has(FILE, NAME)


def test_of_three_in_one_place_the_oldest_is_forgotten() -> None:
    marks = Marks(2)
    for name in "abc":
        marks.add(FILE, name)
    assert [marks.has(FILE, name) for name in "abc"] == [False, True, True]


def test_to_mark_the_same_again_forgets_nothing_else() -> None:
    marks = Marks(2)
    for name in "abbb":
        marks.add(FILE, name)
    assert [marks.has(FILE, name) for name in "ab"] == [True, True]


@pytest.mark.parametrize("dropped", ["a", "b"])
def test_each_of_two_in_one_place_is_dropped_for_itself(dropped: str) -> None:
    marks = Marks(2)
    for name in "ab":
        marks.add(FILE, name)
    marks.drop(FILE, dropped)
    assert [name for name in "ab" if not marks.has(FILE, name)] == [dropped]


def test_disks_that_were_filled_alike_leave_each_other_room() -> None:
    """Pairs of like disks have files of like inode numbers: half as many as there is room for are nearly all known."""
    marks = Marks(1 << 16)
    files: list[Fingerprint] = [
        (device, inode, 4096, 1, 1)
        for device, inode in itertools.product(range(0x10300, 0x10310), range(131_072, 131_072 + (1 << 11)))
    ]
    for file in files:
        marks.add(file, NAME)
    assert sum(marks.has(file, NAME) for file in files) > 0.95 * len(files)
