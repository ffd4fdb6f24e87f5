"""A real memcached, and things that only look like one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from itertools import count
from types import TracebackType
from typing import Self

from tests.neighbours.servers.ports import free_port
from tests.support import needs, processes


class Memcached:
    """`memcached` on a free port of a host; it can hang, wake up, be killed and come back on the same port."""

    def __init__(self, *options: str, host: str = "127.0.0.1", memory: int = 16) -> None:
        """Take `options` of its own, and so many MiB for values."""
        needs.tool("memcached")
        self.host = host
        self.port = free_port()
        self._options = ("-m", str(memory), *options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return (self.host, self.port)

    def start(self) -> None:
        command = ["memcached", "-u", "root", "-l", self.host, "-p", str(self.port), "-U", "0", *self._options]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            preexec_fn=processes.end_with_the_tests,  # noqa: PLW1509  one call of the kernel, no lock
        )
        processes.eventually(self._answers, what="memcached answers")

    def _answers(self) -> bool:
        try:
            return self.say(b"version\r\n").startswith(b"VERSION")
        except OSError:
            return False

    def say(self, command: bytes) -> bytes:
        """Send a command over a connection of its own; returns the answer's first piece."""
        with socket.create_connection(self.address, timeout=5) as talk:
            talk.sendall(command)
            return talk.recv(65536)

    def fill(self, size: int) -> None:
        """Store values of so many bytes until there is no memory for another: needs the option `-M`."""
        with socket.create_connection(self.address, timeout=5) as talk:
            for number in count():
                talk.sendall(b"set fill-%d-%d 0 0 %d\r\n%s\r\n" % (size, number, size, bytes(size)))
                if not talk.recv(65536).startswith(b"STORED"):
                    break

    def pause(self) -> None:
        """Let it hang: connections are made, nobody answers."""
        self._signal(signal.SIGSTOP)
        if self._process is not None:
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # until then one of its threads may answer

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "memcached was not started"
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


@contextlib.asynccontextmanager
async def impostor(answer: bytes, *, greets: bool = False) -> AsyncIterator[tuple[str, int]]:
    """A server that answers everything with the same bytes (`greets`: without being asked); empty ones hang up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if greets:
                writer.write(answer)
            while await reader.read(65536) and answer:
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
