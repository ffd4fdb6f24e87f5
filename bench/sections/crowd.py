"""Memory of a worker: idle, and for each of many readers that hardly read."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from bench import blobs, peers
from bench.peers import Peer
from bench.samples import MIB, Check
from bench.setting import Setting, pair_in
from tests.support import processes

_READERS = 200


def crowd(setting: Setting) -> Iterator[Check]:
    """Measure the resident memory of one worker, as Linux tells: what it shares with others counts too."""
    idle = Check("memory of an idle worker", "MiB", 60)
    each = Check(f"memory of a worker for each of {_READERS} slow readers of a blob of 100 MiB", "MiB", 0.3)
    with setting.room() as room:
        pair = pair_in(room)
        (digest,) = blobs.lay(pair, 1, 100 * MIB)
        for _ in range(setting.rounds):
            with peers.stor(room, [pair], 1) as stor:
                worker = _worker(stor)
                idle.values.append(processes.resident_bytes(worker, "VmRSS") / MIB)
                _read_once(stor, digest)
                before = processes.resident_bytes(worker, "VmRSS") / MIB
                with _readers(stor, digest):
                    each.values.append((processes.resident_bytes(worker, "VmRSS") / MIB - before) / _READERS)
    yield idle
    yield each


def _worker(peer: Peer) -> int:
    """The process with the most memory is the one worker; the others are its supervisor's."""
    return max(processes.in_session(peer.session), key=lambda pid: processes.resident_bytes(pid, "VmRSS"))


def _read_once(peer: Peer, digest: str) -> None:
    with _asking(peer, digest) as reader:
        received = 0
        while received < 100 * MIB:
            received += len(reader.recv(MIB))


@contextlib.contextmanager
def _asking(peer: Peer, digest: str) -> Iterator[socket.socket]:
    address = urlsplit(peer.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(f"GET {peer.path(digest)} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        yield connection


@contextlib.contextmanager
def _readers(peer: Peer, digest: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(_asking(peer, digest)) for _ in range(_READERS)]
        for _ in range(20):
            for reader in readers:
                reader.recv(4096)
            time.sleep(0.1)
        yield
