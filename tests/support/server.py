"""A server of our own: `stor serve` as a subprocess, on a port that it picks."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol, Self, TypeAlias

from tests.support import answers, processes
from tests.support.answers import Answer

Body: TypeAlias = bytes | IO[bytes] | Iterable[bytes] | None


class Machine(Protocol):
    """Where a server runs, if not just here."""

    @property
    def address(self) -> str: ...

    def command(self, *words: str) -> list[str]: ...


_LISTENING = re.compile(r"^listening on (http://\S+:(\d+))$", re.MULTILINE)
_START_SECONDS = 30.0
_STOP_SECONDS = 30.0


class Server:
    """A running server, and an HTTP client that talks to it.

    `directory` holds the configuration and what the server prints. `pairs` are the storages, by default two pairs of
    two directories below `directory`; those that do not exist are made. `config` overrides keys of the configuration
    file (None leaves a key out). `user` and `password` are the writer's; requests that write carry them unless told
    otherwise. On a `machine` of its own it listens there. One that is `doomed` will be killed: coverage, which would
    lose what it saw, does not hold up its start.
    """

    running: ClassVar[list[Server]] = []

    def __init__(
        self,
        directory: Path,
        *,
        pairs: Sequence[Sequence[Path]] | None = None,
        workers: int = 2,
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        machine: Machine | None = None,
        doomed: bool = False,
    ) -> None:
        self.directory = directory
        self.host = "127.0.0.1" if machine is None else machine.address
        self.pairs = pairs or [[directory / f"pair{n}" / side for side in "ab"] for n in (1, 2)]
        self.user, self.password = "writer", "writer_pass"
        self.url, self.port = "", 0
        self._config = self._write_config(config or {})
        command = [
            *(sys.executable, "-m", "pystor", "serve", "--config", str(self._config)),
            *("--host", self.host, "--port", "0", "--workers", str(workers), *arguments),
        ]
        self._command = command if machine is None else machine.command(*command)
        self._environment = {**(processes.unmeasured() if doomed else os.environ), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def _write_config(self, overrides: Mapping[str, Any]) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        for storage in self.storages:
            storage.mkdir(parents=True, exist_ok=True)
        values = {
            "storage_pairs": [[str(storage) for storage in pair] for pair in self.pairs],
            "basic_auth": f"{self.user}:{self.password}",
            **overrides,
        }
        path = self.directory / "config.json"
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        return path

    # What there is

    @property
    def storages(self) -> list[Path]:
        return [storage for pair in self.pairs for storage in pair]

    @property
    def pid(self) -> int:
        """The process that was started: the supervisor of the workers."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def processes(self) -> list[int]:
        """Every living process of this server: the supervisor, its workers, and whatever they started."""
        return processes.in_session(self.pid)

    @property
    def stdout(self) -> str:
        return (self.directory / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.directory / "stderr").read_text(errors="replace")

    @property
    def output(self) -> str:
        """What it printed, for the report of a failure."""
        return f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    # Life

    def start(self) -> Self:
        """Start it, and return when it listens."""
        with (self.directory / "stdout").open("wb") as out, (self.directory / "stderr").open("wb") as err:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environment,
                cwd=self.directory,
                start_new_session=True,
                preexec_fn=processes.end_with_the_tests,  # noqa: PLW1509  one call of the kernel, no lock
            )
        Server.running.append(self)
        self._wait_until_it_listens()
        return self

    def _wait_until_it_listens(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while (match := _LISTENING.search(self.stdout)) is None:
            gone, late = self._process.poll() is not None, time.monotonic() > deadline
            if gone or late:
                self.kill()
                raise AssertionError(f"the server {'ended' if gone else 'does not listen'}\n{self.output}")
            time.sleep(0.01)
        self.url, self.port = match[1], int(match[2])

    def stop(self) -> None:
        """End it as an operator does; it ends with status 0, leaves no process and has shown no stack trace."""
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(_STOP_SECONDS)
            left = self._wait_for_the_last()
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server ignored SIGTERM for {_STOP_SECONDS} s\n{self.output}") from None
        finally:
            self.kill()
        assert status == 0, f"the server ended with status {status}\n{self.output}"
        assert not left, f"processes outlived the server: {left}\n{self.output}"
        assert "Traceback" not in self.stdout + self.stderr, self.output

    def _wait_for_the_last(self) -> list[int]:
        """Return who is left after a while; multiprocessing's resource tracker ends a moment after its parent."""
        deadline = time.monotonic() + 2
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return left

    def kill(self) -> None:
        """End every process of it at once, as a crash does; nothing is checked."""
        process = self._process
        if process is None:
            return
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(_STOP_SECONDS)
        self._wait_for_the_last()  # whose thread is in an fsync keeps his files, and their locks, until it is over
        self._process = None
        Server.running.remove(self)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

    # Requests

    def authorization(self) -> dict[str, str]:
        """Return the header with the writer's credentials."""
        pair = f"{self.user}:{self.password}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode("ascii")}

    def request(
        self,
        method: str,
        target: str,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 60,
    ) -> Answer:
        """Ask on a connection of its own. `target` is a path or a bare digest; an iterable body goes chunked."""
        with self.client(timeout) as client:
            fields = dict(headers or {})
            chunked = body is not None and not isinstance(body, bytes) and not hasattr(body, "read")
            if chunked:
                fields.setdefault("Transfer-Encoding", "chunked")
            client.request(method, _path(target), body, fields, encode_chunked=chunked)
            with client.getresponse() as response:
                return answers.read(response)

    def get(self, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("GET", target, headers=headers)

    def head(self, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("HEAD", target, headers=headers)

    def post(
        self, target: str, body: Body = b"", headers: Mapping[str, str] | None = None, *, auth: bool = True
    ) -> Answer:
        return self.request("POST", target, body, {**(self.authorization() if auth else {}), **(headers or {})})

    @contextlib.contextmanager
    def client(self, timeout: float = 60) -> Iterator[http.client.HTTPConnection]:
        """Open a connection that is kept for several requests, and closed at the end."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            yield connection
        finally:
            connection.close()


def _path(target: str) -> str:
    return target if target.startswith(("/", "*")) else f"/{target}"


ServerFactory: TypeAlias = Callable[..., Server]
