"""SeaweedFS, which speaks S3: one process with a master, a volume server, a filer and the S3 gateway.

It takes three to ten seconds until it stores something.
"""

from __future__ import annotations

import contextlib
import http
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

import obstore
import pytest
from obstore.store import S3Store

from tests.support import needs, processes

ACCESS_KEY: Final = "AKIDOFTHETESTS"
SECRET_KEY: Final = "the-secret-of-the-tests"
BUCKET: Final = "samples"

_START_SECONDS: Final = 60.0
_SERVICES: Final = ("master", "volume", "filer", "s3")


class Seaweed:
    """A running SeaweedFS with one bucket. `endpoint`, the keys and `bucket` are what a client needs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.access_key, self.secret_key, self.bucket = ACCESS_KEY, SECRET_KEY, BUCKET
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self.port = self._ports["s3.port"]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "SeaweedFS was not started"
        return self._process.pid

    def service(self, name: str) -> str:
        """Where one of its services is: `master`, `volume`, `filer` or `s3`."""
        return f"127.0.0.1:{self._ports[f'{name}.port']}"

    def start(self) -> Self:
        """Start it, or start it again with what it has stored, and return when it stores something."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
                preexec_fn=processes.end_with_the_tests,  # noqa: PLW1509  one call of the kernel, no lock
            )
        try:
            self._wait_until_it_stores()
        except BaseException:
            self.kill()
            raise
        return self

    def _command(self) -> list[str]:
        program = needs.find("weed") or str(Path(sys.executable).with_name("weed"))
        identities = self.directory / "identities.json"
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        identity = {"name": "stor", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}
        identities.write_text(json.dumps({"identities": [identity]}))
        (self.directory / "data").mkdir(exist_ok=True)
        return [
            *(program, "server", f"-dir={self.directory}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *("-filer", "-s3", f"-s3.config={identities}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            # As everywhere else, a bucket that is not there is not made by writing to it.
            *("-s3.autoCreateBucket=false", "-master.telemetry=false", "-volume.max=64"),
            *("-master.volumeSizeLimitMB=128", "-volume.preStopSeconds=0"),
            "-master.electionTimeout=1s",
            *(f"-filer.localSocket={self.directory}/filer.sock", f"-s3.localSocket={self.directory}/s3.sock"),
            *(f"-{name}={port}" for name, port in self._ports.items()),
        ]

    def _wait_until_it_stores(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._stores():
            assert self._process is not None
            assert self._process.poll() is None, f"SeaweedFS ended; see {self.directory}/log"
            assert time.monotonic() < deadline, f"SeaweedFS does not store after {_START_SECONDS} s"
            time.sleep(0.1)

    def _stores(self) -> bool:
        try:
            self.make_bucket(self.bucket)
            obstore.put(self.store(), "ready", b"yes")
            obstore.delete(self.store(), "ready")
        except (OSError, obstore.exceptions.BaseError):
            return False
        return True

    def make_bucket(self, name: str) -> None:
        """Make a bucket, which is a directory of the filer."""
        url = f"http://{self.service('filer')}/buckets/{name}/"
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != http.HTTPStatus.CONFLICT:  # it is there
                raise

    def uploads(self) -> list[str]:
        """The uploads in parts that were begun in the bucket, and neither ended nor taken back."""
        url = f"http://{self.service('filer')}/buckets/{self.bucket}/.uploads/"
        try:
            request = urllib.request.Request(url, headers={"Accept": "application/json"})
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310  it is ours
                return [entry["FullPath"] for entry in json.load(answer)["Entries"] or []]
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.NOT_FOUND:
                return []
            raise

    def store(self, bucket: str | None = None) -> S3Store:
        """A client of its own, to see what is really there; it gives up at once."""
        return S3Store(
            bucket or self.bucket,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True, "timeout": timedelta(seconds=30)},
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=30)},
        )

    def pause(self) -> None:
        """Let it hang: connections are made, nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a power cut does to a process; `start` brings it back."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=10)
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


_PORTS: Final = tuple(f"{service}.port{kind}" for service in _SERVICES for kind in ("", ".grpc"))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, below those that the kernel gives to clients."""
    found: list[int] = []
    start = 10_000 + os.getpid() * 37 % 15_000
    for port in range(start, 32_000):
        if len(found) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    assert len(found) == count, "no free ports"
    return found


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """SeaweedFS, shared by all tests that do not break it."""
    directory = tmp_path_factory.mktemp("seaweed")
    with Seaweed(directory) as running:
        yield running
    shutil.rmtree(directory / "data", ignore_errors=True)
