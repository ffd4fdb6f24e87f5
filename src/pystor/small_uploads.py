"""Small uploads to the same storages, in batches: one job of a thread writes many of them, and one sync is for all.

One that is alone is done sooner by syncs of its own; several are by what they share. A failure is that of one replica,
or of a storage, and then of all who are on their way to it: none of them could do without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from types import MappingProxyType
from typing import Final, TypeAlias

from pystor import moments
from pystor.batches import Batches
from pystor.blob import Filesystem, OpenStorage, Staged
from pystor.bulkhead import WRITE_TIMEOUT, Bulkhead
from pystor.digest import Digest
from pystor.errors import StorageError
from pystor.executor import Executor
from pystor.rounds import Done, Round, Work, one_by_one
from pystor.steps import Step, outcomes

_LITTLE: Final = 256 << 10
"""Bytes of a batch that are written in less time than its files are made in."""

NOW: Final[Mapping[Bulkhead, int]] = MappingProxyType({})
"""Every replica is of the time when the blob is written."""


class AlreadyThere(Exception):
    """Something stands under the name of a blob that was to be new."""


@dataclass(slots=True, eq=False)
class SmallUpload:
    """A small blob on its way to some storages."""

    content: bytes
    unseen: Digest | None = None
    """What is to be looked for before it is written; None if that was done."""
    name: Digest | None = None
    """What it is to be called; it is named as soon as it is written if that is known by then."""
    times: Mapping[Bulkhead, int] = field(default_factory=lambda: NOW)
    """Of which time it is to be on which storage, in nanoseconds since the epoch; of now on the others."""
    alone: bool = False
    """Whether it is synced for itself."""
    began: int = field(default_factory=moments.now)
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Whether it is as far as it can go for now."""
    staged: dict[Bulkhead, Staged] = field(default_factory=dict)
    failed: dict[Bulkhead, Exception] = field(default_factory=dict)

    def failure(self) -> Exception | None:
        """Tell what keeps it from going on; that something is there already, before anything else."""
        failures = list(self.failed.values())
        return next((each for each in failures if isinstance(each, AlreadyThere)), failures[0] if failures else None)


_Part: TypeAlias = tuple[Bulkhead, Sequence[SmallUpload]]
"""What goes to one storage in one go."""


class SmallUploads:
    """The small uploads that are on their way to the same storages. To be used from one event loop."""

    def __init__(self, members: Sequence[Bulkhead], executor: Executor | None = None) -> None:
        """Begin without any. `executor` does what is light on all storages in one go; without it, each does its own."""
        self.members: Final = tuple(members)
        self._executor: Final = executor
        self._writing: Final = Batches(self._write)
        self._naming: Final = Batches(self._name)
        self._held: Callable[[], None] = _nothing
        """Lets the next batch be written, once that which was written last is named."""

    async def write(self, upload: SmallUpload) -> None:
        """Write a blob to all storages; it is on stable storage when this returns, and counts until it leaves.

        It has its `name` as well by then, if that is given; `failed` tells where not. Raises the failure of a storage
        to write it, or `AlreadyThere` if one has something under the name of what is `unseen`; then nothing stays.
        """
        for member in self.members:
            member.uploads += 1
        try:
            self._writing.join(upload)
            await upload.done
        except BaseException:
            self.leave()
            # Whoever is cancelled when it is written already is the only one who knows of it.
            await asyncio.shield(discard(upload.staged))
            raise

    async def name(self, upload: SmallUpload, digest: Digest) -> None:
        """Give a blob that is written its final name on all storages, durably; `failed` tells where that failed."""
        upload.name = digest
        upload.done = asyncio.get_running_loop().create_future()
        self._naming.join(upload)
        await upload.done

    def leave(self) -> None:
        """Count an upload no more. To be called once for each that was written."""
        for member in self.members:
            member.uploads -= 1

    def stop(self) -> None:
        """Let the threads end when they have done what they were given."""
        if self._executor is not None:
            self._executor.stop()

    async def _write(self, batch: list[SmallUpload], through: Callable[[], None]) -> None:
        syncs = any(member.storage.syncs for member in self.members)
        batch[0].alone = syncs and len(batch) == 1 and all(member.uploads == 1 for member in self.members)

        def written() -> None:
            if self._is_named_next(batch):
                self._held = through
            else:
                through()

        try:
            await self._do(_write, batch, written)
        finally:
            lost = [upload for upload in batch if upload.failed or upload.done.done()]
            if lost:
                await asyncio.shield(_discard_all(lost))
            for upload in batch:
                if upload.name is None or upload.failed:
                    _settle(upload, upload.failure())
                elif not upload.done.done():
                    self._naming.join(upload)

    async def _name(self, batch: list[SmallUpload], through: Callable[[], None]) -> None:
        try:
            await self._do(_name, batch, through)
        finally:
            held, self._held = self._held, _nothing
            held()
            for upload in batch:
                _settle(upload, None)

    async def _do(self, work: Work[SmallUpload], batch: Sequence[SmallUpload], through: Callable[[], None]) -> None:
        for member in self.members:
            member.switch.hurry()
        try:
            # Who had to wait for a thread behind others that hang would blame the wrong storage.
            if self._executor is not None and self._executor.room > 0 and self._is_light(batch):
                left = await self._in_one_go(self._executor, work, batch)
            else:
                left = [part for member in self.members for part in _parts(member, batch)]
            while left:
                left = await _in_parts(work, left)
            through()
            await self._sync(batch)
        except asyncio.CancelledError:
            for upload in batch:
                upload.done.cancel()
            raise
        except Exception as error:  # noqa: BLE001  a fault of ours: whoever waits for one of them raises it
            for member in self.members:
                _fail(member, batch, error)

    def _is_light(self, batch: Sequence[SmallUpload]) -> bool:
        """Tell whether one thread is through with a batch on all storages in no time, as far as can be told."""
        return (
            not batch[0].alone
            and all(member.storage.prompt and not member.unwritable for member in self.members)
            and sum(len(upload.content) for upload in batch) <= _LITTLE
        )

    async def _in_one_go(
        self, executor: Executor, work: Work[SmallUpload], batch: Sequence[SmallUpload]
    ) -> list[_Part]:
        """Do a work with a batch on one storage after the other; returns what is left to be done."""
        going = Round(self.members)
        timeout = max(_timeout(member, batch) for member in self.members)
        outcome = await going.begin(executor, work, batch, timeout).outcome()
        done = going.done
        if isinstance(outcome, Exception):
            done = done[: len(self.members) - 1]  # of the last one nobody wants to know any more
            for member in self.members[len(done) :]:
                _fail(member, batch, outcome)
        return [part for member, each in zip(self.members, done, strict=False) for part in _note(member, batch, each)]

    def _is_named_next(self, batch: Sequence[SmallUpload]) -> bool:
        """Tell whether something of a batch that was written is named at once, without waiting for a disk.

        The next batch is written after that: two at once take the time from each other, and each is smaller.
        """
        at_once = all(member.storage.prompt and not member.storage.syncs for member in self.members)
        return at_once and not all(upload.failed for upload in batch)

    async def _sync(self, batch: Sequence[SmallUpload]) -> None:
        """Wait for syncs of what was just done on each storage, where that does not sync for itself."""
        going = {member: _shared(member, batch) for member in self.members if member.storage.syncs}
        steps = {
            member: member.commit(_longest_open(member, uploads), len(uploads))
            for member, uploads in going.items()
            if uploads
        }
        for member, outcome in zip(steps, await outcomes(steps.values()), strict=True):
            if isinstance(outcome, Exception):
                for upload in going[member]:
                    upload.failed[member] = outcome


def _nothing() -> None:
    pass


def _longest_open(member: Bulkhead, uploads: Sequence[SmallUpload]) -> Filesystem:
    """Choose the descriptor that tells what any of them lost: it was open before the first one began to write."""
    filesystems = [found for upload in uploads if (found := upload.staged[member].filesystem) is not None]
    return min(filesystems, key=attrgetter("since"))


def _shared(member: Bulkhead, batch: Sequence[SmallUpload]) -> list[SmallUpload]:
    """Tell which leave their sync on a storage to that of its whole filesystem."""
    return [upload for upload in batch if member not in upload.failed and upload.staged[member].filesystem is not None]


def _settle(upload: SmallUpload, failure: Exception | None) -> None:
    if upload.done.done():
        return
    if failure is None:
        upload.done.set_result(None)
    else:
        upload.done.set_exception(failure)


def _parts(member: Bulkhead, batch: Sequence[SmallUpload]) -> list[_Part]:
    """Tell what goes to a storage in one go."""
    return [(member, batch)] if member.storage.prompt else [(member, (upload,)) for upload in batch]


async def _in_parts(work: Work[SmallUpload], parts: Sequence[_Part]) -> list[_Part]:
    """Do a work on all storages at once; returns what is left to be done."""
    ended = await outcomes([_begin(member, work, part) for member, part in parts])
    left = []
    for (member, part), outcome in zip(parts, ended, strict=True):
        if isinstance(outcome, Exception):
            _fail(member, part, outcome)
        else:
            left += _note(member, part, outcome)
    return left


def _fail(member: Bulkhead, part: Sequence[SmallUpload], error: Exception) -> None:
    for upload in part:
        upload.failed[member] = error


def _note(member: Bulkhead, part: Sequence[SmallUpload], done: Done) -> list[_Part]:
    """Take note of what became of uploads on a storage; returns what was not begun, each for itself."""
    for upload, outcome in zip(part, done, strict=False):
        if isinstance(outcome, Exception):
            # What fails because it was given up says nothing of the storage.
            if isinstance(outcome, StorageError) and not upload.done.done():
                member.note(outcome)
            upload.failed[member] = outcome
        elif outcome is not None:
            upload.staged[member] = outcome
    return [(member, (upload,)) for upload in part[len(done) :]]


def _begin(member: Bulkhead, work: Work[SmallUpload], part: Sequence[SmallUpload]) -> Step[Done]:
    waits = not member.storage.prompt or part[0].alone
    timeout = _timeout(member, part)
    return member.begin(work, member, part, timeout=timeout, writing=work is _write, waits=waits, count=len)


def _timeout(member: Bulkhead, part: Sequence[SmallUpload]) -> float:
    """Seconds that a work with uploads on a storage may take."""
    return max([upload.staged[member].timeout for upload in part if member in upload.staged], default=WRITE_TIMEOUT)


def _write(member: Bulkhead, batch: Sequence[SmallUpload]) -> Done:
    """Write uploads to a storage, in a thread."""
    with member.storage.open_for_writing() as opened:
        return one_by_one(lambda upload: _write_one(opened, upload, upload.times.get(member)), batch)


def _write_one(opened: OpenStorage, upload: SmallUpload, modified: int | None) -> Staged:
    if upload.unseen is not None and not opened.make_way(upload.unseen):
        raise AlreadyThere
    staged = opened.stage(len(upload.content), shared=not upload.alone)
    try:
        staged.write(upload.content)
        if modified is not None or moments.is_over(upload.began):
            staged.date(upload.began if modified is None else modified)
        staged.sync()
    except BaseException:
        staged.discard()
        raise
    return staged


def _name(member: Bulkhead, batch: Sequence[SmallUpload]) -> Done:
    """Give uploads their names on a storage, in a thread."""
    return one_by_one(lambda upload: _name_one(upload, upload.staged[member]), batch)


def _name_one(upload: SmallUpload, staged: Staged) -> None:
    assert upload.name is not None
    staged.publish(upload.name)


async def discard(staged: Mapping[Bulkhead, Staged]) -> None:
    """Remove the replicas of a blob that were not published; what takes long is done when nobody waits any more.

    That says nothing of a storage: it may be for a step that is not over, or for others who sync.
    """
    steps = {
        member: member.begin(replica.discard, timeout=replica.timeout, certain=True, waits=True)
        for member, replica in staged.items()
    }
    for member, step in steps.items():
        if member.out:
            step.abandon()  # it is done when the storage does something again
    going = {member: step for member, step in steps.items() if not member.out}
    with suppress(TimeoutError):
        async with asyncio.timeout(max([member.storage.timeouts.answer for member in going], default=0.0)):
            await outcomes(going.values())


async def _discard_all(lost: Sequence[SmallUpload]) -> None:
    await asyncio.gather(*(discard(upload.staged) for upload in lost))
    for upload in lost:
        upload.staged.clear()
