"""One storage of four hangs, or is slow: the others do not notice, and it comes back by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.contract.disk import fresh, replica, settles, sha
from tests.contract.house import House, number
from tests.contract.wire import request
from tests.faults.conftest import FaultyFactory, HouseFactory, Shared, shared
from tests.faults.load import Load, broken
from tests.faults.reads import CLIENTS, page, reads
from tests.faults.workers import connect
from tests.support.fuse import EVERYTHING_HANGS, Fault, FaultyStorage
from tests.support.mounts import Mounts

pytestmark = pytest.mark.alone(reason="compares how long reads take with and without a fault, and timeouts pass")

READ_TIMEOUT: Final = 2.0
_HEALTHY, _THEN = 1.5, 3.0  # seconds
_FIRST: Final = 6.0  # seconds: a look takes up to 2, the next probe 3; then nobody waits for the storage
_ALLOWANCE: Final = 0.02  # seconds; eight clients share two cores with the servers
SLOW: Final = Fault(delay=0.5)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Two pairs of storages, one of which fails when it is told to."""
    with shared(tmp_path_factory.mktemp("pairs"), faulty=1, healthy=1, others=1) as mine:
        yield mine


@pytest.fixture
def stored(stor: House) -> list[bytes]:
    """Blobs on both pairs: small ones, and some that are verified while they are sent."""
    contents = [fresh(5_000) for _ in range(40)] + [fresh(1_500_000) for _ in range(4)]
    assert {stor.store(content).status for content in contents} == {201}
    return contents


@pytest.mark.parametrize("fault", [EVERYTHING_HANGS, SLOW], ids=["hangs", "slow"])
def test_reads_of_all_blobs_go_on_while_one_storage_of_four_hangs_or_is_slow(
    stor: House, faulty: FaultyStorage, stored: list[bytes], fault: Fault
) -> None:
    with reads(stor, stored) as healthy:
        time.sleep(_HEALTHY)
    with faulty.failing(fault), page(stor, "/live") as live, page(stor, "/status") as status:
        since = time.monotonic()
        with reads(stor, stored) as first:
            time.sleep(_FIRST)
        with reads(stor, stored) as then:
            time.sleep(_THEN)

    assert healthy.outcomes() | first.outcomes() | then.outcomes() == {"ok"}
    assert first.p99() < READ_TIMEOUT + 0.5
    assert first.worst() < READ_TIMEOUT + 1.0  # half a second is for the machine, which is shared with the readers
    assert then.p99(since) < 3 * healthy.p99() + _ALLOWANCE
    assert live.outcomes() == {"200"}
    assert status.outcomes() <= {"200", "503"}
    assert max(live.worst(), status.worst()) < 1.0
    comes_back(stor, faulty)


def test_a_storage_that_hangs_is_out_for_all_workers_when_one_has_found_that_out(
    stor: House, faulty: FaultyStorage
) -> None:
    ask = request("GET", f"/{sha(fresh())}")
    with contextlib.ExitStack() as stack:
        wires = {worker: wire for wire, worker in connect(stor, stack, workers=2, least=2).items()}
        stack.enter_context(faulty.failing(EVERYTHING_HANGS))
        took = []
        for wire in wires.values():
            began = time.monotonic()
            wire.send(ask)
            assert wire.answer().status == 503
            took.append(time.monotonic() - began)

    assert took[1] < READ_TIMEOUT / 2 < took[0]
    comes_back(stor, faulty)


def test_uploads_go_to_the_other_pair_or_are_refused_while_one_storage_hangs(
    stor: House, faulty: FaultyStorage
) -> None:
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(Load(stor))
        time.sleep(1.0)
        with faulty.failing(EVERYTHING_HANGS), page(stor, "/live") as live, page(stor, "/status") as status:
            time.sleep(READ_TIMEOUT + 1)
            late = {stor.store(fresh()).status for _ in range(CLIENTS)}
            stack.close()

    assert load.hung == []
    assert set(load.statuses) <= {201, 503, 507}
    assert late == {201}
    assert live.outcomes() == {"200"}
    assert max(live.worst(), status.worst()) < 1.0
    comes_back(stor, faulty)
    assert broken(load.promises) == []


def test_uploads_go_on_while_one_storage_is_slow(stor: House, faulty: FaultyStorage) -> None:
    with Load(stor) as load, page(stor, "/live") as live, page(stor, "/status") as status, faulty.failing(SLOW):
        time.sleep(READ_TIMEOUT + 1)
        late = {stor.store(fresh()).status for _ in range(CLIENTS)}

    assert load.hung == []
    assert set(load.statuses) <= {201, 503}
    assert late == {201}
    assert live.outcomes() == {"200"}
    assert max(live.worst(), status.worst()) < 1.0
    comes_back(stor, faulty)
    assert broken(load.promises) == []


def test_a_server_that_is_paused_while_it_waits_for_a_storage_does_not_take_that_for_dead(
    stor: House, faulty: FaultyStorage, stored: list[bytes]
) -> None:
    name = f'stor_storage_failures_total{{storage="{faulty.point}"}}'
    failed = number(stor, name)
    with faulty.failing(Fault(delay=0.1)), reads(stor, stored) as load:
        time.sleep(0.3)
        for signalled in (signal.SIGSTOP, signal.SIGCONT):
            for pid in stor.server.processes():
                os.kill(pid, signalled)
            time.sleep(READ_TIMEOUT + 0.5)

    assert load.outcomes() == {"ok"}
    assert number(stor, name) == failed


def test_a_storage_that_hangs_when_a_file_is_closed_holds_nobody_else_up(
    stor: House, faulty: FaultyStorage, stored: list[bytes]
) -> None:
    fault = Fault(("read", "flush"), hang=True)
    with faulty.failing(fault), page(stor, "/live") as live, reads(stor, stored) as asked:
        time.sleep(READ_TIMEOUT + 2)
        faulty.heal()

    assert live.outcomes() == {"200"}
    assert live.worst() < 1.0
    assert asked.outcomes() == {"ok"}


def test_nobody_waits_for_one_that_hangs_to_see_whether_it_is_in_its_place(
    stor: House, faulty: FaultyStorage, mounts: Mounts
) -> None:
    with faulty.failing(EVERYTHING_HANGS), page(stor, "/live") as live:
        mounts.tmpfs(1 << 20)  # what is mounted anywhere may be in the place of a storage
        missed = {stor.ask("GET", f"/{sha(fresh())}").status for _ in range(4)}

    assert missed == {503}
    assert live.outcomes() == {"200"}
    assert live.worst() < 1.0
    comes_back(stor, faulty)


def test_a_local_disk_that_hangs_while_its_journal_is_written_holds_up_no_worker(
    make_faulty: FaultyFactory, mounts: Mounts, make_stor: HouseFactory, tmp_path: Path
) -> None:
    faulty = make_faulty()
    disk = mounts.ext4_on(faulty, options="commit=1")
    stor = make_stor(pairs=[[tmp_path / "a", disk]])
    contents = [fresh(5_000) for _ in range(40)]
    assert {stor.store(content).status for content in contents} == {201}
    with faulty.failing(EVERYTHING_HANGS), page(stor, "/live") as live:
        for content in contents:
            os.utime(replica(disk, sha(content)))
        time.sleep(1.5)  # by now the inodes are on their way to the journal, and whoever changes one waits for it
        with reads(stor, contents) as asked:
            time.sleep(1.5)
        faulty.heal()

    assert asked.outcomes() == {"ok"}
    assert asked.worst() < 1.0
    assert live.outcomes() == {"200"}
    assert live.worst() < 1.0
    assert settles(lambda: stor.ask("GET", "/status").status == 200)


def comes_back(stor: House, faulty: FaultyStorage) -> None:
    """See that a storage that was healed is used again, and that what was given up has left nothing."""
    assert settles(lambda: stor.ask("GET", "/status").status == 200)
    assert settles(lambda: list((faulty.source / ".stor/tmp").iterdir()) == [])
    assert settles(lambda: gets_a_blob(stor, faulty))


def gets_a_blob(stor: House, faulty: FaultyStorage) -> bool:
    """Whether an upload went to the pair of the storage."""
    answer = stor.store(fresh())
    return answer.status == 201 and str(faulty.point).encode() in answer.body


@pytest.mark.parametrize(
    ("fault", "why"),
    [(EVERYTHING_HANGS, "it does not answer within 2 s"), (Fault(error="EIO"), "Input/output error")],
    ids=["hangs", "fails"],
)
def test_a_storage_that_hangs_or_fails_at_the_start_keeps_neither_the_server_nor_the_commands_from_starting(
    stor: House, faulty: FaultyStorage, fault: Fault, why: str
) -> None:
    contents = [fresh() for _ in range(10)]
    assert {stor.store(content).status for content in contents} == {201}
    stor.server.stop()
    with faulty.failing(fault):
        check, repair = command(stor, "check-config"), command(stor, "repair")
        stor.server.start()
        assert {stor.get(content).status for content in contents} == {200}
        assert stor.ask("GET", "/status").status == 503
        warning = f"{str(faulty.point)!r} cannot be looked at: {why}; mend the disk or its permissions\n"
        assert f"stor: warning: storage_pairs[0][1]: {warning}" in stor.server.stderr
        assert f"stor: warning: {faulty.point}: " in stor.server.stderr
        assert settles(lambda: said(stor, "check-config").endswith("\n}\n"))
        assert settles(lambda: "storages that are away: 1" in said(stor, "repair"))
    # The kernel lets nobody end who waits for an answer of such a filesystem.
    assert (check.wait(10), repair.wait(10)) == (0, 1)
    assert settles(lambda: stor.ask("GET", "/status").status == 200)


def command(stor: House, name: str) -> subprocess.Popen[bytes]:
    with (stor.server.directory / name).open("wb") as output:
        return subprocess.Popen(stor.command(name), stdout=output, stderr=output)


def said(stor: House, name: str) -> str:
    return (stor.server.directory / name).read_text()
