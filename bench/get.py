"""GET of small blobs that are in the page cache, beside nginx serving the same files.

    python -m bench.get [--size 4096] [--blobs 1000] [--seconds 5] [--rounds 3] [--workers 2]

Prints requests per second of each round and the ratio of the medians. Both run at the same time of day, with the load
generator (wrk) on the same processors; the rounds alternate, so that a noisy neighbour disturbs both.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support import Server, needs

_NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
worker_processes {workers};
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""

_WRK = """
local paths = {{ {paths} }}
local next = 0
request = function()
    next = next % #paths + 1
    return wrk.format("GET", paths[next])
end
done = function(summary)
    local errors = summary.errors.status + summary.errors.read + summary.errors.timeout
    io.write(string.format("errors=%d rate=%.0f\\n", errors, summary.requests / summary.duration * 1e6))
end
"""


def main() -> int:
    """Measure and print; returns 1 if a program that is needed is missing."""
    given = _arguments()
    missing = [name for name in ("wrk", "nginx") if needs.find(name) is None]
    if missing:
        print(f"install {', '.join(missing)} first")
        return 1
    with tempfile.TemporaryDirectory(prefix="stor-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # nginx's workers are another user's
        _compare(directory, given)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("size", 4096), ("blobs", 1000), ("seconds", 5), ("rounds", 3), ("workers", 2)):
        parser.add_argument(f"--{option}", type=int, default=default)
    return parser.parse_args()


def _compare(directory: Path, given: argparse.Namespace) -> None:
    pair = [directory / "a", directory / "b"]
    digests = _fill(pair, given.blobs, given.size)
    scripts = {
        "stor": _script(directory / "stor.lua", [f"/{digest}" for digest in digests]),
        "nginx": _script(directory / "nginx.lua", [f"/{_path(digest)}" for digest in digests]),
    }
    server = Server(directory / "server", pairs=[pair], workers=given.workers)
    with server, _nginx(directory, pair[0], given.workers) as port:
        urls = {"stor": server.url, "nginx": f"http://127.0.0.1:{port}"}
        for name, url in urls.items():
            _load(url, scripts[name], 1)
        rates: dict[str, list[int]] = {name: [] for name in urls}
        for _ in range(given.rounds):
            for name, measured in rates.items():
                measured.append(_load(urls[name], scripts[name], given.seconds))
    for name, measured in rates.items():
        print(f"{name:6} {' '.join(f'{rate:8,}' for rate in measured)}  requests/s")
    ratio = statistics.median(rates["stor"]) / statistics.median(rates["nginx"])
    print(f"{given.size} bytes, {given.workers} workers, {os.cpu_count()} processors: {ratio:.2f} of nginx")


def _fill(pair: list[Path], count: int, size: int) -> list[str]:
    """Lay the replicas down as the original would have done."""
    digests = []
    for _ in range(count):
        content = os.urandom(size)
        digests.append(hashlib.sha256(content).hexdigest())
        for storage in pair:
            path = storage / _path(digests[-1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return digests


def _path(digest: str) -> str:
    name = digest.upper()
    return f"{name[:2]}/{name[2:4]}/{name[4:6]}/{name}.dat"


def _script(path: Path, targets: list[str]) -> Path:
    path.write_text(_WRK.format(paths=", ".join(f'"{target}"' for target in targets)))
    return path


@contextlib.contextmanager
def _nginx(directory: Path, root: Path, workers: int) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(directory=directory, root=root, port=port, workers=workers))
    command = [needs.find("nginx") or "nginx", "-c", str(config), "-e", str(directory / "nginx.log")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _load(url: str, script: Path, seconds: int) -> int:
    """Run wrk with 32 connections and return requests per second; an answer that is no success ends everything."""
    command = ["wrk", "-t1", "-c32", "--timeout", "60s", f"-d{seconds}s", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    match = re.search(r"errors=(\d+) rate=(\d+)", output)
    if match is None or int(match[1]):
        raise SystemExit(f"{url}: {output}")
    return int(match[2])


if __name__ == "__main__":
    sys.exit(main())
