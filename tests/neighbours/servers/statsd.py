"""The statsd daemon, which speaks statsite's protocol, and tells what it has counted on a port of its own."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, Self

from tests.neighbours.servers.ports import free_ports
from tests.support import needs, processes

_PACKAGE: Final = "statsd@0.9.0"
_INSTALL_SECONDS: Final = 120.0
_START_SECONDS: Final = 20.0
_NEVER: Final = 2**30  # milliseconds; it forgets its counters when it flushes them


def install() -> Path:
    """Install the daemon with npm, once for this environment, and return where its package is."""
    needs.tool("node", "npm")
    home = Path(sys.prefix) / "npm" / _PACKAGE
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=home.parent))
        _npm_install(fresh)
        with contextlib.suppress(OSError):  # another run was faster
            fresh.rename(home)
        shutil.rmtree(fresh, ignore_errors=True)
    return home / "node_modules" / "statsd"


def _npm_install(prefix: Path) -> None:
    options = ("--no-audit", "--no-fund", "--no-update-notifier", "--omit=optional", "--ignore-scripts")
    command = ["npm", "install", "--prefix", str(prefix), *options, _PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    assert done.returncode == 0, f"npm cannot install {_PACKAGE}:\n{done.stderr}"


class Statsd:
    """A running daemon on `port` of 127.0.0.1; `counters`, `timers` and `bad_lines` are what it reports."""

    def __init__(self, directory: Path) -> None:
        self.port, self._management = free_ports(2)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it, with nothing counted yet, and return when it answers."""
        package = install()
        address = {"address": "127.0.0.1", "port": self.port}
        management = {"mgmt_address": "127.0.0.1", "mgmt_port": self._management}
        configuration = self._directory / "statsd.json"
        configuration.write_text(json.dumps({**address, **management, "flushInterval": _NEVER, "backends": []}))
        with (self._directory / "statsd.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["node", str(package / "stats.js"), str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=processes.end_with_the_tests,  # noqa: PLW1509  one call of the kernel, no lock
            )
        processes.eventually(self._answers, within=_START_SECONDS, what=f"statsd answers; see {self._directory}")
        return self

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self._ask("health").startswith("health: up")
        return False

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None

    def pause(self) -> None:
        """Let it hang; the kernel takes its datagrams as long as there is room."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def counters(self) -> dict[str, float]:
        """The counters by name, without those of the daemon itself."""
        found = re.findall(r"'([^']+)': ([-+.\de]+)", self._ask("counters"))
        return {name: float(value) for name, value in found if not name.startswith("statsd.")}

    @property
    def timers(self) -> dict[str, list[float]]:
        """The times by name, in milliseconds; it shows the first hundred of each."""
        found = re.findall(r"'([^']+)': \[([^\]]*)\]", self._ask("timers"))
        return {name: [float(value) for value in re.findall(r"[-+.\de]+", values)] for name, values in found}

    @property
    def datagrams(self) -> int:
        """How many datagrams arrived."""
        return self._number("counters", r"'statsd\.packets_received': (\d+)")

    @property
    def bad_lines(self) -> int:
        """How many lines it did not understand."""
        return self._number("stats", r"bad_lines_seen: (\d+)")

    def _number(self, command: str, pattern: str) -> int:
        found = re.search(pattern, self._ask(command))
        assert found is not None
        return int(found[1])

    def _ask(self, command: str) -> str:
        """Send one command to the management port; its answer ends with `END`, that of `health` with the line."""
        deadline = time.monotonic() + 5
        with socket.create_connection(("127.0.0.1", self._management), timeout=5) as connection:
            connection.sendall(f"{command}\n".encode())
            answer = b""
            while not answer.endswith((b"END\n\n", b"up\n")):
                assert time.monotonic() < deadline, answer
                received = connection.recv(65536)
                if not received:
                    break
                answer += received
        return answer.decode()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
