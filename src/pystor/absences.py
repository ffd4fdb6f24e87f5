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

from pystor.background import Tasks
from pystor.batches import Batches
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.executor import Executor
from pystor.lookups import MANY, WaitingLookups

_LATE: Final = 0.05
"""Seconds after which a storage is late."""

_LONG: Final = 0.02
"""Seconds after which each of what is left of a batch is looked for by itself: the disks take their time."""

_THREADS: Final = 8
"""How many wait for disks at once, each for one blob; as many as a storage has of its own."""

_MOST: Final = 16
"""Rings that there are at most; those in which a storage is late are not used until it has answered."""

_PATIENCE: Final = 1.0
"""Seconds that are waited for a thread."""

_PAUSE: Final = 1.0
"""Seconds after which those who are late are heard, though nobody asks."""

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

    def __init__(
        self, members: Sequence[Bulkhead], all_in_place: Callable[[], bool], changes: Callable[[], int]
    ) -> None:
        """`all_in_place` tells, without waiting, whether each of them is where it was, for less than asking each.

        `changes` counts the moments in which one of them may have gone or come.
        """
        self._members: Final = tuple(members)
        self._all: Final = frozenset(members)
        self._all_in_place: Final = all_in_place
        self._changes: Final = changes
        self._executor: Final = Executor("stor looks", _THREADS, roams=False)
        self._batches: Final = Batches(self._ask)
        self._lookups: Final[list[WaitingLookups]] = []
        self._free: Final[deque[WaitingLookups]] = deque()
        self._late: Final[deque[WaitingLookups]] = deque()
        """Those for which some storage has not answered yet."""
        self._listening: Final = Tasks()
        self._works = len(self._members) >= MANY and self._has_rings()

    def _has_rings(self) -> bool:
        try:
            self._free.append(self._made())
        except OSError:
            return False
        return True

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
            answered = await self._answer(batch)
            through()
            if answered:
                await asyncio.gather(*(self._answer([question]) for question in batch[answered:]))
        finally:
            for question in batch:
                question.settle(_NOBODY)
            through()

    async def _answer(self, questions: Sequence[_Question]) -> int:
        """Answer the first questions; tells how many, at least one, or 0 if nothing can be told."""
        if not self._works or sum(map(_is_prompt, self._members)) < MANY:
            return 0
        names, changes = [question.path for question in questions], self._changes()
        try:
            async with asyncio.timeout(_PATIENCE):
                answers = await self._executor.give(self._look, (names,), count=len).future
        except TimeoutError:  # the system has no thread to give, or there is too much to do
            return 0
        except OSError:
            self._works = False  # each by a job of its own then
            return 0
        finally:
            if self._numbers_late() and not self._listening:
                self._listening.begin(self._listen())
        for question, missing in zip(questions, self._believed(answers, changes), strict=False):
            question.settle(missing)
        return len(answers)

    def _believed(self, answers: Sequence[frozenset[int]], changes: int) -> Sequence[frozenset[Bulkhead]]:
        """Tell whose answers count: "no such file" means nothing where a storage was not in its place.

        `changes` is how many there were before they were asked.
        """
        there = self._in_place(frozenset[int]().union(*answers))
        if self._changes() != changes:  # who is in his place was perhaps away when he was asked
            return [_NOBODY] * len(answers)
        return [self._members_of(missing & there) for missing in answers]

    def _in_place(self, numbers: frozenset[int]) -> frozenset[int]:
        if self._all_in_place():
            return numbers
        return frozenset(number for number in numbers if self._members[number].storage.is_in_place())

    def _members_of(self, numbers: frozenset[int]) -> frozenset[Bulkhead]:
        if len(numbers) == len(self._members):
            return self._all
        return frozenset(self._members[number] for number in numbers)

    def _numbers_late(self) -> set[int]:
        return {number for lookups in self._lookups for number in lookups.late}

    async def _listen(self) -> None:
        """Hear who is late until nobody is: a file that was found too late keeps its disk from being unmounted."""
        while self._numbers_late():
            await asyncio.sleep(_PAUSE)
            await self._executor.give(self._hear_late, ()).future

    # In a thread

    def _look(self, names: Sequence[bytes]) -> list[frozenset[int]]:
        """Tell for names, for at least one, and the more the quicker that is, which storages have no such file.

        For none at all if few can be asked, or without a ring.
        """
        self._hear_late()
        numbers = self._to_be_asked()
        lookups = self._take() if len(numbers) >= MANY else None
        answers: list[frozenset[int]] = []
        if lookups is None:
            return answers
        until = time.monotonic() + _LONG
        for name in names:
            answers.append(lookups.missing(name, numbers, _LATE))
            if lookups.late or time.monotonic() > until:
                break
        self._give_back(lookups)  # not one that failed: it may still tell of what it was asked then
        return answers

    def _to_be_asked(self) -> list[int]:
        """Choose those of whom an answer is expected at once, by their numbers."""
        late = self._numbers_late()
        members = enumerate(self._members)
        return [number for number, member in members if _is_prompt(member) and number not in late]

    def _take(self) -> WaitingLookups | None:
        with suppress(IndexError):
            return self._free.popleft()
        return self._made() if len(self._lookups) < _MOST else None

    def _made(self) -> WaitingLookups:
        lookups = WaitingLookups([member.storage.root for member in self._members])
        self._lookups.append(lookups)
        return lookups

    def _hear_late(self) -> None:
        for _ in range(len(self._late)):
            with suppress(IndexError):  # another thread hears it
                lookups = self._late.popleft()
                lookups.hear()
                self._give_back(lookups)

    def _give_back(self, lookups: WaitingLookups) -> None:
        (self._late if lookups.late else self._free).append(lookups)


def _is_prompt(member: Bulkhead) -> bool:
    return member.storage.local and not member.slow
