"""A quota is used up: 507, as for a full disk, and nothing stays."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.contract.disk import fresh
from tests.contract.house import House
from tests.faults.conftest import HouseFactory
from tests.support import needs
from tests.support.mounts import Mounts

_LIMIT = 12 << 20


@pytest.fixture
def pair(mounts: Mounts) -> list[Path]:
    """Two subvolumes of a btrfs, the second of which has a quota."""
    point = mounts.btrfs()
    btrfs("quota", "enable", str(point))
    subvolumes = [point / side for side in "ab"]
    for subvolume in subvolumes:
        btrfs("subvolume", "create", str(subvolume))
    btrfs("qgroup", "limit", str(_LIMIT), str(subvolumes[1]))
    return subvolumes


def btrfs(*arguments: str) -> None:
    needs.tool("btrfs")
    subprocess.run([needs.find("btrfs") or "", *arguments], check=True, capture_output=True)


@pytest.fixture
def stor(make_stor: HouseFactory, pair: list[Path]) -> House:
    """A server with a pair that has a quota."""
    return make_stor(pairs=[pair])


@pytest.mark.parametrize("size", [500_000, 3_000_000], ids=["small", "large"])
def test_a_quota_that_is_used_up_is_507_and_leaves_nothing_behind(stor: House, size: int) -> None:
    stored: list[bytes] = []
    while (answer := stor.store(content := fresh(size))).status == 201:
        stored.append(content)
        assert len(stored) * size <= _LIMIT, "the quota does not hold: this test proves nothing"
    assert answer.status == 507
    with stor.nothing_left_behind():
        assert stor.store(fresh(size)).status == 507
        assert stor.store_chunked(fresh(_LIMIT)).status == 507

    assert stored
    assert [stor.get(content).body == content for content in stored] == [True] * len(stored)
    assert stor.ask("GET", "/status").status == 200
