"""Places where a neighbour should be, and is not."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from tests.neighbours.servers.ports import free_port


@contextlib.contextmanager
def closed() -> Iterator[int]:
    """A port on which nobody listens."""
    yield free_port()


@contextlib.contextmanager
def hung(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port on which everybody is welcome, and nobody is answered."""
    with socket.create_server((host, port), backlog=1024) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def silent(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port that is as a firewall makes it: what is sent there vanishes."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, port), backlog=0))
        address = listener.getsockname()
        with contextlib.suppress(TimeoutError):
            while True:  # until the queue of those that wait is full, and the kernel drops all others
                stack.enter_context(socket.create_connection(address, timeout=0.2))
        yield address[1]
