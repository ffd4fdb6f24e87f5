"""RabbitMQ from Debian: a node of our own, as root and without systemd, with a port mapper (epmd) of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Final, Self

import pytest

from tests.neighbours.servers.certificates import certify
from tests.neighbours.servers.ports import free_ports
from tests.support import needs, processes

_PROGRAMS: Final = Path("/usr/lib/rabbitmq/bin")  # those in the path change to a user of their own
_START_SECONDS: Final = 90.0
_COMMAND_SECONDS: Final = 60.0
_HEADER: Final = b"AMQP\0\0\x09\x01"


class RabbitMQ:
    """A running broker on `port` of 127.0.0.1, where `guest`, password `guest`, may do everything.

    On `tls_port` it speaks TLS, with a certificate that only those trust who are told of `certificate`.
    """

    def __init__(self, directory: Path) -> None:
        self.port, self.tls_port, distribution, self._mapper_port = free_ports(4)
        self.certificate = directory / "certificate.pem"
        self._directory = directory
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
            "HOME": str(directory),  # of the cookie that rabbitmqctl shows
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_NODENAME": f"stor{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
        }
        self._mapper: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it, or start it again with what it has stored, and return when it speaks AMQP."""
        needs.tool("epmd")
        if not (_PROGRAMS / "rabbitmq-server").exists():
            pytest.skip("needs rabbitmq-server; `make test` as root installs it")
        self._directory.mkdir(parents=True, exist_ok=True)
        if not self.certificate.exists():
            self._configure()
        if self._mapper is None:  # else the node would start one, and leave it behind
            self._mapper = self._run("epmd", "-port", str(self._mapper_port), "-address", "127.0.0.1")
        self._process = self._run(str(_PROGRAMS / "rabbitmq-server"))
        try:
            what = f"RabbitMQ answers; see {self._directory}"
            processes.eventually(self._answers, within=_START_SECONDS, what=what)
        except BaseException:
            self.kill()
            raise
        return self

    def _configure(self) -> None:
        _, key = certify(self._directory)
        options = {"cacertfile": self.certificate, "certfile": self.certificate, "keyfile": key}
        lines = [f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}"]
        lines += [f"ssl_options.{name} = {path}" for name, path in options.items()]
        (self._directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._directory / "output").open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                cwd=self._directory,
                start_new_session=True,
                preexec_fn=processes.end_with_the_tests,  # noqa: PLW1509  one call of the kernel, no lock
            )

    def _answers(self) -> bool:
        """Whether it answers the header of AMQP, which it does some time after it accepts connections."""
        assert self._process is not None
        assert self._process.poll() is None, f"RabbitMQ ended; see {self._directory}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(_HEADER)
            return connection.recv(1) == b"\1"
        return False

    def settle(self) -> None:
        """Have what was declared written down: it is a moment later only, and a broker that is killed forgets it."""
        self.control("eval", "mnesia:sync_log().")

    def kill(self) -> None:
        """End it at once, as a power cut does to a process; `start` brings it back."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=10)
            self._process = None

    def pause(self) -> None:
        """Let it hang: connections are made, nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def block_publishers(self) -> None:
        """Raise the alarm that there is too little space on the disk: who publishes is not read from any more."""
        self.control("set_disk_free_limit", "100000GB")

    def unblock_publishers(self) -> None:
        """End that alarm."""
        self.control("set_disk_free_limit", "1MB")

    def control(self, *command: str) -> str:
        """Run `rabbitmqctl`, and return what it prints."""
        program = str(_PROGRAMS / "rabbitmqctl")
        done = subprocess.run(
            [program, "--quiet", *command],
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"rabbitmqctl {' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait(timeout=10)
