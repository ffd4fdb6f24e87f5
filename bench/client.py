"""Bulk transfers of the client, beside curl and wrk doing the same on this machine.

    python -m bench.client [--blobs 20000] [--size 4096] [--at-once 16] [--rounds 3] [--large 1024]

Prints files a second of `stor get` and of `curl --parallel`, in turns; of `stor put` and of wrk's uploads; and MB/s of
one large blob of so many MiB. The server has two workers; everything is in memory, so that no disk is measured.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.blobs import lay
from pystor.client import Digest
from tests.support import Server

_UPLOADS = """
local n = 0
request = function()
    n = n + 1
    local body = string.rep(tostring(n) .. os.clock() .. "x", 500):sub(1, {size})
    return wrk.format("POST", "/", {{ ["Authorization"] = "{login}" }}, body)
end
done = function(summary)
    io.write(string.format("rate=%.0f\\n", summary.requests / summary.duration * 1e6))
end
"""


def main() -> int:
    """Measure and print."""
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="stor-bench-", dir="/dev/shm") as name:
        directory = Path(name)
        pair = [directory / "a", directory / "b"]
        digests = lay(pair, given.blobs, given.size)
        with Server(directory / "server", pairs=[pair], workers=2, config={"reserve_bytes": 0}) as server:
            bench = _Bench(directory, server, given.at_once)
            bench.down(digests, given.rounds)
            bench.up(given.blobs, given.size)
            bench.large(given.large)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = (("size", 4096), ("blobs", 20_000), ("at-once", 16), ("rounds", 3), ("large", 1024))
    for option, default in options:
        parser.add_argument(f"--{option}", type=int, default=default)
    return parser.parse_args()


class _Bench:
    def __init__(self, directory: Path, server: Server, at_once: int) -> None:
        self._directory = directory
        self._server = server
        self._at_once = str(at_once)
        self._out = directory / "out"
        self._environment = {
            **os.environ,
            "STOR_URL": server.url,
            "STOR_USER": server.user,
            "STOR_PASSWORD": server.password,
        }

    def down(self, digests: list[str], rounds: int) -> None:
        """Download the list, in turns."""
        (self._directory / "list").write_text("\n".join(digests))
        lines = [f'url = "{self._server.url}/{digest}"\noutput = "{self._out}/{digest}"' for digest in digests]
        (self._directory / "curl").write_text("\n".join(lines))
        runs: dict[str, Callable[[], object]] = {"stor get": self._get, "curl --parallel": self._curl}
        self._clean(self._curl)  # the server looks at everything once
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                rates[name].append(len(digests) / self._clean(run))
        for name, found in rates.items():
            print(f"{name:16} {' '.join(f'{rate:7,.0f}' for rate in found)}  files/s")
        medians = [statistics.median(found) for found in rates.values()]
        print(f"stor get is {medians[0] / medians[1]:.2f} of curl")

    def _clean(self, run: Callable[[], object]) -> float:
        shutil.rmtree(self._out, ignore_errors=True)
        self._out.mkdir()
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    def _get(self) -> None:
        with (self._directory / "list").open() as names:
            self._stor("get", "--max", self._at_once, str(self._out), stdin=names)

    def _curl(self) -> None:
        command = [
            "curl",
            "-s",
            "--no-progress-meter",
            "--parallel",
            "--parallel-max",
            self._at_once,
            "-R",
            "-K",
            f"{self._directory}/curl",
        ]
        subprocess.run(command, check=True)

    def _stor(self, *words: str, stdin: object = subprocess.DEVNULL) -> None:
        command = ["/usr/bin/env", sys.executable, "-m", "pystor", *words]
        subprocess.run(
            command,
            check=True,
            env=self._environment,
            stdin=stdin,  # type: ignore[call-overload]  # a file, or a constant
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def up(self, blobs: int, size: int) -> None:
        """Upload as many new blobs, and then let wrk upload for some seconds with as many connections."""
        source = self._directory / "source"
        source.mkdir()
        for number in range(blobs):
            (source / str(number)).write_bytes(os.urandom(size))
        began = time.perf_counter()
        self._stor("put", "--max", "32", str(source))
        rate = blobs / (time.perf_counter() - began)
        script = self._directory / "wrk.lua"
        script.write_text(_UPLOADS.format(size=size, login=self._server.authorization()["Authorization"]))
        command = ["wrk", "-t1", "-c32", "-d4s", "-s", str(script), self._server.url]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        match = re.search(r"rate=(\d+)", output)
        assert match is not None
        print(f"stor put {rate:,.0f} files/s, wrk {int(match[1]):,}: {rate / int(match[1]):.2f}")

    def large(self, mebibytes: int) -> None:
        """Download one blob."""
        content = os.urandom(mebibytes << 20)
        digest = Digest.of(content)
        for storage in self._server.pairs[0]:
            path = storage / digest.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        size = len(content)
        del content
        for _ in range(3):
            seconds = self._clean(lambda: self._stor("get", digest.hex, str(self._out)))
            print(f"{mebibytes} MiB: {size / seconds / 1e6:,.0f} MB/s")


if __name__ == "__main__":
    sys.exit(main())
