"""Many blobs at once: what happens is told as values, and added up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, TypeVar

_AHEAD: Final = 100_000  # items that are read before anybody is free for them, so that their number is known

T = TypeVar("T")


class Expected(NamedTuple):
    """So many files are to come, and bytes if they are known; `final` when there are no others."""

    files: int
    size: int | None = None
    final: bool = False


class Moved(NamedTuple):
    """So many bytes more have come or gone; `size` is that of a file, when it is learnt."""

    by: int
    size: int | None = None


class Done(NamedTuple):
    """A file was transferred. `name` is its SHA-256."""

    name: str
    path: str
    size: int
    seconds: float
    at_once: bool = False
    """Whether it came as a whole: none of its bytes was told of as `Moved`."""


class Skipped(NamedTuple):
    """A file did not have to be transferred."""

    name: str
    path: str
    why: str
    size: int = 0


class Failed(NamedTuple):
    """A file was not transferred. `what` is its SHA-256, or its path."""

    what: str
    why: str


Event: TypeAlias = Expected | Moved | Done | Skipped | Failed
Observer: TypeAlias = Callable[[Event], None]


@dataclass(slots=True)
class Totals:
    """All events added up. `moved` are bytes on the wire, `announced` those that are known to have to move."""

    expected: int = 0
    final: bool = False
    sized: int = 0
    """Files whose size is known."""
    done: int = 0
    skipped: int = 0
    failed: int = 0
    size: int = 0
    moved: int = 0
    announced: int = 0

    def add(self, event: Event) -> None:
        """Add an event."""
        match event:
            case Done():
                self.done += 1
                self.size += event.size
                if event.at_once:
                    self._move(event.size, event.size)
            case Moved():
                self._move(event.by, event.size)
            case Skipped():
                self.skipped += 1
                self.announced -= event.size
            case Failed():
                self.failed += 1
            case Expected():
                self.expected += event.files
                self.final = self.final or event.final
                self._announce(event.size)

    def _move(self, by: int, size: int | None) -> None:
        self.moved += by
        self._announce(size)

    def _announce(self, size: int | None) -> None:
        if size is not None:
            self.sized += 1
            self.announced += size

    @property
    def settled(self) -> int:
        """Files that nothing more will happen to."""
        return self.done + self.skipped + self.failed

    @property
    def known(self) -> bool:
        """Whether the sizes of all files are known."""
        return self.final and self.sized + self.skipped + self.failed >= self.expected


async def each(
    batches: AsyncGenerator[Sequence[T], None], at_once: int, work: Callable[[Iterator[T]], Awaitable[None]]
) -> None:
    """Have so many at once work off the items of all batches; each takes from those that are there, one by one."""
    ahead: deque[T] = deque()
    changed = asyncio.Condition()
    reading = True

    async def read() -> None:
        nonlocal reading
        async for batch in batches:
            async with changed:
                ahead.extend(batch)
                changed.notify_all()
                await changed.wait_for(lambda: len(ahead) < _AHEAD)
            await asyncio.sleep(0)  # what comes from a file comes without a pause: the first are begun meanwhile
        async with changed:
            reading = False
            changed.notify_all()

    async def more() -> bool:
        async with changed:
            changed.notify_all()  # what was read is begun: the next may be
            await changed.wait_for(lambda: ahead or not reading)
            return bool(ahead)

    async def worker() -> None:
        while ahead or await more():
            await work(_taken(ahead))

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        for _ in range(at_once):
            group.create_task(worker())


def _taken(ahead: deque[T]) -> Iterator[T]:
    """Take from a queue from which others take, too."""
    while ahead:
        yield ahead.popleft()


class Meter:
    """Turns the position in a blob into how much has moved since it was told last."""

    def __init__(self, observe: Observer, *, sized: bool) -> None:
        """Take whether the size is known already."""
        self._observe = observe
        self._sized = sized
        self._at = 0

    def __call__(self, position: int, size: int | None = None) -> None:
        """Take the position, and the size if it is known."""
        news = None if self._sized else size
        if position != self._at or news is not None:
            self._observe(Moved(position - self._at, news))
            self._at, self._sized = position, self._sized or news is not None


def describe(error: Exception) -> str:
    """Say in one line what went wrong."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error).replace("\n", " ")
