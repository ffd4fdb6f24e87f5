"""Which storages have no replica of a blob, asked of all in one go: a job for each costs more than the answer.

The kernel asks the disks all at once, so that none waits for another. Of one that is late nothing is known: whoever
wants to know asks that storage by itself, with all that guards against one that hangs.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from pystor.batches import Batches
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.executor import Executor
from pystor.lookups import MANY, WaitingLookups

_LATE: Final = 0.05
"""Seconds after which a storage is late."""

_LONG: Final = 0.02
"""Seconds after which what is left of a batch goes with the next one."""

_THREADS: Final = 4
"""How many wait for disks at once, each for one blob."""

_MOST: Final = 16
"""Rings that there are at most; those in which a storage is late are not used until it has answered."""

_PATIENCE: Final = 1.0
"""Seconds that are waited for a thread."""

_NOBODY: Final[frozenset[Bulkhead]] = frozenset()


class _Question:
    """The question who has no replica of one blob."""

    def __init__(self, digest: Digest) -> None:
        self.path: Final = digest.path.encode()
        self.answer: Final[asyncio.Future[frozenset[Bulkhead]]] = asyncio.get_running_loop().create_future()

    def settle(self, missing: frozenset[Bulkhead]) -> None:
        if not self.answer.done():
            self.answer.set_result(missing)


class Absences:
    """Asks the storages of a pool. To be used from one event loop."""

    def __init__(self, members: Sequence[Bulkhead], all_in_place: Callable[[], bool]) -> None:
        """`all_in_place` tells, without waiting, whether each of them is where it was, for less than asking each."""
        self._members: Final = tuple(members)
        self._all: Final = frozenset(members)
        self._all_in_place: Final = all_in_place
        self._executor: Final = Executor("stor looks", _THREADS, roams=False)
        self._batches: Final = Batches(self._ask)
        self._lookups: Final[list[WaitingLookups]] = []
        self._free: Final[deque[WaitingLookups]] = deque()
        self._late: Final[deque[WaitingLookups]] = deque()
        """Those for which some storage has not answered yet."""
        self._works = len(self._members) >= MANY

    async def of(self, digest: Digest) -> frozenset[Bulkhead]:
        """Tell who has no replica of a blob; of the others it is not known. Raises nothing."""
        if not self._works:
            return _NOBODY
        question = _Question(digest)
        self._batches.join(question)
        return await question.answer

    def stop(self) -> None:
        """Let the threads end when they have done what they were given."""
        self._executor.stop()

    async def _ask(self, batch: list[_Question], through: Callable[[], None]) -> None:
        try:
            answers = await self._answers([question.path for question in batch])
            for question, missing in zip(batch, answers, strict=False):
                question.settle(self._believed(missing))
            if answers:
                for question in batch[len(answers) :]:
                    self._batches.join(question)
                batch = batch[: len(answers)]
        finally:
            for question in batch:
                question.settle(_NOBODY)
            through()

    async def _answers(self, names: Sequence[bytes]) -> Sequence[frozenset[int]]:
        """Tell for some of the names, at least one, which storages have no such file, by their numbers; none: nothing.

        That is what is known of the names.
        """
        numbers = self._to_be_asked()
        lookups = self._take() if len(numbers) >= MANY else None
        if lookups is None:
            return ()
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._executor.give(self._look, (lookups, names, numbers), certain=True, count=len).future
        except TimeoutError:  # the system has no thread to give
            return ()
        except OSError:
            self._works = False  # each by a job of its own then
            return ()

    def _to_be_asked(self) -> list[int]:
        """Choose those of whom an answer is expected at once, by their numbers."""
        late = {number for lookups in self._lookups for number in lookups.late}
        return [
            number
            for number, member in enumerate(self._members)
            if member.storage.local and not member.slow and number not in late
        ]

    def _take(self) -> WaitingLookups | None:
        with suppress(IndexError):
            return self._free.popleft()
        if len(self._lookups) == _MOST:
            return None
        try:
            lookups = WaitingLookups([member.storage.root for member in self._members])
        except OSError:
            self._works = False
            return None
        self._lookups.append(lookups)
        return lookups

    def _look(self, lookups: WaitingLookups, names: Sequence[bytes], numbers: Sequence[int]) -> list[frozenset[int]]:
        """Look for names, in a thread; for at least one, and the more the quicker that is."""
        self._hear_late()
        answers: list[frozenset[int]] = []
        until = time.monotonic() + _LONG
        try:
            for name in names:
                answers.append(lookups.missing(name, numbers, _LATE))
                if lookups.late or time.monotonic() > until:
                    break
        finally:
            self._give_back(lookups)
        return answers

    def _hear_late(self) -> None:
        for _ in range(len(self._late)):
            with suppress(IndexError):  # another thread hears it
                lookups = self._late.popleft()
                lookups.hear()
                self._give_back(lookups)

    def _give_back(self, lookups: WaitingLookups) -> None:
        (self._late if lookups.late else self._free).append(lookups)

    def _believed(self, missing: frozenset[int]) -> frozenset[Bulkhead]:
        """Tell whose answer counts: "no such file" means nothing where a storage is not in its place any more."""
        in_place = self._all_in_place()
        if in_place and len(missing) == len(self._members):
            return self._all
        members = [self._members[number] for number in missing]
        return frozenset(member for member in members if in_place or member.storage.is_in_place())
