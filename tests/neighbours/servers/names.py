"""What names are known: to a server of our own that has its own /etc, and to ourselves."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support import needs

_NAME_SERVER = "127.83.53.53"

_MOUNT_AND_RUN = """
for file in hosts resolv.conf nsswitch.conf; do
    if [ -e /etc/$file ]; then mount --bind "$0/$file" /etc/$file || exit 2; fi
done
exec "$@"
"""


class SilentNames:
    """A machine, as a server sees it, that knows some names, and whose name server answers nothing about all others."""

    address = "127.0.0.1"

    def __init__(self, directory: Path, hosts: Mapping[str, str]) -> None:
        """`hosts` are addresses by name."""
        needs.root("mount files over those in /etc, and to be a name server")
        needs.tool("unshare")
        self._directory = directory
        lines = "".join(f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **hosts}.items())
        (directory / "hosts").write_text(lines)
        (directory / "resolv.conf").write_text(f"nameserver {_NAME_SERVER}\n")
        (directory / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")

    def command(self, *words: str) -> list[str]:
        """Write a command so that it runs there, as the process that is started."""
        return ["unshare", "--mount", "--", "sh", "-c", _MOUNT_AND_RUN, str(self._directory), *words]

    def __enter__(self) -> Self:
        self._name_server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._name_server.bind((_NAME_SERVER, 53))
        return self

    def __exit__(self, *_: object) -> None:
        self._name_server.close()


def named(patch: pytest.MonkeyPatch, known: Mapping[str, Sequence[str]]) -> None:
    """Give names addresses, in that order; all others are as ever. What is changed later holds from then on."""
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        return [answer for known_as in known.get(host, [host]) for answer in real(known_as, port, *args, **options)]

    patch.setattr(socket, "getaddrinfo", look_up)
