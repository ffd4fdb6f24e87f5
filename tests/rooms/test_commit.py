"""Group commit: who waits is released by a sync that began after he asked, and learns of what failed since he wrote."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystor import commit, posix
from pystor.blob import Filesystem
from pystor.bulkhead import Bulkhead
from pystor.commit import Committer, Committers, no_others
from pystor.errors import StorageError, StorageFull
from tests.rooms.tools import adopted, eventually, no_thread_to_give, run
from tests.support.mounts import Mounts

DEVICE = 7


@contextmanager
def opened(place: Path | str = "/") -> Iterator[Filesystem]:
    """A descriptor on a filesystem, as an upload has one."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Filesystem(DEVICE, fd, time.monotonic())
    finally:
        os.close(fd)


@dataclass
class Disk:
    """Syncs that take as long as they are told to, and fail when they are told to."""

    began: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    inodes: list[int] = field(default_factory=list)
    code: int = 0
    clock: int = 0
    go_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def sync(self, fd: int) -> None:
        self.inodes.append(os.fstat(fd).st_ino)
        self.began.append(self.tick())
        self.go_on.acquire()
        code = self.code
        self.ended.append(self.tick())
        if code:
            raise OSError(code, os.strerror(code))

    async def until_began(self, count: int) -> None:
        await eventually(lambda: len(self.began) >= count)


@given(st.lists(st.sampled_from(["ask", "sync", "breathe"]), min_size=1, max_size=40), st.booleans())
def test_whoever_waits_is_released_only_by_a_sync_that_began_after_he_asked(steps: list[str], others: bool) -> None:
    disk = Disk()

    async def scenario() -> None:
        committer = Committer(disk.sync)
        with opened() as filesystem:

            async def ask() -> None:
                asked = disk.tick()
                await committer.join(filesystem, lambda: others)
                released = disk.tick()
                spans = zip(disk.began, disk.ended, strict=False)
                assert any(asked < began and ended < released for began, ended in spans)

            waiting = []
            for step in steps:
                if step == "ask":
                    waiting.append(asyncio.create_task(ask()))
                elif step == "sync":
                    disk.go_on.release()
                await asyncio.sleep(0.0005 if step == "breathe" else 0)
            disk.go_on.release(1000)
            await asyncio.gather(*waiting)
        committer.stop()

    run(scenario())


def test_all_who_ask_while_a_sync_is_under_way_share_the_next() -> None:
    disk = Disk()

    async def scenario() -> None:
        committer = Committer(disk.sync)
        with opened() as filesystem:
            waiting = [asyncio.ensure_future(committer.join(filesystem))]
            await disk.until_began(1)
            waiting += [asyncio.ensure_future(committer.join(filesystem)) for _ in range(20)]
            await asyncio.sleep(0)
            disk.go_on.release()
            await waiting[0]
            assert not any(task.done() for task in waiting[1:])
            disk.go_on.release()
            await asyncio.gather(*waiting)
        assert len(disk.ended) == 2
        committer.stop()

    run(scenario())


def test_all_who_ask_in_the_same_moment_share_one_sync() -> None:
    disk = Disk()

    async def scenario() -> None:
        committer = Committer(disk.sync)
        with opened() as one, opened() as other:
            asked = [committer.join(filesystem) for filesystem in (one, other)]
            disk.go_on.release()
            await asyncio.gather(*asked)
        assert len(disk.ended) == 1
        committer.stop()

    run(scenario())


async def slowly_once(committer: Committer, disk: Disk, filesystem: Filesystem, seconds: float) -> None:
    """Have a sync done that takes its time."""
    first = committer.join(filesystem)
    await disk.until_began(1)
    await asyncio.sleep(seconds)
    disk.go_on.release()
    await first


def test_a_sync_waits_for_those_who_are_about_to_ask_and_begins_when_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "_MOMENT", 60.0)
    disk, expected = Disk(), [True]

    async def scenario() -> None:
        committer = Committer(disk.sync)
        with opened() as filesystem:
            await slowly_once(committer, disk, filesystem, 1.0)
            asked = [committer.join(filesystem, others) for others in (lambda: expected[0], no_others)]
            await asyncio.sleep(0.1)
            assert len(disk.began) == 1
            expected[0] = False
            asked.append(committer.join(filesystem))
            await asyncio.wait_for(disk.until_began(2), 0.5)
            disk.go_on.release()
            await asyncio.gather(*asked)
        assert len(disk.ended) == 2
        committer.stop()

    run(scenario())


@pytest.mark.parametrize(("took", "moment"), [(0.5, 0.005), (0.0, 60.0), (0.05, 60.0)])
def test_those_who_do_not_come_are_waited_for_no_longer_than_a_sync_takes_nor_than_a_moment(
    monkeypatch: pytest.MonkeyPatch, took: float, moment: float
) -> None:
    monkeypatch.setattr(commit, "_MOMENT", moment)
    disk = Disk()

    async def scenario() -> None:
        committer = Committer(disk.sync)
        with opened() as filesystem:
            if took:
                await slowly_once(committer, disk, filesystem, took)
            before = len(disk.began)
            asked = committer.join(filesystem, lambda: True)
            began = time.monotonic()
            await disk.until_began(before + 1)
            assert time.monotonic() - began < max(min(took, moment) * 5, 0.25)
            disk.go_on.release()
            await asked
        committer.stop()

    run(scenario())


class Asked(Committers):
    """Keeps what a storage says of the uploads that are on their way to it."""

    def join(self, filesystem: Filesystem, others: Callable[[], bool] = commit.no_others) -> asyncio.Future[None]:
        self.others = others
        self.future = super().join(filesystem, others)
        return self.future


def test_uploads_that_do_not_wait_for_a_sync_yet_or_no_more_are_expected_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        asked = Asked()
        bulkhead = Bulkhead(adopted(tmp_path), committers=asked)
        with opened(tmp_path) as filesystem:
            bulkhead.uploads = 3
            step = bulkhead.commit(filesystem, 2)
            assert asked.others()
            bulkhead.uploads = 2
            assert not asked.others()
            await asyncio.wait([asked.future])
            assert asked.others()  # they are about to be named, and ask again
            await step.result()
            bulkhead.uploads = 0
            assert not asked.others()
        bulkhead.stop()

    run(scenario())


def test_a_failure_is_told_to_all_who_share_the_sync_and_it_is_not_tried_again() -> None:
    disk = Disk(code=errno.EIO)

    async def scenario() -> None:
        committer = Committer(disk.sync)
        with opened() as filesystem, opened() as other, opened() as third:
            asked = [committer.join(filesystem)]
            await disk.until_began(1)
            asked.append(committer.join(other))
            disk.go_on.release()
            results = await asyncio.gather(*asked, return_exceptions=True)
            disk.go_on.release()
            await asyncio.sleep(0.01)
            # One began at once, the other waited for the next.
            assert [getattr(result, "errno", None) for result in results] == [errno.EIO] * 2
            assert len(disk.began) == 2
            disk.code = 0
            disk.go_on.release()
            await committer.join(third)
        committer.stop()

    disk.go_on.release()
    run(scenario())


def test_the_descriptor_that_has_been_open_longest_is_synced(tmp_path: Path) -> None:
    disk = Disk()
    for name in "abc":
        (tmp_path / name).mkdir()

    async def scenario() -> None:
        committer = Committer(disk.sync)
        with opened(tmp_path / "a") as first, opened(tmp_path / "b") as second, opened(tmp_path / "c") as third:
            waiting = [asyncio.ensure_future(committer.join(third))]
            await disk.until_began(1)
            waiting += [asyncio.ensure_future(committer.join(later)) for later in (third, first, second)]
            disk.go_on.release(2)
            await asyncio.gather(*waiting)
        committer.stop()

    run(scenario())
    assert disk.inodes == [(tmp_path / name).stat().st_ino for name in "ca"]


def test_a_descriptor_that_has_told_of_a_loss_is_not_relied_on_again_by_any_of_its_users(tmp_path: Path) -> None:
    """The kernel tells it once; whoever wrote what was lost may be another of those who share the descriptor."""
    disk = Disk(code=errno.EIO)
    (tmp_path / "younger").mkdir()

    async def scenario() -> None:
        committer = Committer(disk.sync)
        with opened() as shared, opened(tmp_path / "younger") as younger:
            told = asyncio.ensure_future(committer.join(shared))
            await disk.until_began(1)
            waiting = asyncio.ensure_future(committer.join(shared))
            other = asyncio.ensure_future(committer.join(younger))
            await asyncio.sleep(0)
            disk.go_on.release()
            results = await asyncio.gather(told, waiting, return_exceptions=True)
            assert [getattr(result, "errno", None) for result in results] == [errno.EIO] * 2
            disk.code = 0
            disk.go_on.release(2)
            await other
            with pytest.raises(OSError, match="Input/output"):
                await committer.join(shared)
            await committer.join(younger)
        committer.stop()

    run(scenario())
    assert disk.inodes[1:] == [(tmp_path / "younger").stat().st_ino] * 2


def test_who_gives_up_is_not_waited_for_and_his_descriptor_is_not_used(tmp_path: Path) -> None:
    disk = Disk()
    (tmp_path / "gone").mkdir()

    async def scenario() -> None:
        committer = Committer(disk.sync)
        with opened() as filesystem:
            going = asyncio.ensure_future(committer.join(filesystem))
            await disk.until_began(1)
            with opened(tmp_path / "gone") as gone:
                patience = asyncio.ensure_future(committer.join(Filesystem(DEVICE, gone.fd, 0.0)))
                waiting = asyncio.ensure_future(committer.join(filesystem))
                await asyncio.sleep(0)
                patience.cancel()
                await asyncio.gather(patience, return_exceptions=True)
            disk.go_on.release(2)
            await asyncio.gather(going, waiting)
            await asyncio.sleep(0.01)
        committer.stop()

    run(scenario())
    assert disk.inodes == [os.stat("/").st_ino] * 2


def test_who_gives_up_while_the_disk_syncs_for_him_holds_up_nobody() -> None:
    disk = Disk()

    async def scenario() -> None:
        committer = Committer(disk.sync)
        with opened() as filesystem:
            given_up, waiting = committer.join(filesystem), committer.join(filesystem)
            await disk.until_began(1)
            given_up.cancel()
            disk.go_on.release(2)
            async with asyncio.timeout(5):
                await waiting
                await committer.join(filesystem)
        committer.stop()

    run(scenario())


def test_no_sync_begins_for_an_upload_that_has_given_up(tmp_path: Path) -> None:
    disk = Disk()

    async def scenario() -> None:
        committers = Committers()
        committers[DEVICE] = Committer(disk.sync)
        bulkhead = Bulkhead(adopted(tmp_path / "a"), committers=committers)
        with opened() as filesystem:
            first = bulkhead.commit(filesystem)
            await disk.until_began(1)
            bulkhead.commit(filesystem).abandon()
            disk.go_on.release(2)
            await first.result()
            await asyncio.sleep(0.05)
        assert len(disk.began) == 1
        bulkhead.stop()

    run(scenario())


def test_the_thread_ends_when_nobody_is_to_come_any_more() -> None:
    def theirs() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "stor commit"}

    async def scenario() -> None:
        before, committers = theirs(), Committers()
        with opened() as filesystem:
            await committers.join(filesystem)
        (mine,) = theirs() - before
        committers.stop()
        await eventually(lambda: not mine.is_alive())

    run(scenario())


def test_a_descriptor_that_is_closed_meanwhile_is_no_other_file() -> None:
    disk = Disk()

    async def scenario() -> None:
        committer = Committer(disk.sync)
        with opened() as filesystem:
            task = asyncio.ensure_future(committer.join(filesystem))
            await asyncio.sleep(0)
        with opened("/proc"):  # has the number by now
            disk.go_on.release()
            await task
        committer.stop()

    run(scenario())
    assert disk.inodes == [os.stat("/").st_ino]


def test_without_a_descriptor_left_for_the_sync_all_learn_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario() -> None:
        committer = Committer(Disk().sync)
        with opened() as filesystem:
            monkeypatch.setattr(os, "dup", none_left)
            with pytest.raises(OSError, match="Too many open files"):
                await committer.join(filesystem)
            monkeypatch.undo()
        committer.stop()

    run(scenario())


def test_without_a_thread_for_the_sync_all_learn_it_and_the_next_is_done() -> None:
    async def scenario() -> None:
        committer = Committer()
        with opened() as filesystem:
            with no_thread_to_give(), pytest.raises(OSError, match="can't start new thread"):
                await committer.join(filesystem)
            async with asyncio.timeout(5):
                await committer.join(filesystem)
        committer.stop()

    run(scenario())


def test_devices_do_not_wait_for_each_other() -> None:
    disks = {1: Disk(), 2: Disk()}

    async def scenario() -> None:
        committers = Committers()
        committers.update({device: Committer(disk.sync) for device, disk in disks.items()})
        with opened() as one:
            hanging = asyncio.ensure_future(committers.join(Filesystem(1, one.fd, one.since)))
            disks[2].go_on.release()
            await committers.join(Filesystem(2, one.fd, one.since))
            assert not hanging.done()
            disks[1].go_on.release()
            await hanging
        committers.stop()

    run(scenario())


# What the kernel tells


def test_a_disk_that_has_become_read_only_has_not_synced(mounts: Mounts) -> None:
    point = mounts.tmpfs(1 << 20)

    async def scenario() -> None:
        committer = Committer()
        with opened(point) as filesystem:
            await committer.join(filesystem)
            mounts.remount(point, "ro")
            with pytest.raises(OSError, match="Read-only"):
                await committer.join(filesystem)
        committer.stop()

    run(scenario())


def test_only_filesystems_and_kernels_that_tell_what_they_lost_are_synced_as_a_whole() -> None:
    for kind in ("ext4", "xfs", "btrfs", "tmpfs"):
        assert commit.is_told(kind, "6.1.0-13-amd64")
        assert commit.is_told(kind, "5.18")
        assert not commit.is_told(kind, "5.17.15")
        assert not commit.is_told(kind, "4.19.0")
        assert not commit.is_told(kind, "unheard of")
    for kind in ("nfs4", "fuse", "fuse.sshfs", "overlay", "cifs", "9p", "zfs", ""):
        assert not commit.is_told(kind, "6.1.0")


def test_a_storage_is_synced_as_a_whole_only_where_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filesystem(**options: Any) -> Filesystem | None:
        storage = adopted(tmp_path, **options)
        with storage.open_for_writing() as opened, opened.stage(1, shared=True) as staged:
            return staged.filesystem

    monkeypatch.setattr("pystor.mounts.filesystem_of", lambda _: "ext4")
    found = filesystem()
    assert found is not None
    assert found.device == tmp_path.stat().st_dev
    assert filesystem(durable=False) is None
    monkeypatch.setattr("pystor.mounts.filesystem_of", lambda _: "nfs4")
    assert filesystem() is None


# The storage that waits


@pytest.mark.parametrize(
    ("code", "kind", "unwritable"), [(errno.EIO, StorageError, True), (errno.ENOSPC, StorageFull, False)]
)
def test_a_storage_whose_filesystem_lost_something_is_left_alone_by_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[StorageError], unwritable: bool
) -> None:
    def fails(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(posix, "syncfs", fails)
    member = Bulkhead(adopted(tmp_path))

    async def scenario() -> None:
        with opened(tmp_path) as filesystem:
            with pytest.raises(kind) as failure:
                await member.commit(filesystem).result()
            assert type(failure.value) is kind
            assert failure.value.describe() == f"{tmp_path}: syncfs: {os.strerror(code)}"
        assert member.unwritable == unwritable
        assert not member.out
        member.stop()

    run(scenario())


def test_a_sync_that_does_not_come_back_puts_the_storage_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    hangs: Callable[[int], object] = lambda _: go_on.wait(10)  # noqa: E731
    monkeypatch.setattr(posix, "syncfs", hangs)
    monkeypatch.setattr("pystor.bulkhead.WRITE_TIMEOUT", 0.05)
    member = Bulkhead(adopted(tmp_path))

    async def scenario() -> None:
        with opened(tmp_path) as filesystem, pytest.raises(StorageError, match="try again"):
            await member.commit(filesystem).result()
        assert member.out
        go_on.set()
        member.stop()

    run(scenario())
