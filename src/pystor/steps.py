"""The operations of a storage that are under way: begun at once, waited for later, given up when they take too long."""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from pystor.blob import Replica, Storage
from pystor.digest import Digest
from pystor.errors import StorageError
from pystor.executor import Job, close
from pystor.patience import Patience
from pystor.probing import Inquiry

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Member(Protocol):
    """Whose a step is, and who hears how it ends: a storage, or several that one thread goes through."""

    @property
    def storage(self) -> Storage:
        """The storage."""
        ...

    def note(self, error: StorageError) -> StorageError:
        """Take note of a failure: the storage may be left alone because of it. Returns it."""
        ...

    def has_answered_since(self, since: float) -> bool:
        """Tell whether a probe that was sent after `since` (monotonic clock) was answered.

        Then a few late replicas have all the threads, and the storage is well. False as well if many replicas are late.
        """
        ...

    def let_go(self, since: float) -> None:
        """Give up the steps that no thread had begun by `since` (monotonic clock): the threads hang."""
        ...

    def note_time(self, seconds: float) -> None:
        """Take note of how many seconds an answer took, or each of several that came in one go."""
        ...

    def forget(self, step: Awaited[Any]) -> None:
        """Take note that nobody waits for a step any more."""
        ...


class Step(ABC, Generic[_T_co]):
    """An operation of a storage. Several may be begun before the first one is waited for."""

    @abstractmethod
    async def result(self) -> _T_co:
        """Wait for the result; raises `StorageError`, and whatever else the operation raised."""
        ...

    @abstractmethod
    def abandon(self) -> None:
        """Wait no more: the result is closed when it comes."""
        ...

    async def outcome(self) -> _T_co | Exception:
        """Wait for the result, or for what is raised instead."""
        try:
            return await self.result()
        except Exception as error:  # noqa: BLE001  it belongs to whoever looks at the outcome
            return error


async def outcomes(steps: Iterable[Step[_T]]) -> list[_T | Exception]:
    """Wait for all steps, which have begun, and give what each returned or raised."""
    begun = tuple(steps)
    try:
        return [await step.outcome() for step in begun]
    except BaseException:
        for step in begun:
            step.abandon()
        raise


class Known(Step[_T]):
    """A step whose result was there at once, or that was refused."""

    def __init__(self, outcome: _T | StorageError) -> None:
        self._outcome: Final = outcome

    async def result(self) -> _T:
        """Give it, or raise why it was refused."""
        if isinstance(self._outcome, StorageError):
            raise self._outcome
        return self._outcome

    def abandon(self) -> None:
        """Close it."""
        close(self._outcome)


class Awaited(Step[_T]):
    """A step that takes time: until there is a result, the timeout is over, or the storage is out."""

    _FIRST_LOOK: ClassVar = 1.0
    """The part of the timeout after which it is looked at for the first time."""

    def __init__(self, member: Member, future: asyncio.Future[_T], name: str, timeout: float) -> None:
        self.name: Final = name
        self.timeout: Final = timeout
        """Seconds within which an answer is to come."""
        self._member: Final = member
        self._future: Final = future
        self._given_up = False
        self._patience: Final = Patience(self._expire, timeout * self._FIRST_LOOK)

    @property
    def syncing(self) -> int:
        """How many uploads wait for a sync by this step."""
        return 0

    @property
    def began(self) -> float | None:
        """When a thread began it, on the monotonic clock; None: none has yet. What needs no thread began long ago."""
        return -math.inf

    def _expire(self) -> None:
        """Look after it; called when `_FIRST_LOOK` of the timeout is over."""
        self._fail("no answer", dead=True)

    def _fail(self, what: str, *, dead: bool) -> None:
        if not self._future.done():
            self._future.set_exception(self._error(what, dead=dead))

    def _error(self, what: str, *, dead: bool) -> StorageError:
        return StorageError(self._member.storage.root, self.name, f"{what} within {self.timeout:g} s", dead=dead)

    def give_up(self, error: StorageError) -> None:
        """Wait no more, since another step has found out that the storage is out; that is not noted once more."""
        if not self._future.done():
            self._given_up = True
            self._future.set_exception(error)

    def _note(self, error: StorageError) -> None:
        if not self._given_up:
            self._member.note(error)

    def _leave(self) -> None:
        self._patience.cancel()
        self._member.forget(self)


class Running(Awaited[_T]):
    """An operation in a thread. The timeout is for the storage: it counts from when a thread begins.

    That none begins within the timeout may be for want of threads, while each of those that there are comes back in
    time: then it is too much at once, which is no fault of the storage. Nor is it if the system has no thread to give.
    """

    def __init__(self, member: Member, job: Job[_T], name: str, timeout: float) -> None:
        super().__init__(member, job.future, name, timeout)
        self._job: Final = job
        self._asked: Final = time.monotonic()

    @property
    def began(self) -> float | None:
        """When a thread began it."""
        return self._job.began

    def _expire(self) -> None:
        began = self.began
        if self._job.done:
            return
        if began is None:
            if self._job.executor.full:
                hangs = self._job.executor.came_back < self._asked
                self._fail("no thread was free", dead=hangs and not self._member.has_answered_since(self._asked))
            else:
                self._fail("no thread could be started", dead=False)
            return
        left = self._left(began)
        if left > 0:
            self._patience.start(left)
        else:
            self._overrun(began)

    def _left(self, began: float) -> float:
        return began + self.timeout + self._patience.more - time.monotonic()

    def _overrun(self, began: float) -> None:
        """Fail: the timeout since a thread `began` it is over."""
        self._fail("no answer", dead=not self._member.storage.answers_since(began))

    def _note(self, error: StorageError) -> None:
        super()._note(error)
        if error.dead and self.began is not None:
            self._member.let_go(self._job.failed)

    async def result(self) -> _T:
        """Wait for it, and tell the storage how that went."""
        try:
            result = await self._future
        except StorageError as error:
            self._note(error)
            raise
        except BaseException:
            self._job.abandon()
            raise
        finally:
            self._leave()
        if not self._job.waits:  # how long a sync takes says nothing of how long a read would
            self._member.note_time(self._job.seconds / self._job.things)
        return result

    def abandon(self) -> None:
        """Wait no more: what comes is closed."""
        self._leave()
        self._job.abandon()


class Probing(Running[_T]):
    """A probe. If the storage is in use again when it is late, it hangs in the disk that was there before."""

    def __init__(self, member: Member, job: Job[_T], name: str, timeout: float, *, is_in: Callable[[], bool]) -> None:
        """`is_in` tells whether the storage is in use, whichever worker has taken it in."""
        super().__init__(member, job, name, timeout)
        self._is_in: Final = is_in

    def _fail(self, what: str, *, dead: bool) -> None:
        if self._is_in():
            self.give_up(self._error(what, dead=False))
        else:
            super()._fail(what, dead=dead)


class OnReplica(Running[_T]):
    """An operation on one replica. That it is late may be for a bad sector, which a disk tries to read for long.

    So the storage is asked for something else when half of the time is over: if it answers, it is this replica alone
    that cannot be read.
    """

    _FIRST_LOOK: ClassVar = 0.5

    def __init__(
        self, member: Member, job: Job[_T], name: str, timeout: float, *, of: Replica | Digest, inquiry: Inquiry
    ) -> None:
        """`of`: the replica, or the blob whose replica it is. `inquiry` asks the storage for something else."""
        super().__init__(member, job, name, timeout)
        self._of: Final = of
        self._inquiry: Final = inquiry

    def _expire(self) -> None:
        began = self._asked if self.began is None else self.began
        left = self._left(began)
        half = self.timeout * self._FIRST_LOOK
        if left <= 0:
            super()._expire()
            return
        if left <= half:
            self._inquiry.ask(began)
        self._patience.start(left if left <= half else left - half)

    def _overrun(self, began: float) -> None:
        if self._future.done():
            return
        alone = self._inquiry.is_well_but_for(self._of, self, began)
        error = self._error("no answer", dead=not (alone or self._member.storage.answers_since(began)))
        error.unreadable = alone
        error.sequel = sequel = asyncio.get_running_loop().create_future()

        def come(failure: BaseException | None) -> None:
            self._inquiry.has_come(self)
            if isinstance(failure, StorageError):
                sequel.set_result(failure)

        self._job.late = come
        self._future.set_exception(error)


class Syncing(Awaited[None]):
    """The wait for a sync that several uploads share."""

    def __init__(self, member: Member, future: asyncio.Future[None], uploads: int, timeout: float) -> None:
        super().__init__(member, future, "syncfs", timeout)
        self._uploads: Final = uploads

    @property
    def syncing(self) -> int:
        """How many uploads wait for it."""
        return 0 if self._future.done() else self._uploads

    async def result(self) -> None:
        """Wait for it, and tell the storage if it failed."""
        try:
            await self._future
        except StorageError as error:
            self._note(error)
            raise
        except OSError as error:
            failure = StorageError.from_os(self._member.storage.root, self.name, error, writing=True)
            raise self._member.note(failure) from error
        finally:
            self._leave()

    def abandon(self) -> None:
        """Wait no more."""
        self._leave()
        self._future.cancel()
