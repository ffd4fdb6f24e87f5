"""Many blobs at once: what happens is told as values, and added up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

AHEAD: Final = 100_000
"""Items that are read before anybody is free for them, so that their number is known."""


PERIOD: Final = 0.1
"""Seconds between two looks at how far a transfer is."""


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


class Totals:
    """All events added up. `moved` are bytes on the wire, `announced` those that are known to have to move."""

    __slots__ = ("announced", "done", "expected", "failed", "final", "moved", "size", "sized", "skipped")

    def __init__(self) -> None:
        self.expected = 0
        self.final = False
        self.sized = 0
        """Files whose size is known."""
        self.done = 0
        self.skipped = 0
        self.failed = 0
        self.size = 0
        self.moved = 0
        self.announced = 0

    def add(self, event: Event) -> None:
        """Add an event."""
        if isinstance(event, Done):  # no `match`: of many small ones this is most of what is told
            self.done += 1
            self.size += event.size
            if event.at_once:
                self._move(event.size, event.size)
        elif isinstance(event, Moved):
            self._move(event.by, event.size)
        elif isinstance(event, Skipped):
            self.skipped += 1
            self.announced -= event.size
        elif isinstance(event, Failed):
            self.failed += 1
        else:
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


def taken(ahead: deque[T]) -> Iterator[T]:
    """Take the items of a queue one by one; others may take from it, too."""
    while ahead:
        yield ahead.popleft()


class Meter:
    """Turns the position in a blob into how much has moved since it was told last."""

    def __init__(self, observe: Observer, *, sized: bool) -> None:
        """`sized`: the size is known already, and is not to be told."""
        self._observe = observe
        self._sized = sized
        self._at = 0

    def __call__(self, position: int, size: int | None = None) -> None:
        """Take the position, and the size if it is known."""
        news = None if self._sized else size
        if position != self._at or news is not None:
            self._observe(Moved(position - self._at, news))
            self._at, self._sized = position, self._sized or news is not None


def describe(error: Exception, of: str = "") -> str:
    """Say in one line what went wrong, and with which file, if that is not the one that this is told `of`."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename in {None, of} else f"{error.filename}: {error.strerror}"
    return str(error).replace("\n", " ")
