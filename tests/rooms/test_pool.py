"""All replica sets together: how the pool begins, and what it makes of hints."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from pystor import executor, upkeep
from pystor.blob import Timeouts
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.events import Event, LookedUp, StorageFailed
from pystor.hints import Hints
from pystor.ingest import store_at_once
from pystor.marker import Marker
from pystor.places import Places
from pystor.pool import Pool
from pystor.replicas import ReplicaSet
from pystor.temporary import TEMPORARIES
from pystor.verification import Verifier
from tests.rooms.tools import adopted, blobs, eventually, place, pool_of, run, running

CONTENT = b"a blob"
BLOB = Digest.of(CONTENT)


class Late(Directory):
    """A storage that takes its time to be there."""

    def __init__(self, root: str) -> None:
        super().__init__(root, reserve=0)
        self.there = threading.Event()

    def attach(self) -> Marker:
        assert self.there.wait(20)
        return super().attach()


def test_a_storage_that_hangs_at_the_start_delays_neither_it_nor_the_others(tmp_path: Path) -> None:
    events: list[Event] = []
    well, late = adopted(tmp_path / "a"), Late(str(adopted(tmp_path / "b").root))
    place(well, CONTENT)

    async def scenario() -> None:
        pool, began = pool_of([well], [late], events=events), time.monotonic()
        await pool.start()
        assert time.monotonic() - began < 1.5
        with await pool.find(BLOB) as found:
            assert found.storage == well.root
        await eventually(lambda: any(isinstance(event, StorageFailed) for event in events))
        member = pool.sets[1].members[0]
        assert member.out
        late.there.set()
        await eventually(lambda: not member.out)
        await pool.stop()

    run(scenario())


@pytest.mark.parametrize("dice", [0.0, 0.9])
def test_a_storage_that_is_out_is_asked_last(tmp_path: Path, dice: float) -> None:
    out, well = (Bulkhead(adopted(tmp_path / name)) for name in "ab")
    out.note(StorageError(out.storage.root, "open", "no answer", dead=True))
    assert ReplicaSet([out, well], lambda: dice).in_turn() == [well, out]


def test_a_storage_is_taken_in_again_while_the_probe_of_another_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_RECOVERED_EVERY", 0.05)
    hanging, well = adopted(tmp_path / "a"), adopted(tmp_path / "b")
    begun, over = threading.Event(), threading.Event()
    hanging.timeouts = Timeouts(answer=20)  # type: ignore[misc]

    def probe() -> None:
        begun.set()
        assert over.wait(20)

    monkeypatch.setattr(hanging, "probe", probe)

    async def scenario() -> None:
        async with running([hanging], [well]) as pool:
            dead, other = pool.members()
            dead.note(StorageError(hanging.root, "open", "no answer", dead=True))
            await eventually(begun.is_set)
            other.note(StorageError(well.root, "open", "no answer", dead=True))
            async with asyncio.timeout(5):
                await eventually(lambda: not other.out)
            assert dead.out
            over.set()

    run(scenario())


def test_small_uploads_are_written_by_one_thread_of_their_set_which_ends_with_the_pool(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However busy the machine is.
    monkeypatch.setattr(executor, "_QUICK", 30.0)
    monkeypatch.setattr(executor, "_DELAY", 30.0)
    contents = [b"%d" % number for number in range(8)]
    pair = [adopted(memory / name, local=True, durable=False) for name in "ab"]
    name = f"stor {pair[0].root}|{pair[1].root}"

    def theirs() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == name]

    async def scenario() -> None:
        async with running(pair) as pool:
            await asyncio.gather(*(store_at_once(pool, content, Digest.of(content)) for content in contents))
            assert len(theirs()) == 1
        await eventually(lambda: theirs() == [])

    run(scenario())
    assert [sorted(blobs(storage)) for storage in pair] == [contents] * 2


def test_a_disk_that_fails_its_probe_is_told_though_nobody_needs_it(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_RECOVERED_EVERY", 0.005)
    monkeypatch.setattr(upkeep, "_PROVED_EVERY", 0.0)
    storage, events = adopted(memory / "a", local=True), list[Event]()
    error = StorageError(storage.root, "probe", "Input/output error")

    def fail() -> None:
        raise error

    monkeypatch.setattr(storage, "probe", fail)

    async def scenario() -> None:
        async with running([storage], events=events):
            await eventually(lambda: StorageFailed(error) in events)

    run(scenario())


def test_a_fault_in_a_measurement_ends_no_measuring(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_RECOVERED_EVERY", 0.005)
    begun: list[float] = []

    async def fail(_: Places, age: float) -> None:
        begun.append(age)
        if age:  # not at the start
            raise ZeroDivisionError

    monkeypatch.setattr(Places, "measure", fail)

    async def scenario() -> None:
        async with running([adopted(memory / "a")]):
            await eventually(lambda: len(begun) > 3)

    run(scenario())


def test_a_storage_is_looked_after_by_one_at_a_time(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_RECOVERED_EVERY", 0.005)
    begun: list[str] = []

    async def take_long(member: Bulkhead, *_: object) -> None:
        begun.append(member.storage.root)
        await asyncio.sleep(20)

    monkeypatch.setattr(Bulkhead, "recover", take_long)
    monkeypatch.setattr(Bulkhead, "prove", take_long)
    pair = [adopted(memory / name) for name in "ab"]

    async def scenario() -> None:
        async with running(pair) as pool:
            for member in pool.members():
                member.note(StorageError(member.storage.root, "open", "hangs", dead=True))
            await eventually(lambda: len(begun) >= 4)
            await asyncio.sleep(0.05)

    run(scenario())
    assert sorted(begun) == sorted(storage.root for storage in pair * 2)


def test_a_storage_that_is_read_only_is_not_swept(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_BEGUN_WITHIN", 30.0)
    storages = [adopted(memory / name) for name in "ab"]
    left = [Path(storage.root, TEMPORARIES, "left by a crash") for storage in storages]
    for path in left:
        path.touch()
    read_only = Directory(storages[1].root, writable=False)

    async def scenario() -> None:
        async with running([storages[0]], [read_only], sweep_period=0.01):
            await eventually(lambda: not left[0].exists())
            await asyncio.sleep(0.05)

    run(scenario())
    assert left[1].exists()


class Rumours:
    """A shared level of the cache that says the same of every blob."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def get(self, digest: Digest) -> str | None:
        return self.path.replace("BLOB", digest.path)

    def put(self, digest: Digest, path: str) -> None:
        pass


@pytest.mark.parametrize(
    ("hint", "attempts"),
    [
        ("{b}/BLOB", 1),
        ("{a}/BLOB", 2),
        ("{b}/../a/BLOB", 0),
        ("/etc/passwd", 0),
        ("/BLOB", 0),
        ("{a}/BLOB/BLOB", 0),
        ("BLOB", 0),
        ("", 0),
    ],
)
def test_a_hint_puts_a_configured_storage_in_front_and_any_other_changes_nothing(
    tmp_path: Path, hint: str, attempts: int
) -> None:
    events: list[Event] = []
    storages = [adopted(tmp_path / name, name) for name in "ab"]
    place(storages[1], CONTENT)

    def pool_with(hint: str) -> Pool:
        return Pool(
            [ReplicaSet([Bulkhead(storage)]) for storage in storages],
            verifier=Verifier(),
            verify_first=1 << 20,
            hints=Hints(Rumours(hint.format(a=tmp_path / "a", b=tmp_path / "b"))),
            sweep_period=1800,
            observe=events.append,
        )

    async def attempts_with(hint: str) -> int:
        pool = pool_with(hint)
        with await pool.find(BLOB) as found:
            assert found.read(0, found.size) == CONTENT
        return [event.attempts for event in events if isinstance(event, LookedUp)][-1]

    unhinted = run(attempts_with("/nowhere"))
    assert run(attempts_with(hint)) == (attempts or unhinted)
