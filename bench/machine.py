"""What the machine is, and which versions were compared: figures mean nothing without."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.peers import find
from bench.setting import filesystem_of
from pystor import __version__


def describe(directory: Path) -> dict[str, str]:
    """Describe this machine, by what is described."""
    return {
        "processors": f"{os.cpu_count()}, {_processor()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "filesystem": filesystem_of(directory),
        "Python": platform.python_version(),
        "versions": ", ".join([f"stor {__version__}", *filter(None, map(_version, _COMMANDS))]),
    }


_COMMANDS: Sequence[Sequence[str]] = (
    ("nginx", "-v"),
    ("caddy", "version"),
    ("weed", "version"),
    ("rclone", "version"),
    ("wrk", "-v"),
)


def _version(command: Sequence[str]) -> str | None:
    program = find(command[0])
    if program is None:
        return None
    done = subprocess.run([program, *command[1:]], check=False, capture_output=True, text=True)
    match = re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr)
    return f"{command[0]} {match[0]}" if match else None


def _processor() -> str:
    match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()
