"""Fixtures of the rooms."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pystor.events import Event

_MEMORY = Path("/dev/shm")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory, for what syncs a lot and proves nothing by it; 64 MB is all that is sure to be there."""
    with tempfile.TemporaryDirectory(prefix="stor-", dir=_MEMORY if _MEMORY.is_dir() else None) as directory:
        yield Path(directory)


@pytest.fixture
def events() -> list[Event]:
    """What is observed."""
    return []
