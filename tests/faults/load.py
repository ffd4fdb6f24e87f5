"""Clients that upload without a pause, what they were promised, and whether it was kept."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.contract.disk import fresh, sha
from tests.contract.house import House
from tests.support.clients import Clients

CLIENTS: Final = 16
_LARGE_CLIENTS: Final = 2
_SMALL, _LARGE = (100, 20_000), 3_000_000
TIMEOUT: Final = 15.0
"""Seconds after which an upload hangs. A look takes up to 2, the next probe 3; then nobody waits for the storage."""


@dataclass(frozen=True, slots=True)
class Promise:
    """An upload that was acknowledged: the digest of the blob, and where its replicas are said to lie."""

    digest: str
    paths: tuple[Path, ...]

    def broken(self) -> list[str]:
        """What is lost or wrong, a line each."""
        return [f"{path}: {fault}" for path in self.paths if (fault := _fault(path, self.digest))]


def broken(promises: Iterable[Promise], read: Mapping[Path, str] = MappingProxyType({})) -> list[str]:
    """What of these promises is lost or wrong, a line each; what was `read` and is right is not read again."""
    doubtful = [promise for promise in promises if {read.get(path) for path in promise.paths} != {promise.digest}]
    return [line for promise in doubtful for line in promise.broken()]


def read_all(storages: Iterable[Path]) -> dict[Path, str]:
    """Every blob, and the digest of what is really in it."""
    paths = (path for storage in storages for path in storage.glob("??/??/??/*.dat"))
    return {path: sha(path.read_bytes()) for path in paths}


def misnamed(read: Mapping[Path, str]) -> list[str]:
    """Blobs that are not what they are named after, acknowledged or not: a name is given to what is there to stay."""
    return [
        f"{path}: has its name, and is something else" for path, digest in read.items() if digest.upper() != path.stem
    ]


def _fault(path: Path, digest: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"lost: {error.strerror}"
    return "" if hashlib.sha256(content).hexdigest() == digest else f"wrong: {len(content)} bytes of something else"


class Load(Clients):
    """Sixteen clients that upload small blobs, two of them large ones, for as long as the block lasts."""

    def __init__(self, stor: House) -> None:
        self._stor = stor
        super().__init__(partial(self._upload, number < _LARGE_CLIENTS) for number in range(CLIENTS))
        self.promises: Final[list[Promise]] = []
        self.statuses: Final[Counter[int]] = Counter()
        """How often each status was answered; 0 is a connection that was refused or cut."""
        self.hung: Final[list[str]] = []
        """Uploads that were not answered in time."""

    def _upload(self, large: bool) -> None:
        while not self.over.is_set():
            content = fresh(_LARGE if large else random.randint(*_SMALL))
            status = self._upload_one(content)
            self.statuses[status] += 1
            if status not in (200, 201):
                self.over.wait(0.01)

    def _upload_one(self, content: bytes) -> int:
        digest = sha(content)
        try:
            answer = self._stor.server.request("POST", digest, content, self._stor.login, timeout=TIMEOUT)
        except TimeoutError:
            self.hung.append(digest)
            return 0
        except (OSError, HTTPException):
            return 0
        if answer.status in (200, 201):
            self.promises.append(Promise(digest, tuple(map(Path, answer.paths))))
        return answer.status
