"""A running Stor together with its disks: what a client sees on one side, what lies on the storages on the other."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from tests.contract import disk
from tests.contract.disk import Pair
from tests.contract.wire import Address, Answer, Fields, Wire, ask, chunked, request
from tests.support.server import Server


class House:
    """The client's and the operator's view of one server. Nothing here knows how the service works inside."""

    def __init__(self, server: Server) -> None:
        self.server: Final = server

    # The client's side

    @property
    def address(self) -> Address:
        return (self.server.host, self.server.port)

    @property
    def login(self) -> Fields:
        """The header that carries the writer's credentials."""
        return self.server.authorization()

    def ask(
        self, method: str, target: str, fields: Fields | None = None, body: bytes | None = None, *, timeout: float = 20
    ) -> Answer:
        """Send a request without credentials on a connection of its own."""
        return ask(self.address, method, target, fields, body, timeout=timeout)

    def get(self, content: bytes, fields: Fields | None = None) -> Answer:
        """Ask for the blob with this content."""
        return self.ask("GET", f"/{disk.sha(content)}", fields)

    def store(
        self, content: bytes, *, name: str | None = None, method: str = "POST", fields: Fields | None = None
    ) -> Answer:
        """Upload under the right name (or another) with the writer's credentials."""
        target = f"/{disk.sha(content) if name is None else name}"
        return self.ask(method, target, {**self.login, **(fields or {})}, content)

    def wire(self, *, timeout: float = 20.0, receive_buffer: int | None = None) -> Wire:
        """Open a connection for a conversation by hand."""
        return Wire(self.address, timeout=timeout, receive_buffer=receive_buffer)

    @contextlib.contextmanager
    def wires(self, count: int, *, receive_buffer: int | None = None) -> Iterator[list[Wire]]:
        """Open many connections, and close all of them at the end."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.wire(receive_buffer=receive_buffer)) for _ in range(count)]

    def head_of_upload(
        self, name: str, size: int | None, fields: Fields | None = None, *, login: bool = True, method: str = "POST"
    ) -> bytes:
        """Spell the head of an upload of `size` bytes, or of a chunked one; the body is for the test to send."""
        length = {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
        return request(method, f"/{name}", {**(self.login if login else {}), **length, **(fields or {})})

    def store_chunked(self, content: bytes, *, name: str | None = None, piece: int = 65_536) -> Answer:
        """Upload in chunks, without a declared size."""
        pieces = [content[at : at + piece] for at in range(0, len(content), piece)]
        with self.wire() as wire:
            wire.send(self.head_of_upload(disk.sha(content) if name is None else name, None))
            wire.send(chunked(pieces))
            return wire.answer()

    def report(self) -> list[dict[str, Any]]:
        """What /status says about each storage, in JSON."""
        found = json.loads(self.ask("GET", "/status", {"Accept": "application/json"}).body)
        storages: list[dict[str, Any]] = found["storages"]
        return storages

    # The operator's side

    def command(self, *arguments: str) -> list[str]:
        """The words of one of Stor's commands, with the configuration of this server."""
        return [sys.executable, "-m", "pystor", *arguments, "--config", str(self.server.directory / "config.json")]

    @property
    def pairs(self) -> list[Pair]:
        return [tuple(pair) for pair in self.server.pairs]

    @property
    def storages(self) -> list[Path]:
        return self.server.storages

    def replicas(self, content: bytes) -> list[Path]:
        """Where whole replicas of this content lie."""
        paths = [disk.replica(storage, disk.sha(content)) for storage in self.storages]
        return [path for path in paths if disk.is_whole(path, content)]

    def names(self, digest: str) -> list[Path]:
        """Where anything at all lies under the final name of a blob."""
        paths = [disk.replica(storage, digest) for storage in self.storages]
        return [path for path in paths if path.is_symlink() or path.exists()]

    @contextlib.contextmanager
    def nothing_left_behind(self) -> Iterator[None]:
        """Check that the block adds no file to any storage, whatever its name."""
        before = disk.files(self.storages)
        yield
        disk.settles(lambda: not disk.news(self.storages, before))
        assert disk.news(self.storages, before) == set()

    @contextlib.contextmanager
    def only_adds(self, *contents: bytes) -> Iterator[None]:
        """Check that the block adds these blobs, whole on every storage of one pair each, and nothing else."""
        before = disk.files(self.storages)
        yield
        places = [[Path(path) for path in self.replicas(content)] for content in contents]
        wanted = {path for paths in places for path in paths} - before
        disk.settles(lambda: disk.news(self.storages, before) == wanted)
        assert disk.news(self.storages, before) == wanted
        for paths in places:
            holders = [storage for storage in self.storages if any(path.is_relative_to(storage) for path in paths)]
            assert tuple(holders) in self.pairs, paths


def at_once(house: House, jobs: list[tuple[bytes, str]]) -> list[Answer]:
    """Upload (content, method) all at the same time, each on a connection of its own."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(lambda job: house.store(job[0], method=job[1]), jobs))


def number(stor: House, name: str) -> float:
    """What a metric is now; 0 if there is none of that name."""
    lines = stor.ask("GET", "/metrics").body.decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)
