"""What the client needs: memory that does not grow with what is transferred, and not much more time than curl."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.client.conftest import lay, sha
from tests.client.test_commands import Shell
from tests.client.test_library import left_in
from tests.support import needs
from tests.support.processes import resident_bytes
from tests.support.server import Server

MOST = 100 << 20
COUNT = 5000
LARGE = int(os.environ.get("STOR_LARGE_MIB", "400")) << 20
"""`STOR_LARGE_MIB=5120` for 5 GiB."""

pytestmark = pytest.mark.perf


@pytest.fixture
def shell(server: Server, tmp_path: Path) -> Shell:
    return Shell(server, tmp_path)


def peak_of(shell: Shell, *words: str, given: str = "") -> int:
    """Run a command, and tell the most memory that it had."""
    peak = 0
    with shell.started(*words) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        threading.Thread(target=process.stdout.read, daemon=True).start()
        process.stdin.write(given)
        process.stdin.close()
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            time.sleep(0.005)
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
    return peak


def _peak(pid: int) -> int:
    try:
        return resident_bytes(pid, "VmHWM")
    except LookupError:  # it is a zombie already
        return 0


def test_a_large_blob_goes_up_and_comes_down_in_little_memory(shell: Shell, tmp_path: Path) -> None:
    digest = hashlib.sha256()
    piece = os.urandom(1 << 20)
    with (tmp_path / "large").open("wb") as file:
        for number in range(LARGE >> 20):
            digest.update(number.to_bytes(8, "big") + piece[8:])
            file.write(number.to_bytes(8, "big") + piece[8:])
    name = digest.hexdigest()
    assert peak_of(shell, "stor", "put", "large") < MOST
    (tmp_path / "large").unlink()
    assert peak_of(shell, "stor", "get", name, "out") < MOST
    assert peak_of(shell, "stor", "verify", "out") < MOST
    assert (shell.out / name).stat().st_size == LARGE


def test_many_at_once_fit_into_little_memory(shell: Shell, server: Server) -> None:
    names = lay(server, *(os.urandom(24 << 20) for _ in range(8)), *(os.urandom(4096) for _ in range(2000)))
    assert peak_of(shell, "stor", "get", "--max", "16", "out", given="\n".join(names)) < MOST
    assert left_in(shell.out) == sorted(names)


def test_a_list_of_many_is_read_in_little_memory(shell: Shell) -> None:
    """What exists is skipped: a hundred thousand names cost no requests."""
    (shell.out / sha(b"")).touch()
    assert peak_of(shell, "stor", "get", "--json", "out", given=f"{sha(b'')}\n" * 200_000) < MOST


def test_a_small_blob_costs_at_most_four_times_the_processor_time_that_curl_needs(
    shell: Shell, server: Server, tmp_path: Path
) -> None:
    """It is hashed, noted and told, which curl does not do; about twice is what it was. Processor time, since the
    time on a clock depends on who else is at work."""
    needs.tool("curl")
    names = lay(server, *(os.urandom(4096) for _ in range(COUNT)))
    lines = [f'url = "{server.url}/{name}"\noutput = "{tmp_path}/curl/{name}"' for name in names]
    (tmp_path / "config").write_text("\n".join(lines))
    (tmp_path / "curl").mkdir()
    curl = ("curl", "-s", "--no-progress-meter", "--parallel", "--parallel-max", "16", "-R", "-K", "config")
    with charged() as theirs:
        subprocess.run(curl, cwd=tmp_path, check=True)
    with charged() as mine:
        assert shell.run("stor", "get", "--max", "16", "out", given="\n".join(names)).returncode == 0
    assert left_in(tmp_path / "curl") == left_in(shell.out) == sorted(names)
    assert mine[0] < 4 * theirs[0]


@contextmanager
def charged() -> Iterator[list[float]]:
    """Note the processor time of the processes that were started and ended in the block."""
    spent: list[float] = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield spent
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
