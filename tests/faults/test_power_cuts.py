"""The power fails under load: what was acknowledged is there, and is right. And the proof that this test would tell."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.contract.disk import fresh, is_whole, replica, settles, sha
from tests.contract.house import House
from tests.faults.load import Load, Promise, broken, misnamed, read_all
from tests.support import power
from tests.support.fuse import Fault
from tests.support.power import Disk, Kind, StrictDisk
from tests.support.processes import eventually
from tests.support.server import Server

ROUNDS: Final = int(os.environ.get("STOR_TEST_ROUNDS", "10"))
_STRICT_ROUNDS: Final = 3  # one of them tells what a real disk tells by chance
_SECONDS: Final = 0.5  # of load before the power is cut
_CUTS: Final = 15  # at most, before a mutant is taken to be as good as the original
_MUTANT: Final = Path(__file__).with_name("without_fsync")


class PowerCuts:
    """A pair on two disks, on which a server is started, loaded, and loses its power, round after round."""

    def __init__(self, directory: Path, kind: Kind, environment: dict[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._cleanup = contextlib.ExitStack()
        self._disks: list[Disk] = []
        for side in "ab":
            self._disks.append(disk := power.disk(kind, directory / side))
            self._cleanup.callback(disk.close)
        self._rounds = 0
        self.promises: list[Promise] = []

    def round(self) -> list[str]:
        """Load a server, cut the power, and say what is lost or wrong of all that was ever acknowledged."""
        self._rounds += 1
        server = Server(
            self._directory / f"server{self._rounds}",
            pairs=[[disk.point for disk in self._disks]],
            environment=self._environment,
            doomed=True,
        )
        stor = House(server.start())
        try:
            unserved = [promise for promise in self.promises[-50:] if not _is_served(stor, promise)]
            with Load(stor) as load:
                time.sleep(_SECONDS)
                eventually(lambda: bool(load.promises), what=f"a promise; the answers were {load.statuses}")
                for disk in self._disks:
                    disk.cut()
                server.kill()
        finally:
            server.kill()
        assert load.promises, server.output
        self.promises += load.promises
        for disk in self._disks:
            disk.restore()
        read = read_all(disk.point for disk in self._disks)
        lost = broken(self.promises, read)
        return [f"{promise.digest}: not served" for promise in unserved] + lost + misnamed(read)

    def close(self) -> None:
        self._cleanup.close()


def _is_served(stor: House, promise: Promise) -> bool:
    answer = stor.ask("GET", f"/{promise.digest}")
    return answer.status == 200


@pytest.fixture
def cuts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PowerCuts]:
    """Power cuts of a kind of disk, and of a server that leaves out a kind of sync, or none."""
    kind, left_out = request.param
    environment = {"PYTHONPATH": str(_MUTANT), "STOR_TEST_WITHOUT_FSYNC": left_out} if left_out else {}
    with contextlib.closing(PowerCuts(tmp_path, kind, environment)) as mine:
        yield mine


@pytest.mark.parametrize(
    ("cuts", "rounds"),
    [(("ext4", ""), ROUNDS), (("xfs", ""), ROUNDS), (("strict", ""), min(ROUNDS, _STRICT_ROUNDS))],
    indirect=["cuts"],
    ids=["ext4", "xfs", "strict"],
)
def test_nothing_acknowledged_is_lost_or_wrong_after_a_power_cut(cuts: PowerCuts, rounds: int) -> None:
    for _ in range(rounds):
        assert cuts.round() == []


@pytest.mark.parametrize(
    "cuts",
    [
        ("ext4", "files"),
        ("ext4", "directories"),
        ("xfs", "files"),
        ("xfs", "directories"),
        # A journal takes more along than it is asked to; only a disk that does not shows the finer differences.
        ("strict", "files"),
        ("strict", "leaves"),
        ("strict", "parents"),
        # Where uploads are synced together: before they have their names, and after that.
        ("ext4", "first"),
        ("ext4", "second"),
        ("xfs", "second"),
    ],
    indirect=True,
    ids="-".join,
)
def test_a_power_cut_tells_when_a_sync_is_left_out(cuts: PowerCuts) -> None:
    for _ in range(_CUTS):
        if cuts.round():
            return
    pytest.fail(f"nothing was lost in {_CUTS} power cuts without a sync: this test proves nothing")


def test_a_duplicate_is_not_acknowledged_before_the_first_upload_of_it_is_durable(tmp_path: Path) -> None:
    content = fresh()
    with contextlib.ExitStack() as stack:
        disks = [stack.enter_context(contextlib.closing(StrictDisk(tmp_path / side))) for side in "ab"]
        server = Server(tmp_path / "server", pairs=[[disk.point for disk in disks]], doomed=True).start()
        stack.callback(server.kill)
        for disk in disks:
            stack.callback(disk.storage.heal)
        stor = House(server)
        for disk in disks:
            disk.storage.fail(Fault(("fsyncdir",), path=f"{sha(content)[4:6].upper()}$", hang=True))
        first = stack.enter_context(stor.wire())
        first.send(stor.head_of_upload(sha(content), len(content)), content)
        sources = [disk.storage.source for disk in disks]
        assert settles(lambda: all(is_whole(replica(source, sha(content)), content) for source in sources))

        second = stack.enter_context(stor.wire())
        second.send(stor.head_of_upload(sha(content), len(content)), content)
        promised = second.hears(1.5) and second.answer().status in (200, 201)
        for disk in disks:
            disk.cut()
        server.kill()
        for disk in disks:
            disk.restore()
        assert not promised or [is_whole(replica(source, sha(content)), content) for source in sources] == [True, True]
