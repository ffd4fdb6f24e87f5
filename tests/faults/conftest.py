"""Servers on storages that can be broken. Storages outlive the servers, which would wait for them in vain.

To start a server takes longer than most of these tests: who needs no one of his own leaves the shared one as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.contract.disk import blobs, settles
from tests.contract.house import House
from tests.support.fuse import FaultyStorage
from tests.support.mounts import Mounts
from tests.support.server import Server, ServerFactory

HouseFactory: TypeAlias = Callable[..., House]
FaultyFactory: TypeAlias = Callable[[], FaultyStorage]


@dataclass(frozen=True)
class Shared:
    """A server that several tests use, one after the other, and the storages that fail when they are told to."""

    stor: House
    faulty: Sequence[FaultyStorage]
    healthy: Sequence[Path]

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Let a test use it; afterwards all storages are well, nothing is left to be done, and there is no blob."""
        try:
            yield
        finally:
            for storage in self.faulty:
                storage.heal()
        sources = [*self.healthy, *(storage.source for storage in self.faulty)]
        assert settles(lambda: self.stor.ask("GET", "/status").status == 200)
        assert settles(lambda: not any(map(_unfinished, sources)), within=20)
        for blob in blobs(sources):
            blob.unlink()


def _unfinished(source: Path) -> list[Path]:
    """What is to be repaired on a storage, and what is on its way."""
    return [path for name in ("repair", "tmp") for path in (source / ".stor" / name).glob("*")]


@contextlib.contextmanager
def shared(directory: Path, *, faulty: int, healthy: int, others: int = 0) -> Iterator[Shared]:
    """Start a server with a set of storages, so many of which can fail, and so many other pairs."""
    with contextlib.ExitStack() as stack:
        failing = [FaultyStorage(directory / f"faulty{number}") for number in range(faulty)]
        for storage in failing:
            stack.callback(storage.close)
        first = [directory / f"healthy{number}" for number in range(healthy)]
        pairs = [[directory / f"other{number}{side}" for side in "ab"] for number in range(others)]
        all_pairs = [[*first, *(storage.point for storage in failing)], *pairs]
        server = Server(directory / "server", pairs=all_pairs).start()
        stack.callback(server.stop)
        yield Shared(House(server), failing, [*first, *(storage for pair in pairs for storage in pair)])


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """One pair of storages, one of which fails when it is told to."""
    with shared(tmp_path_factory.mktemp("half"), faulty=1, healthy=1) as mine:
        yield mine


@pytest.fixture
def faulty(half: Shared) -> FaultyStorage:
    """The storage that fails."""
    return half.faulty[0]


@pytest.fixture
def stor(half: Shared) -> Iterator[House]:
    """The server of those storages, without any blob."""
    with half.used():
        yield half.stor


@pytest.fixture
def make_faulty(tmp_path: Path) -> Iterator[FaultyFactory]:
    """Mount storages that fail when they are told to; they are healed and taken away after the servers have ended."""
    with contextlib.ExitStack() as stack:
        made: list[FaultyStorage] = []

        def make() -> FaultyStorage:
            made.append(FaultyStorage(tmp_path / f"faulty{len(made)}"))
            stack.callback(made[-1].close)
            return made[-1]

        yield make


@pytest.fixture
def make_stor(make_faulty: FaultyFactory, mounts: Mounts, make_server: ServerFactory) -> HouseFactory:
    """Start servers: `make_stor(pairs=..., config={...})`. They are stopped, and checked, before the disks go."""
    del make_faulty, mounts  # they are here to be taken away later
    return lambda **options: House(make_server(**options))
