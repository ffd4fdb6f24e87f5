"""How much memory a server takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.processes import resident_bytes
from tests.support.server import Server

MIB: Final = 1 << 20


@contextlib.contextmanager
def little_taken(server: Server, allowed: int) -> Iterator[None]:
    """Check that no process of the server ever has so many bytes more than at the start of the block."""
    before = {pid: _start_again(pid) for pid in server.processes()}
    yield
    grown = {pid: resident_bytes(pid, "VmHWM") - size for pid, size in before.items()}
    assert max(grown.values()) < allowed, {pid: f"{size / MIB:.1f} MiB" for pid, size in grown.items()}


def _start_again(pid: int) -> int:
    """Forget the highest size that a process ever had; gives what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return resident_bytes(pid, "VmHWM")
