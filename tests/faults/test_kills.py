"""kill -9 of every process under load, again and again: promises are kept, no file is torn, no litter stays.

And of one worker: the connections of the others do not notice, and another takes its place.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

import pytest

from tests.contract.disk import fresh, settles, sha
from tests.contract.house import House
from tests.contract.wire import Cut, Wire, request
from tests.faults.conftest import HouseFactory
from tests.faults.load import Load, Promise, broken, misnamed, read_all
from tests.faults.reads import reads
from tests.faults.workers import connect, server_of
from tests.support.clients import Clients
from tests.support.processes import eventually
from tests.support.server import Server

_BACK_WITHIN: Final = 5.0  # seconds
_CONNECTIONS: Final = 8
_TIMES: Final = 3  # requests before and after
_PAUSE: Final = 0.05  # seconds between two requests of one connection: the new worker has to start on the same machine
_WORKERS: Final = 2
ROUNDS: Final = int(os.environ.get("STOR_TEST_ROUNDS", "10"))
_SECONDS: Final = 0.5


def test_promises_are_kept_and_nothing_is_torn_when_all_processes_are_killed_under_load(tmp_path: Path) -> None:
    promises: list[Promise] = []
    left_behind = 0
    for number in range(ROUNDS):
        pairs = [[tmp_path / f"{pair}{side}" for side in "ab"] for pair in (1, 2)]
        server = Server(tmp_path / f"server{number}", pairs=pairs, doomed=True)
        stor = House(server.start())
        try:
            assert settles(lambda house=stor: temporaries(house) == [])  # type: ignore[misc]
            with Load(stor) as load:
                time.sleep(_SECONDS)
                eventually(lambda: bool(load.promises), what=f"a promise; the answers were {load.statuses}")
                server.kill()
        finally:
            server.kill()
        promises += load.promises
        left_behind += len(temporaries(stor))
        read = read_all(stor.storages)
        assert broken(promises, read) == []
        assert misnamed(read) == []
    assert left_behind, "no upload was ever under way: this test proves nothing"


def temporaries(stor: House) -> list[Path]:
    """Files of uploads that are under way, or were."""
    return [path for storage in stor.storages for path in (storage / ".stor/tmp").glob("*")]


@pytest.mark.alone(reason="a worker has to start within five seconds, under a load that the test makes")
def test_a_killed_worker_fails_no_request_on_other_connections_and_is_replaced_within_five_seconds(
    make_stor: HouseFactory,
) -> None:
    stor, contents = make_stor(workers=_WORKERS), [fresh(5_000) for _ in range(5)]
    assert {stor.store(content).status for content in contents} == {201}
    with contextlib.ExitStack() as stack:
        served = connect(stor, stack, workers=_WORKERS, least=_CONNECTIONS)
        victim = min(served.values())
        loads = {wire: Conversation(stor, wire, contents) for wire in served}
        with contextlib.ExitStack() as talks:
            for load in loads.values():
                talks.enter_context(load)
            others = [load for wire, load in loads.items() if served[wire] != victim]
            assert settles(lambda: all(load.done > _TIMES for load in loads.values()))
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            assert settles(lambda: victim not in stor.server.processes())  # until then it may take connections
            with reads(stor, contents, clients=1) as strangers:
                assert settles(lambda: has_another(stor, set(served.values())), within=_BACK_WITHIN)
                took, done = time.monotonic() - killed, [load.done for load in others]
                asked = len(strangers.asked)
                settles(lambda: all(load.done > before + _TIMES for load, before in zip(others, done, strict=True)))
                assert settles(lambda: len(strangers.asked) > asked + _TIMES)

    assert took < _BACK_WITHIN
    assert strangers.outcomes() == {"ok"}
    assert [load.failure for load in others] == [""] * len(others)
    assert all(load.done > before + _TIMES for load, before in zip(others, done, strict=True))
    assert all(load.failure for wire, load in loads.items() if served[wire] == victim)


class Conversation(Clients):
    """One connection on which blobs are read and stored, one after the other, for as long as the block lasts."""

    def __init__(self, stor: House, wire: Wire, contents: list[bytes]) -> None:
        self._stor = stor
        self._wire = wire
        self._contents = contents
        super().__init__([self._talk])
        self.done = 0
        self.failure = ""

    def _talk(self) -> None:
        try:
            while not self.over.wait(_PAUSE):
                self._read_and_store(self._contents[self.done % len(self._contents)], fresh(2_000))
                self.done += 1
        except (Cut, OSError, AssertionError) as error:
            self.failure = repr(error)

    def _read_and_store(self, old: bytes, new: bytes) -> None:
        self._wire.send(request("GET", f"/{sha(old)}"))
        assert self._wire.answer().body == old
        self._wire.send(request("POST", f"/{sha(new)}", self._stor.login, new))
        assert self._wire.answer().status == 201


def has_another(stor: House, known: set[int]) -> bool:
    """Whether a process that is not among the known ones serves a new connection."""
    with stor.wire() as wire:
        wire.send(request("GET", "/live"))
        assert wire.answer().status == 200
        return server_of(stor, wire) not in known
