"""Other machines, as far as a network is concerned: namespaces of their own, each with a cable to us.

Nothing here has a name on a disk: the kernel takes a namespace and its cable away when the process that holds it ends.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support import needs, processes


class Machine:
    """A network namespace, and a cable to us. `address` is its own, `ours` that of our end."""

    def __init__(self, number: int) -> None:
        needs.root("make network namespaces")
        needs.tool("ip", "nsenter", "unshare")
        self.ours, self.address = _ends(number)
        self._number = number
        self._holder: subprocess.Popen[bytes] | None = None

    def command(self, *words: str) -> list[str]:
        """Write a command so that it runs there; its process is the one that is started, and no child of it."""
        return ["nsenter", f"--net={self._namespace}", "--", *words]

    @property
    def _namespace(self) -> Path:
        assert self._holder is not None, "the machine was not made"
        return Path(f"/proc/{self._holder.pid}/ns/net")

    def __enter__(self) -> Self:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--", "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
            preexec_fn=processes.end_with_the_tests,  # noqa: PLW1509  one call of the kernel, no lock
        )
        try:
            processes.eventually(self._is_apart, what="a namespace of its own")
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take it away; what still runs there is alone."""
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
            self._holder = None

    def _is_apart(self) -> bool:
        return self._namespace.readlink() != Path("/proc/self/ns/net").readlink()

    def _connect(self) -> None:
        assert self._holder is not None
        cable = f"stor{os.getpid():x}n{self._number}"
        _run(["ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(self._holder.pid)])
        _run(["ip", "address", "add", f"{self.ours}/30", "dev", cable])
        _run(["ip", "link", "set", cable, "up"])
        _run(self.command("ip", "link", "set", "lo", "up"))
        _run(self.command("ip", "address", "add", f"{self.address}/30", "dev", "eth0"))
        _run(self.command("ip", "link", "set", "eth0", "up"))
        # Whatever else we have addresses for is reached through us.
        _run(self.command("ip", "route", "add", "default", "via", self.ours))


def _ends(number: int) -> tuple[str, str]:
    """Choose the addresses of both ends, of those that are set apart for tests of networks: 198.18.0.0/15."""
    start = (os.getpid() * 2 + number) % (1 << 15) * 4
    ours, theirs = start + 1, start + 2
    return _address(ours), _address(theirs)


def _address(offset: int) -> str:
    return f"198.{18 + (offset >> 16)}.{offset >> 8 & 255}.{offset & 255}"


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
