"""Which worker of a server answers on a connection."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from tests.contract.house import House
from tests.contract.wire import Wire, request
from tests.support.processes import links_of


def connect(stor: House, stack: contextlib.ExitStack, *, workers: int, least: int) -> dict[Wire, int]:
    """Open so many connections at least, until every worker has some; tells which process serves each."""
    served: dict[Wire, int] = {}
    while len(served) < least or len(set(served.values())) < workers:
        wire = stack.enter_context(stor.wire())
        wire.send(request("GET", "/live"))
        assert wire.answer().status == 200
        served[wire] = server_of(stor, wire)
        assert len(served) < 1000, "all connections go to one worker"
    return served


def server_of(stor: House, wire: Wire) -> int:
    """The process at the other end of a connection."""
    there = f":{stor.address[1]:04X} {wire.socket.getsockname()[1]:04X}"
    table = Path("/proc/net/tcp").read_text()
    (inode,) = (line.split()[9] for line in table.splitlines() if re.search(there.replace(" ", r" \w+:"), line))
    return next(pid for pid in stor.server.processes() if f"socket:[{inode}]" in set(links_of(pid)))
