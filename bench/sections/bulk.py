"""Bulk transfers of the client: `stor get` beside curl, `stor put` beside wrk, and one large blob.

Downloads go into memory, so that no disk is measured; uploads come from the disk that the server stores them on.

Here the processor time and the memory are those of the command, not of the server; both share the machine.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import blobs, load, peers
from bench.blobs import Bodies
from bench.load import LoadFailed, Requests
from bench.peers import Peer, find
from bench.samples import MIB, Check, Comparison, Sample, Target
from bench.setting import Setting, pair_in

_FILES = 20_000
_UPLOADS = 20_000
_SIZE = 4096
_MEMORY = Path("/dev/shm")
_DOWN = 16  # at once
_UP = 32
_LARGE = 1024 * MIB
_CURL = ("curl", "-s", "--no-progress-meter", "--parallel", "--parallel-max", str(_DOWN), "-R", "-K")


def bulk(setting: Setting) -> Iterator[Comparison | Check]:
    """Compare the commands."""
    with setting.fresh(megabytes=20_000) as (room, _), setting.room(_MEMORY if _MEMORY.is_dir() else None) as files:
        pair = pair_in(room)
        digests = blobs.lay(pair, _FILES, _SIZE)
        with peers.stor(room, [pair], setting.workers) as stor:
            commands = _Commands(files, room, stor)
            yield from _down(setting, commands, digests)
            yield from _large(setting, commands, _lay_large(pair))
            yield from _up(setting, commands)


def _lay_large(pair: Sequence[Path]) -> str:
    """Put a large blob into all storages, piece by piece: the peak of this process counts as that of its children."""
    digest, noise = hashlib.sha256(), os.urandom(MIB - blobs.NUMBER)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((storage / "large").open("wb")) for storage in pair]
        for number in range(_LARGE // MIB):
            piece = noise + b"%016d" % number
            digest.update(piece)
            for file in files:
                file.write(piece)
    for storage in pair:
        path = storage / blobs.path_of(digest.hexdigest())
        path.parent.mkdir(parents=True, exist_ok=True)
        (storage / "large").rename(path)
    return digest.hexdigest()


def _down(setting: Setting, commands: _Commands, digests: Sequence[str]) -> Iterator[Comparison | Check]:
    work = f"stor get of {_FILES:,} blobs of 4 KiB, {_DOWN} at once"
    beside = {"curl": partial(commands.curl, digests)} if find("curl") else {}
    compared = setting.compare_runs(
        work, {"stor get": partial(commands.get, digests), **beside}, targets=(Target("curl", least=1.0),)
    )
    yield compared
    yield _each(f"{work}: a file", compared)
    yield Check(f"{work}: peak of memory", "MiB", 100, [ours.peak_bytes / MIB for ours in compared.rounds["stor get"]])


def _each(work: str, compared: Comparison) -> Check:
    samples = compared.rounds[compared.subject]
    note = ", ".join(f"{sample.cpu_seconds * 1000 / sample.requests:.3f} ms of a processor" for sample in samples)
    return Check(work, "ms", 1 / 3, [1000 / sample.rate for sample in samples], note)


def _up(setting: Setting, commands: _Commands) -> Iterator[Comparison]:
    bodies = Bodies(_SIZE)

    def wrk() -> Sample:
        os.sync()
        uploads = commands.peer.uploads(bodies, 20_000 * setting.seconds)
        asked = Requests(uploads=uploads)
        return load.run(
            commands.peer.url, asked, connections=_UP, seconds=setting.seconds, directory=commands.directory
        )

    work = f"stor put of {_UPLOADS:,} files of 4 KiB, {_UP} at once"
    yield setting.compare_runs(work, {"stor put": commands.put, "wrk": wrk}, targets=(Target("wrk", least=0.7),))


def _large(setting: Setting, commands: _Commands, digest: str) -> Iterator[Check]:
    peaks: list[float] = []
    for name, words in (("", ()), (" --devnull", ("--devnull",))):
        samples = [commands.large(digest, words) for _ in range(setting.rounds)]
        peaks += [sample.peak_bytes / MIB for sample in samples]
        note = ", ".join(f"{_LARGE / 1e6 / sample.seconds:,.0f} MB/s" for sample in samples)
        yield Check(
            f"stor get{name} of 1 GiB: a GB", "s", 2, [sample.seconds / _LARGE * 1e9 for sample in samples], note
        )
    yield Check("stor get of 1 GiB: peak of memory", "MiB", 100, peaks)


@dataclass(slots=True)
class _Commands:
    """What is run, for one server; each download begins with an empty directory."""

    directory: Path
    sources: Path
    peer: Peer

    def get(self, digests: Sequence[str]) -> Sample:
        """Download by the client."""
        return self._stor(["get", "--max", str(_DOWN), str(self._out())], "\n".join(digests), len(digests))

    def large(self, digest: str, words: Sequence[str]) -> Sample:
        """Download one blob by the client."""
        return self._stor(["get", *words, digest, str(self._out())], "", 1)

    def put(self) -> Sample:
        """Upload files that are new."""
        source = Path(tempfile.mkdtemp(dir=self.sources))
        for number in range(_UPLOADS):
            (source / str(number)).write_bytes(os.urandom(_SIZE))
        os.sync()
        return self._stor(["put", "--max", str(_UP), str(source)], "", _UPLOADS)

    def curl(self, digests: Sequence[str]) -> Sample:
        """Download by curl, with the time of each file, as the client sets it."""
        out, config = self._out(), self.directory / "curl"
        config.write_text("\n".join(f'url = "{self.peer.url}/{each}"\noutput = "{out}/{each}"' for each in digests))
        return _run([*_CURL, str(config)], os.environ, "", len(digests))

    def _out(self) -> Path:
        out = self.directory / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return out

    def _stor(self, words: Sequence[str], given: str, count: int) -> Sample:
        login = base64.b64decode(self.peer.headers["Authorization"].removeprefix("Basic ")).decode()
        environment = {**os.environ, "STOR_URL": self.peer.url.replace("://", f"://{login}@")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation compiles its modules once, not at each start
        return _run([sys.executable, "-m", "pystor", *words], environment, given, count)


def _run(command: Sequence[str], environment: Mapping[str, str], given: str, count: int) -> Sample:
    """Run a command to its end, and take its time, its processor time and its peak; raises `LoadFailed`."""
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(given.encode())
        process.stdin.close()
        said = process.stderr.read().decode(errors="replace")
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise LoadFailed(f"{command[0]} ended with status {process.returncode}: {said.strip()[-300:]}")
    return Sample(count, seconds, cpu_seconds=used.ru_utime + used.ru_stime, peak_bytes=used.ru_maxrss * 1024)
