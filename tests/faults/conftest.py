"""Servers on storages that can be broken. Storages outlive the servers, which would wait for them in vain."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from tests.contract.house import House
from tests.support.fuse import FaultyStorage
from tests.support.mounts import Mounts
from tests.support.server import Server

HouseFactory: TypeAlias = Callable[..., House]
FaultyFactory: TypeAlias = Callable[[], FaultyStorage]

_ALONE: Final = pytest.mark.alone(reason="timeouts pass, and the load that a fault needs is made by the test itself")
_PATIENT: Final = frozenset({"test_power_cuts.py"})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the tests of this directory run alone, unless they do not go by the clock; `-m` is looked at later."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.path.name not in _PATIENT:
            item.add_marker(_ALONE)


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
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    """Filesystems of your own, taken away after the servers have ended."""
    with contextlib.closing(Mounts(tmp_path)) as mine:
        yield mine


@pytest.fixture
def make_stor(tmp_path: Path, make_faulty: FaultyFactory, mounts: Mounts) -> Iterator[HouseFactory]:
    """Start servers: `make_stor(pairs=..., config={...})`. They are stopped, and checked, before the disks go."""
    del make_faulty, mounts  # they are here to be taken away later
    with contextlib.ExitStack() as stack:
        count = 0

        def make(**options: Any) -> House:
            nonlocal count
            count += 1
            server = Server(options.pop("directory", tmp_path / f"server{count}"), **options).start()
            stack.callback(server.stop)
            return House(server)

        yield make
