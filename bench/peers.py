"""The servers that are compared, each on a free port: Stor, and those that its users could take instead.

All get as many processors as there are; those that count workers have as many of them as Stor has.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.blobs import Bodies, path_of
from bench.load import Uploads
from tests.neighbours.servers.seaweed import Seaweed
from tests.support import needs, processes
from tests.support.server import Server

_START_SECONDS = 90

_NGINX = """
daemon off;
user root;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
worker_processes {workers};
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_temp_path {root}/.nginx;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location /put/ {{ dav_methods PUT; create_full_put_path on; }}
    }}
}}
"""

_CADDY = """
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    root * {root}
    file_server
}}
"""


@dataclass(slots=True)
class Peer:
    """A server that runs, in a session of processes of its own: where it has blobs, and how it takes others."""

    name: str
    url: str
    session: int
    files: bool = True
    """Whether blobs are known by the paths of their files, or else by their digests."""
    uploads_to: str = "/put/"
    """What stands before the name of an upload."""
    query: str = ""
    method: str = "PUT"
    headers: dict[str, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    """The paths of blobs that the server named itself, by their digests."""

    def path(self, digest: str) -> str:
        """Where a blob is read."""
        return self.known.get(digest) or f"/{path_of(digest) if self.files else digest}"

    def uploads(self, bodies: Bodies, count: int, *, every: int = 1) -> Uploads:
        """Fresh bodies for this server."""
        first, digests = bodies.name(count)
        paths = [f"{self.uploads_to}{digest}{self.query}" for digest in digests]
        return Uploads(first, paths, bodies.filler, self.method, self.headers, every)


@contextlib.contextmanager
def stor(
    directory: Path, pairs: Sequence[Sequence[Path]], workers: int, name: str = "stor", **config: Any
) -> Iterator[Peer]:
    """Start Stor itself, as it is configured by default."""
    with Server(directory / name, pairs=pairs, workers=workers, config=config) as server:
        login = server.authorization()
        yield Peer(name, server.url, server.pid, files=False, uploads_to="/", method="POST", headers=login)


@contextlib.contextmanager
def nginx(directory: Path, root: Path, workers: int) -> Iterator[Peer]:
    """Start nginx, which serves the files of one storage and takes others by its dav module."""
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(directory=directory, root=root, port=port, workers=workers))
    command = [needs.find("nginx") or "nginx", "-c", str(config), "-e", str(directory / "nginx.log")]
    with started(command, port, directory / "nginx.output") as session:
        yield Peer("nginx", f"http://127.0.0.1:{port}", session)


@contextlib.contextmanager
def caddy(directory: Path, root: Path) -> Iterator[Peer]:
    """Start caddy, which serves the files of one storage."""
    port = free_port()
    config = directory / "Caddyfile"
    config.write_text(_CADDY.format(port=port, root=root))
    command = ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"]
    with started(command, port, directory / "caddy.output", HOME=str(directory)) as session:
        yield Peer("caddy", f"http://127.0.0.1:{port}", session)


@contextlib.contextmanager
def rclone(directory: Path, root: Path) -> Iterator[Peer]:
    """Start `rclone serve webdav` over one storage."""
    port = free_port()
    program = find("rclone") or "rclone"
    command = [program, "serve", "webdav", str(root), "--addr", f"127.0.0.1:{port}", "--config", "/dev/null"]
    with started(command, port, directory / "rclone.output", HOME=str(directory)) as session:
        yield Peer("rclone", f"http://127.0.0.1:{port}", session)


@dataclass(slots=True)
class Weed:
    """SeaweedFS: one process, of which the volume server and the filer are two peers."""

    volume: Peer
    filer: Peer
    master: str

    def fill(self, storage: Path, digests: Sequence[str]) -> None:
        """Store the blobs that lie in a storage, in each of the two."""
        for digest in digests:
            content = (storage / path_of(digest)).read_bytes()
            with urllib.request.urlopen(f"{self.master}/dir/assign", timeout=30) as answer:
                self.volume.known[digest] = f"/{json.load(answer)['fid']}"
            self.filer.known[digest] = f"{self.filer.uploads_to}{digest}"
            for peer in (self.volume, self.filer):
                put(peer.url, peer.known[digest], content)


@contextlib.contextmanager
def seaweed(directory: Path) -> Iterator[Weed]:
    """Start SeaweedFS, which holds nothing yet."""
    with Seaweed(directory / "seaweed") as server:
        volume = Peer("weed volume", f"http://{server.service('volume')}", server.pid)
        filer = Peer("weed filer", f"http://{server.service('filer')}", server.pid, uploads_to="/bench/")
        yield Weed(volume, filer, f"http://{server.service('master')}")


def put(url: str, path: str, content: bytes, method: str = "PUT", headers: Mapping[str, str] | None = None) -> None:
    """Store one thing; whatever is no success raises."""
    fields = {"Content-Type": "application/octet-stream", **(headers or {})}
    request = urllib.request.Request(url + path, content, fields, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()


def find(name: str) -> str | None:
    """Find a program, also one that came with a Python package."""
    beside = Path(sys.executable).with_name(name)
    return needs.find(name) or (str(beside) if beside.exists() else None)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(command: Sequence[str], port: int, output: Path, **environment: str) -> Iterator[int]:
    """Run a program as a session of its own until it listens, and end it afterwards."""
    with output.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
            preexec_fn=processes.end_with_the_tests,  # noqa: PLW1509  one call of the kernel, no lock
        )
    try:
        _wait_for(process, port, output)
        yield process.pid
    finally:
        process.terminate()
        process.wait(_START_SECONDS)


def _wait_for(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"does not listen: {output.read_text()}")
        time.sleep(0.02)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/")
        connection.getresponse().read()
        return True
    return False
