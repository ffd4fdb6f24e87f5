"""What the configuration says of verifying, repairing and sweeping is what the service does."""

from __future__ import annotations

from typing import Final

import pytest

from tests.contract.conftest import HouseFactory
from tests.contract.disk import flipped, fresh, is_whole, place_on, settles, sha
from tests.faults.reads import read_once

LARGE: Final = 3_000_000
COUNT: Final = 4


def test_what_is_not_to_be_verified_is_served_as_it_is(make_stor: HouseFactory) -> None:
    stor = make_stor(config={"verify_reads": False})
    for size in (5_000, LARGE):
        content = fresh(size)
        spoilt = [flipped(path) for path in place_on(stor.pairs[0], content)]
        assert {stor.get(content).body for _ in range(4)} == set(spoilt)


def test_a_blob_that_is_verified_first_cuts_no_reader_however_large_it_is(make_stor: HouseFactory) -> None:
    stor = make_stor(config={"verify_first_bytes": LARGE})
    contents = [fresh(LARGE) for _ in range(4)]
    for content in contents:
        flipped(place_on(stor.pairs[0], content)[0])
    assert {read_once(stor, content) for content in contents * 2} == {"ok"}


def test_temporaries_of_the_dead_are_swept_as_often_as_is_configured(make_stor: HouseFactory) -> None:
    stor = make_stor(workers=1, config={"cleanup_tempdir_period": 1})
    for name in ("swept at the start, perhaps", "swept a period later"):
        left = [storage / ".stor/tmp" / name for storage in stor.storages]
        for path in left:
            path.write_bytes(b"of a process that is dead")
        assert settles(lambda left=left: not any(path.exists() for path in left))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("size", "rate"), [(100, {"repair_files_per_second": COUNT}), (50_000, {"repair_bytes_per_second": COUNT * 50_000})]
)
def test_blobs_are_repaired_no_faster_than_is_configured(
    make_stor: HouseFactory, size: int, rate: dict[str, float]
) -> None:
    stor, contents = make_stor(config=rate), [fresh(size) for _ in range(COUNT)]
    lost = [place_on(stor.pairs[0], content)[0] for content in contents]
    for path in lost:
        path.unlink()
    for content in contents:
        (stor.storages[1] / ".stor/repair" / sha(content).upper()).touch()
    assert settles(lambda: all(map(is_whole, lost, contents)))
    ends = [path.stat().st_ctime for path in lost]
    assert max(ends) - min(ends) > 0.4  # the last one begins three quarters of a second after the first one
