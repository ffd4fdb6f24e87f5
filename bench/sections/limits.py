"""What the machine can do, to see what is left: figures without a comparison."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.peers import find
from bench.samples import MIB, Check
from bench.setting import Setting


def limits(setting: Setting) -> Iterator[Check]:
    """Measure hashing by one processor, and writing 100 MiB durably."""
    hashing = Check("SHA-256 by openssl, one processor", "MB/s", None)
    writing = Check("dd of 100 MiB with conv=fsync", "MB/s", None)
    with setting.room() as room:
        for _ in range(setting.rounds):
            if find("openssl"):
                hashing.values.append(_hashed())
            writing.values.append(_written(room))
    yield from (check for check in (hashing, writing) if check.values)


def _hashed() -> float:
    command = ["openssl", "speed", "-seconds", "1", "-bytes", str(MIB), "-evp", "sha256"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.findall(r"([\d.]+)k\s*$", done.stdout)
    return float(found[-1]) / 1000


def _written(room: Path) -> float:
    command = ["dd", "if=/dev/zero", f"of={room}/written", "bs=1M", "count=100", "conv=fsync"]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return 100 * MIB / 1e6 / (time.perf_counter() - began)
