"""Uploads that are synced together, when that fails: all are refused, and nothing that is lost is acknowledged."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.contract.disk import fresh, replica, settles, sha
from tests.contract.house import House, at_once
from tests.faults.conftest import HouseFactory
from tests.support import needs, processes
from tests.support.mounts import Mounts

pytestmark = pytest.mark.alone(reason="uploads that come at once have to be so quick that they share a sync")

_TOGETHER: Final = 8
_MEBIBYTE: Final = 1 << 20


def store_together(stor: House, contents: list[bytes]) -> dict[str, int]:
    """Upload all at once; returns the status of each, by digest."""
    answers = at_once(stor, [(content, "POST") for content in contents])
    return {sha(content): answer.status for content, answer in zip(contents, answers, strict=True)}


@contextlib.contextmanager
def failing_once(stor: House) -> Iterator[Path]:
    """Let the first sync of a filesystem fail; yields the trace of all of them."""
    needs.root("trace processes")
    needs.tool("strace")
    trace = stor.server.directory / "trace"
    pids = [option for pid in stor.server.processes() for option in ("-p", str(pid))]
    command = ["strace", "-f", "-qq", "-e", "trace=syncfs", "-e", "inject=syncfs:error=EIO:when=1", "-o", str(trace)]
    tracer = subprocess.Popen([*command, *pids], stderr=subprocess.DEVNULL)
    processes.eventually(lambda: _is_traced(stor), what="strace does not attach")
    try:
        yield trace
    finally:
        tracer.terminate()
        tracer.wait(20)


def _is_traced(stor: House) -> bool:
    return not any(0 in processes.tracers_of(pid) for pid in stor.server.processes())


def test_all_who_share_a_sync_that_fails_are_refused_and_their_replicas_are_gone(
    make_stor: HouseFactory, mounts: Mounts
) -> None:
    pair = [mounts.ext4(), mounts.ext4()]
    stor = make_stor(pairs=[pair], workers=1)
    store_together(stor, [fresh() for _ in range(_TOGETHER)])  # makes the threads that are traced then
    with failing_once(stor) as trace:
        statuses = store_together(stor, [fresh() for _ in range(_TOGETHER)])
        refused = [digest for digest, status in statuses.items() if status == 503]
        assert "EIO" in trace.read_text()

    assert refused
    assert set(statuses.values()) <= {201, 503}
    assert settles(lambda: not any(list((storage / ".stor/tmp").iterdir()) for storage in pair))
    for digest, status in statuses.items():
        found = [replica(storage, digest).exists() for storage in pair]
        assert all(found) if status == 201 else not any(found)
    # A probe takes the storage in again.
    assert settles(lambda: set(store_together(stor, [fresh() for _ in range(_TOGETHER)]).values()) == {201})


def test_what_a_disk_loses_without_a_word_is_never_acknowledged(make_stor: HouseFactory, mounts: Mounts) -> None:
    thin = _thin_disk(mounts)
    stor = make_stor(pairs=[[thin, mounts.ext4(64 * _MEBIBYTE)]])
    stored: dict[str, int] = {}
    contents: dict[str, bytes] = {}
    for _ in range(12):
        batch = [fresh(400_000) for _ in range(_TOGETHER)]
        contents |= {sha(content): content for content in batch}
        stored |= store_together(stor, batch)

    acknowledged = [digest for digest, status in stored.items() if status == 201]
    assert acknowledged
    assert set(stored.values()) - {201}
    lost = [digest for digest in acknowledged if _on_disk(replica(thin, digest)) != contents[digest]]
    assert lost == []


def _thin_disk(mounts: Mounts) -> Path:
    """A disk that says it has 64 MiB and has 12: what finds no room is lost when the kernel writes it out."""
    backing = mounts.tmpfs(12 * _MEBIBYTE)
    image = backing / "image"
    with image.open("wb") as file:
        file.truncate(64 * _MEBIBYTE)
    subprocess.run(["mkfs.ext4", "-q", "-m0", "-O", "^has_journal", str(image)], check=True, capture_output=True)
    thin = mounts.loop(image, "errors=continue")
    # A loop device takes what was written in part, since that was all the room, for written: so it gets page by page.
    device = thin.stat().st_dev
    Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/queue/max_sectors_kb").write_text("4")
    return thin


def _on_disk(path: Path) -> bytes:
    """What the disk has, whatever is in memory."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            return file.read()
        except OSError:
            return b""
