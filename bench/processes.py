"""What the processes of a server cost: those of one session, as Linux tells."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.support import processes

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(session: int) -> float:
    """Seconds of processors that the living processes of a session have used so far."""
    return sum(_ticks(pid) for pid in processes.in_session(session)) / _TICK


def _ticks(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0


def forget_peaks(session: int) -> None:
    """Let the highest sizes begin anew."""
    for pid in processes.in_session(session):
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(session: int) -> int:
    """The highest resident sizes of the processes of a session, added up; what they share counts for each."""
    return sum(processes.resident_bytes(pid, "VmHWM") for pid in processes.in_session(session))
