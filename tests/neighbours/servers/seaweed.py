"""SeaweedFS, which speaks S3: all in one process, or a cluster of several.

It takes three to ten seconds until it stores something.
"""

from __future__ import annotations

import contextlib
import http
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

import obstore
import pytest
from obstore.store import S3Store

from tests.neighbours.servers.ports import free_ports
from tests.support import needs, processes

ACCESS_KEY: Final = "AKIDOFTHETESTS"
SECRET_KEY: Final = "the-secret-of-the-tests"
BUCKET: Final = "samples"

_START_SECONDS: Final = 60.0
_SERVICES: Final = ("master", "volume", "filer", "s3")


class Seaweed:
    """A running SeaweedFS with one bucket. `endpoint`, the keys and `bucket` are what a client needs."""

    def __init__(self, directory: Path, host: str = "127.0.0.1", *, open_to_all: bool = False) -> None:
        """`open_to_all`: requests that nobody has signed may read and write."""
        self.directory, self.host, self._open_to_all = directory, host, open_to_all
        self.access_key, self.secret_key, self.bucket = ACCESS_KEY, SECRET_KEY, BUCKET
        names = self.port_names()
        self.ports = dict(zip(names, free_ports(len(names), host), strict=True))
        self.port = self.ports["s3.port"]
        self.endpoint = f"http://{host}:{self.port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def credentials(self, host: str | None = None) -> dict[str, str]:
        """What a configuration says of it, or of the `host` that it is reached by."""
        return {"access_key": self.access_key, "secret_key": self.secret_key, "host": host or self.endpoint}

    @property
    def pid(self) -> int:
        (process,) = self._processes.values()
        return process.pid

    def service(self, name: str) -> str:
        """Where one of its services is: `master`, `volume`, `filer` or `s3`."""
        return f"{self.host}:{self.ports[f'{name}.port']}"

    def start(self) -> Self:
        """Start it, or start it again with what it has stored, and return when it stores something."""
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            for name, arguments in self.commands().items():
                self._processes[name] = self._run(name, *arguments)
            self._wait_until_it_stores()
        except BaseException:
            self.kill()
            raise
        return self

    def _run(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        program = needs.find("weed") or str(Path(sys.executable).with_name("weed"))
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
                preexec_fn=processes.end_with_the_tests,  # noqa: PLW1509  one call of the kernel, no lock
            )

    def port_names(self) -> tuple[str, ...]:
        """The options that want a port."""
        return tuple(f"{service}.port{kind}" for service in _SERVICES for kind in ("", ".grpc"))

    def commands(self) -> Mapping[str, list[str]]:
        """What is run, by the names of the processes."""
        (self.directory / "data").mkdir(exist_ok=True)
        return {
            "server": [
                *("server", f"-dir={self.directory}/data", f"-ip={self.host}", f"-ip.bind={self.host}"),
                *("-filer", "-master.telemetry=false", "-master.electionTimeout=1s", "-volume.max=128"),
                *("-master.volumeSizeLimitMB=128", "-volume.preStopSeconds=0"),
                f"-filer.localSocket={self.directory}/filer.sock",
                *("-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={self.identities()}"),
                # As everywhere else, a bucket that is not there is not made by writing to it.
                *("-s3.autoCreateBucket=false", f"-s3.localSocket={self.directory}/s3.sock"),
                *(f"-{name}={port}" for name, port in self.ports.items()),
            ]
        }

    def identities(self) -> Path:
        """Write down who may do what."""
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        identity = {"name": "stor", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}
        anybody = [{"name": "anonymous", "actions": ["Read", "Write"]}] if self._open_to_all else []
        path = self.directory / "identities.json"
        path.write_text(json.dumps({"identities": [identity, *anybody]}))
        return path

    def _wait_until_it_stores(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._stores():
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            assert not ended, f"SeaweedFS ended; see {self.directory}/{ended[0]}.log"
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

    def move(self, key: str, to: str) -> None:
        """Give an object another name, which costs nothing."""
        there = f"http://{self.service('filer')}/buckets/{self.bucket}/{to}"
        url = f"{there}?mv.from=/buckets/{self.bucket}/{key}"
        request = urllib.request.Request(url, method="POST")  # noqa: S310  it is ours
        urllib.request.urlopen(request, timeout=5).close()  # noqa: S310  it is ours

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

    def put_repeated(self, key: str, piece: bytes, count: int) -> None:
        """Make an object of a piece, again and again. It sends the piece once; for that it must be `open_to_all`."""
        obstore.put(self.store(), "piece", piece)
        upload = _between(self._ask("POST", key, "uploads"), "UploadId")
        copied = {"x-amz-copy-source": f"/{self.bucket}/piece"}
        with ThreadPoolExecutor(2) as threads:
            answers = threads.map(
                lambda number: self._ask("PUT", key, f"partNumber={number}&uploadId={upload}", headers=copied),
                range(1, count + 1),
            )
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{_between(answer, 'ETag')}</ETag></Part>"
            for number, answer in enumerate(answers, 1)
        )
        whole = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"
        self._ask("POST", key, f"uploadId={upload}", whole.encode())
        obstore.delete(self.store(), "piece")

    def _ask(
        self, method: str, key: str, query: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> str:
        url = f"{self.endpoint}/{self.bucket}/{key}?{query}"
        request = urllib.request.Request(url, body, headers or {}, method=method)  # noqa: S310  it is ours
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  it is ours
            return bytes(answer.read()).decode()

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
        for process in self._processes.values():
            process.wait(timeout=10)
        self._processes.clear()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def _between(text: str, tag: str) -> str:
    return text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]


class SeaweedCluster(Seaweed):
    """A master, three volume servers, a filer and an S3 gateway. Whatever is stored is on two volume servers."""

    VOLUME_SERVERS: Final = 3

    def port_names(self) -> tuple[str, ...]:
        """The services that want a port, and another one for gRPC."""
        volumes = [f"volume{number}" for number in range(self.VOLUME_SERVERS)]
        return tuple(
            f"{service}.port{kind}" for service in ("master", *volumes, "filer", "s3") for kind in ("", ".grpc")
        )

    def commands(self) -> Mapping[str, list[str]]:
        """What is run, by the names of the processes."""
        volumes = {f"volume{number}": self._volume_server(number) for number in range(self.VOLUME_SERVERS)}
        return {"master": self._master(), **volumes, "filer": self._filer(), "s3": self._gateway()}

    def kill_volume_server(self, number: int) -> None:
        """End a volume server at once, with one of two replicas of what it has."""
        process = self._processes.pop(f"volume{number}")
        process.kill()
        process.wait(timeout=10)

    def kept_by(self, number: int) -> int:
        """Bytes of the files that a volume server has."""
        return sum(file.stat().st_size for file in (self.directory / f"volume{number}").glob("*.dat"))

    def _master(self) -> list[str]:
        (self.directory / "master").mkdir(exist_ok=True)
        return [
            *("master", f"-mdir={self.directory}/master", *self._place_of("master")),
            # On another server of the same rack.
            *("-defaultReplication=001", "-volumeSizeLimitMB=128", "-electionTimeout=1s", "-telemetry=false"),
        ]

    def _volume_server(self, number: int) -> list[str]:
        name = f"volume{number}"
        (self.directory / name).mkdir(exist_ok=True)
        return [
            *(
                "volume",
                f"-dir={self.directory}/{name}",
                *self._place_of(name),
                f"-master={self._address_of('master')}",
            ),
            *("-max=64", "-preStopSeconds=0"),
        ]

    def _filer(self) -> list[str]:
        (self.directory / "filer").mkdir(exist_ok=True)
        return [
            *("filer", f"-defaultStoreDir={self.directory}/filer", *self._place_of("filer")),
            *(f"-master={self._address_of('master')}", f"-localSocket={self.directory}/filer.sock"),
        ]

    def _gateway(self) -> list[str]:
        return [
            *("s3", f"-filer={self._address_of('filer')}", *self._place_of("s3"), f"-config={self.identities()}"),
            *("-autoCreateBucket=false", "-port.iceberg=0", "-port.lance=0"),
            f"-localSocket={self.directory}/s3.sock",
        ]

    def _place_of(self, service: str) -> list[str]:
        return [
            *(f"-ip={self.host}", f"-ip.bind={self.host}"),
            *(f"-port{kind}={self.ports[f'{service}.port{kind}']}" for kind in ("", ".grpc")),
        ]

    def _address_of(self, service: str) -> str:
        return f"{self.host}:{self.ports[f'{service}.port']}.{self.ports[f'{service}.port.grpc']}"


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """SeaweedFS, shared by all tests that do not break it."""
    directory = tmp_path_factory.mktemp("seaweed")
    with Seaweed(directory) as running:
        yield running
    shutil.rmtree(directory / "data", ignore_errors=True)
