"""What the client needs: memory that does not grow with what is transferred, and not much more time than curl."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pystor.client import Digest
from tests.client.conftest import lay, sha
from tests.client.test_commands import Shell
from tests.client.test_library import left_in
from tests.neighbours.servers.proxy import Proxy
from tests.support import needs
from tests.support.processes import resident_bytes
from tests.support.server import Server

MOST = 100 << 20
COUNT = 10_000
ROUNDS = 3
"""The least of several times is what the work takes; the others tell who else was at work."""
ONE_GIB = 1 << 30
FIVE_GIB = 5 << 30
ZEROS = {  # and what they are called
    ONE_GIB: "49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14",
    FIVE_GIB: "7f06c62352aebd8125b2a1841e2b9e1ffcbed602f381c3dcb3200200e383d1d5",
}
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


def test_five_gibibytes_come_in_little_memory_and_only_the_rest_of_them_twice(
    shell: Shell, server: Server, proxy: Proxy
) -> None:
    """Zeros that take no room: what the server sends, the client hashes, and the proxy cuts after three of the five."""
    lay_zeros(server, FIVE_GIB, ZEROS[FIVE_GIB])
    proxy.cut = 3 << 30
    shell.environment["STOR_URL"] = proxy.endpoint
    assert peak_of(shell, "stor", "get", "--devnull", ZEROS[FIVE_GIB]) < MOST
    assert proxy.connections == 3  # the first finds out that it is large
    assert abs(proxy.received - FIVE_GIB) < 16 << 20  # what was in the buffers when it was cut is lost, and comes twice


def test_a_large_blob_costs_little_more_than_its_hash(shell: Shell, server: Server) -> None:
    """About twice was measured: it is received, hashed and thrown away."""
    lay_zeros(server, ONE_GIB, ZEROS[ONE_GIB])
    hashing, spent = list[float](), list[float]()
    for _ in range(4 * ROUNDS):  # what copying costs changes more from time to time than anything else here
        began, digest, zeros = time.process_time(), hashlib.sha256(), bytes(1 << 20)
        for _ in range(ONE_GIB >> 20):
            digest.update(zeros)
        hashing.append(time.process_time() - began)
        with charged(spent):
            assert shell.run("stor", "get", "--devnull", digest.hexdigest()).returncode == 0
        if min(spent) < 3 * min(hashing):
            break
    assert min(spent) < 3 * min(hashing)


def lay_zeros(server: Server, size: int, name: str) -> None:
    """Put a blob of zeros where the server finds it, without a byte on the disk."""
    for storage in server.pairs[0]:
        path = storage / Digest(name).path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, size)


def test_a_small_blob_costs_at_most_one_and_a_half_times_the_processor_time_that_curl_needs(
    shell: Shell, server: Server, in_memory: Path
) -> None:
    """It is hashed, noted and told, which curl does not do; about the same is what it was. Processor time, since the
    time on a clock depends on who else is at work."""
    needs.tool("curl")
    names = lay(server, *(os.urandom(4096) for _ in range(COUNT)))
    curl = ("curl", "-s", "--no-progress-meter", "--parallel", "--parallel-max", "16", "-R", "-K", "config")
    mine, theirs = list[float](), list[float]()
    for number in range(ROUNDS):
        ours, curls = in_memory / f"stor{number}", in_memory / f"curl{number}"
        ours.mkdir()
        curls.mkdir()
        lines = [f'url = "{server.url}/{name}"\noutput = "{curls}/{name}"' for name in names]
        (shell.directory / "config").write_text("\n".join(lines))
        with charged(theirs):
            subprocess.run(curl, cwd=shell.directory, check=True)
        with charged(mine):
            assert shell.run("stor", "get", "--max", "16", str(ours), given="\n".join(names)).returncode == 0
        assert left_in(curls) == left_in(ours) == sorted(names)
    assert min(mine) < 1.5 * min(theirs)


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory on no disk: ext4 without a journal makes files slowly for minutes after others were removed."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as made:
        yield Path(made)


@contextmanager
def charged(spent: list[float]) -> Iterator[None]:
    """Note the processor time of the processes that were started and ended in the block."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
