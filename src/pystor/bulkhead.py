"""The asynchronous face of one storage: a few threads of its own, so that a slow disk is slow for itself alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypedDict, TypeVar, Unpack

from pystor.blob import Filesystem, QueueName, Replica, Space, Storage
from pystor.breaker import SharedSwitches, State, Switch
from pystor.commit import Committers
from pystor.digest import Digest
from pystor.errors import StorageError
from pystor.executor import Executor, one
from pystor.probing import Inquiry, Probes
from pystor.steps import Awaited, Known, OnReplica, Probing, Running, Step, Syncing

_T = TypeVar("_T")

_PACE_WEIGHT: Final = 0.2  # of the newest time in the running average
_SLOW: Final = 0.05  # seconds; a disk under load may take a few of its seeks

_ROOM: Final = 64 << 10
"""Bytes that are read into memory which is there: to make it anew for each piece takes as long as to read it."""

WRITE_TIMEOUT: Final = 20.0
"""Seconds for what waits for a disk: an fsync may have much to do."""


class How(TypedDict, total=False):
    """How an operation of a storage is run; what is not given is false or None."""

    timeout: float | None
    """Seconds for an answer, from when a thread begins; None: `Timeouts.answer`, `WRITE_TIMEOUT` if it `waits`."""
    certain: bool
    """It is done even if nobody waits any more when its turn comes, or the storage is out."""
    probing: bool
    """It is a probe: the only thing that a storage which is out is asked for. A thread of its own does it."""
    writing: bool
    """It begins a write, and is refused while the storage is out for writes."""
    ahead: bool
    """It goes before all that wait for a thread."""
    waits: bool
    """It waits for the disk, as an fsync does: it leaves threads to what does not, and makes no storage a slow one."""
    of: Replica | Digest | None
    """The replica that it opens or reads, or its blob. If it is late while the storage answers a probe, that replica is
    `unreadable`, and until it comes nothing more is begun that is of the same file."""


class Bulkhead:
    """One storage and the threads that wait for it."""

    def __init__(
        self,
        storage: Storage,
        *,
        threads: int = 8,
        switch: Switch | None = None,
        committers: Committers | None = None,
    ) -> None:
        """Begin with no thread at all; at most `threads` are started for each kind of work, as it comes.

        `switch` is shared with all who have the same storage, in other processes too; `committers` with the other
        storages of this process, some of which may lie on one filesystem.
        """
        self.storage: Final = storage
        self.switch: Final = switch or SharedSwitches(None, 1).switch(0)
        """What all workers know of the storage."""
        self.uploads = 0
        """Uploads of small blobs to this storage that are under way."""
        self._committers: Final = Committers() if committers is None else committers
        self._pace = 0.0
        self.space: Space | None = None
        """Its room as last measured; None if it did not answer."""
        self.noted: Final[set[QueueName]] = set()
        """Its queues on which this process has put something that nobody has looked at since."""
        self._threads: Final = threads
        self._executor = self._new_executor()
        self._probes: Final = Probes(storage.root)
        self._inquiry: Final = Inquiry(self._probes, self._probe)
        self._was_away = False
        self._waited_for: Final[set[Awaited[Any]]] = set()
        self._room: Final = memoryview(bytearray(_ROOM))

    def _new_executor(self) -> Executor:
        return Executor(f"stor {self.storage.root}", self._threads)

    async def run(self, operation: Callable[..., _T], *arguments: object, **how: Unpack[How]) -> _T:
        """Run a synchronous operation in a thread of this storage, and wait for its result.

        Raises what the operation raises, and `StorageError` when the storage is out, there is no answer within the
        timeout, or no thread for it. What comes after that, or after a cancellation, is closed if it can be. An
        operation that has not begun by then does not begin any more, unless it is `certain`.
        """
        return await self.begin(operation, *arguments, **how).result()

    def begin(
        self,
        operation: Callable[..., _T],
        *arguments: object,
        timeout: float | None = None,
        certain: bool = False,
        probing: bool = False,
        writing: bool = False,
        ahead: bool = False,
        waits: bool = False,
        of: Replica | Digest | None = None,
        count: Callable[[_T], int] = one,
    ) -> Step[_T]:
        """Do as `run` does, without waiting for it: the step gives the result. What is said of `How` holds here, too.

        `count` tells of the result how many things were done in one go.
        """
        if self.switch.get() >= (State.UNWRITABLE if writing else State.OUT) and not (probing or certain):
            return Known(self._is_out(_name(operation)))
        if of is not None and not isinstance(of, Digest) and self._inquiry.hangs(of):
            reason = "it is waited for already"
            return Known(StorageError(self.storage.root, _name(operation), reason, unreadable=True))
        executor = self._probes.executor if probing else self._executor
        job = executor.give(operation, arguments, certain=certain, waits=waits, ahead=ahead, count=count)
        usual = WRITE_TIMEOUT if waits else self.storage.timeouts.answer
        name, seconds = _name(operation), usual if timeout is None else timeout
        step: Running[_T]
        if probing:
            step = Probing(self, job, name, seconds, is_in=lambda: not self.unwritable)
        elif of is not None and self.storage.writable and self.storage.syncs:  # else a probe proves nothing of the disk
            step = OnReplica(self, job, name, seconds, of=of, inquiry=self._inquiry)
        else:
            step = Running(self, job, name, seconds)
        if not (probing or certain):
            self.remember(step)
        return step

    async def enqueue(self, queue: QueueName, digest: Digest) -> None:
        """Put a blob on a queue of the storage, durably. Raises `StorageError`."""
        await self.run(self.storage.enqueue, queue, digest, waits=True)
        self.noted.add(queue)

    def commit(self, filesystem: Filesystem, uploads: int = 1) -> Step[None]:
        """Begin to wait until all that was written to the storage's filesystem before is on stable storage.

        So many of the `uploads` that are under way wait for it. A failure is not tried again: the kernel marks clean
        what it lost.
        """
        step = Syncing(self, self._committers.join(filesystem, self._expects), uploads, WRITE_TIMEOUT)
        self.remember(step)
        return step

    def _expects(self) -> bool:
        """Tell whether there are uploads on their way that do not wait for a sync yet, or not any more."""
        return self.uploads > sum(step.syncing for step in self._waited_for)

    def remember(self, step: Awaited[Any]) -> None:
        """Take note that a step is waited for: it is given up when the storage is out."""
        self._waited_for.add(step)

    def forget(self, step: Awaited[Any]) -> None:
        """Take note that nobody waits for a step any more."""
        self._waited_for.discard(step)

    def _is_out(self, operation: str) -> StorageError:
        return StorageError(self.storage.root, operation, f"is out: {self.switch.reason or 'it failed'}")

    def _release(self) -> None:
        """Give up what is waited for, since the storage hangs; reads only if it is out for them, too."""
        for step in tuple(self._waited_for):
            if self.out or not isinstance(step, OnReplica):
                step.give_up(self._is_out(step.name))

    def has_answered_since(self, since: float) -> bool:
        """Tell whether a probe sent after `since` (monotonic clock) was answered, and only few replicas are late."""
        return self._inquiry.is_well_since(since)

    def let_go(self, since: float) -> None:
        """Give up the steps that no thread had begun by `since` (monotonic clock), unless they have longer timeouts."""
        for step in tuple(self._waited_for):
            late = step.began is None or step.began >= since
            if late and step.timeout <= self.storage.timeouts.answer and self.out:
                step.give_up(self._is_out(step.name))

    def note_time(self, seconds: float) -> None:
        """Take note of how many seconds an answer took, or each of several that came in one go."""
        self._pace += (seconds - self._pace) * _PACE_WEIGHT

    def note(self, error: StorageError) -> StorageError:
        """Take note of a failure: the storage may be left alone because of it. Returns it."""
        self.switch.blame(error.describe())
        if error.dead:
            self._was_away = True
            self.switch.set(State.OUT)
        elif error.unwritable and self.switch.get() == State.IN:
            self.switch.set(State.UNWRITABLE)
        return error

    @property
    def out(self) -> bool:
        """Whether the storage is left alone, because it hung or failed as a whole."""
        return self.switch.get() == State.OUT

    @property
    def unwritable(self) -> bool:
        """Whether the storage is left alone by writes at least."""
        return self.switch.get() != State.IN

    @property
    def slow(self) -> bool:
        """Whether its answers take so long that another storage is better asked first."""
        return self._pace > _SLOW or self.switch.get() == State.OUT

    @property
    def ails(self) -> bool:
        """Whether `recover` has something to do."""
        return self.unwritable or self._pace > _SLOW or self._was_away

    async def recover(self) -> None:
        """Probe the storage if it is out, and take it in again if it does all it should; see how a slow one does.

        When not even the probe is answered as soon as a read should be, nobody waits for it any longer. The probe may
        take as long as a write: one that is only slow is taken in again when it answers.
        """
        if self.unwritable:
            sent = self._inquiry.send()
            heard = await self._inquiry.is_heard_within(self.storage.timeouts.answer)
            if self.unwritable:
                if not (sent and heard):
                    self._release()
                return
        elif self.slow:
            with suppress(StorageError):
                await self.check()
        self._begin_anew()

    async def _probe(self) -> bool:
        """Probe the storage, and take it in again if it does all it should; False if it does not."""
        was_unwritable = self.unwritable
        try:
            await self.run(self.storage.probe, probing=True, waits=True)
        except StorageError as error:
            if error.dead:
                self._release()
            elif error.unwritable:
                self.switch.set(State.UNWRITABLE)  # it reads again, at least
            return False
        if was_unwritable or self.out:  # a write that failed while it was probed is not forgotten
            self.switch.set(State.IN)
        return True

    async def prove(self, period: float) -> None:
        """Probe a disk of this machine every `period` seconds, in one of all workers; raises `StorageError`.

        What it has in memory tells nothing of it, so that it may be dead without anybody noticing before a write.
        """
        storage = self.storage
        if storage.local and storage.writable and not self.unwritable and self.switch.is_turn(period):
            await self.run(storage.probe, waits=True)

    def _begin_anew(self) -> None:
        """Once the storage is back, whoever found that out, leave the threads behind that still hang in what it was."""
        if self._was_away:
            self._inquiry.forget_late()
            if self._executor.room <= 0:
                self._executor.stop()
                self._executor = self._new_executor()
        self._was_away = False

    def stop(self) -> None:
        """Let the threads end when they have done what they were given."""
        self._inquiry.stop()
        self._executor.stop()
        self._probes.stop()
        self._committers.stop()

    async def open(self, digest: Digest) -> Replica | None:
        """Open the replica of a blob; at once if the storage is local and the names are in the kernel's cache."""
        found = self.storage.open_cached(digest)
        return await self.run(self.storage.open, digest, of=digest) if found is False else found

    def begin_open_own(self, digest: Digest) -> Step[Replica | None]:
        """Do the same without waiting for it, and only if the replica is the storage's own beyond doubt."""
        found = self.storage.open_own_cached(digest)
        return self.begin(self.storage.open_own, digest, of=digest) if found is False else Known(found)

    async def read(self, replica: Replica, offset: int, size: int) -> bytes:
        """Read exactly `size` bytes of a replica; at once if they are in memory."""
        room = self._room[:size] if size <= _ROOM else memoryview(bytearray(size))
        if replica.read_cached(offset, room):
            return bytes(room)
        return await self.run(replica.read, offset, size, of=replica)

    async def check(self) -> Space:
        """Measure the storage's room, and see that it is there."""
        try:
            self.space = await self.run(self.storage.check, ahead=True)
        except StorageError:
            self.space = None
            raise
        return self.space


def _name(operation: Callable[..., object]) -> str:
    return getattr(operation, "__name__", "operation").strip("_")
