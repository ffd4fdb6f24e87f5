"""Which processes live, as Linux tells: sessions, states, memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_libc: Final = ctypes.CDLL(None)
_PR_SET_PDEATHSIG: Final = 1
_THREADS: Final = 17  # where their number stands in /proc/PID/stat, counted from the state


def end_with_the_tests() -> None:
    """Have the kernel kill this process when the thread that started it ends, also if that is killed itself."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def unmeasured() -> dict[str, str]:
    """Our environment without what has coverage look into a process: one that is killed loses what was seen of it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def in_session(session: int) -> list[int]:
    """The living processes of a session, lowest first; zombies are dead, when all of their threads are."""
    return sorted(
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _lives(entry, session)
    )


def command_of(pid: int) -> bytes:
    """The words of a process's command, each ended by a zero byte; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def tracers_of(pid: int) -> set[int]:
    """The processes that trace the threads of another; 0 is among them for a thread that nobody traces."""
    tracers = set()
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            tracers.add(int(status.read_text().partition("TracerPid:")[2].split()[0]))
    return tracers


def links_of(pid: int) -> Iterator[str]:
    """What a process has open, as the kernel names it; nothing when it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield os.readlink(link)


def _lives(entry: Path, session: int) -> bool:
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return (fields[0] not in "ZX" or int(fields[_THREADS]) > 1) and int(fields[3]) == session


def resident_bytes(pid: int, kind: str = "RssAnon") -> int:
    """Memory of a process: `RssAnon` is what it allocated, `VmHWM` the highest it ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == kind:
            return int(value.split()[0]) * 1024
    raise LookupError(kind)


def bytes_read(pid: int) -> int:
    """Bytes that a process has read since it began, from files or anything else, and from caches or not."""
    return int(Path(f"/proc/{pid}/io").read_text().partition("rchar:")[2].split()[0])


def eventually(holds: Callable[[], bool], *, within: float = 10.0, what: str = "") -> None:
    """Wait until something holds, and fail when it still does not after `within` seconds."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"not within {within} s: {what or holds}"
        time.sleep(0.02)
