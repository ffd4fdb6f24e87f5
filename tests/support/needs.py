"""What a test needs from the machine. What is missing makes it skip with a line that says how to get it."""

from __future__ import annotations

import os
import shutil

import pytest


def root(why: str) -> None:
    """Skip unless we are root."""
    if os.geteuid() != 0:
        pytest.skip(f"needs root to {why}; run `make test` as root")


def tool(*names: str) -> None:
    """Skip unless every program is installed."""
    missing = [name for name in names if find(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}; `make test` as root installs it")


def find(name: str) -> str | None:
    """Find a program, in the directories too that only root has in its path."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin")
