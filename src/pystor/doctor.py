"""How everything is that Stor relies on: each storage and each neighbour is asked for real, and told in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pystor import census, tree
from pystor.blob import UNKNOWN_ROOM, Storage
from pystor.bulkhead import Bulkhead
from pystor.directory import Directory
from pystor.errors import NeighbourError, StorageError, advised
from pystor.identity import Verdict
from pystor.wiring import Neighbour

_TIMEOUT: Final = 10.0


async def examine(
    sets: Sequence[Sequence[Storage]],
    neighbours: Mapping[str, Neighbour],
    tell: Callable[[str], None],
    *,
    storage_timeout: float = _TIMEOUT,
) -> int:
    """Ask the storages of each replica set, then the neighbours; `tell` gets a line for each.

    A storage has `storage_timeout` seconds to answer. Returns how many are not well.
    """
    ill = 0
    verdicts = census.take([[storage for storage in each if isinstance(storage, Directory)] for each in sets])
    for storages in sets:
        for storage in storages:
            began = time.perf_counter()
            verdict = verdicts[storage] if isinstance(storage, Directory) else None
            well, line = await _ask_storage(storage, verdict, storage_timeout)
            tell(_line(storage.root, line, began, well=well))
            ill += not well
    for name, neighbour in neighbours.items():
        began = time.perf_counter()
        well, line = await _ask_neighbour(neighbour)
        tell(_line(name, line, began, well=well))
        ill += not well
    return ill


async def _ask_storage(storage: Storage, verdict: Verdict | None, storage_timeout: float) -> tuple[bool, str]:
    member = Bulkhead(storage)
    try:
        return True, await member.run(_ask, storage, verdict, timeout=storage_timeout)
    except StorageError as error:
        log = "the kernel's log" if isinstance(storage, Directory) else "the log of that service"
        return False, f"{error.operation}: {advised(error.reason, f'look at {log}')}"
    finally:
        member.stop()


def _ask(storage: Storage, verdict: Verdict | None) -> str:
    if verdict is not None and verdict.seen.fault is None:  # to attach it tells more of a fault
        if verdict.refusal is not None:
            raise StorageError(storage.root, "attach", verdict.refusal)
        if verdict.new and isinstance(storage, Directory):
            storage.try_out()
            _refuse_foreign(storage)
            done = "written, read and removed; the first start makes it a storage"
            return done if verdict.doubt is None else f"{done}, though {verdict.doubt}"
    storage.attach()
    storage.probe()
    if isinstance(storage, Directory) and storage.writable:
        _refuse_foreign(storage)
    elif storage.writable:
        storage.stage(0).discard()  # what is uploaded to a bucket is collected on this machine first
    space = storage.check()
    done = "written, read and removed" if storage.writable else "read (it is read-only)"
    return done if space == UNKNOWN_ROOM else f"{done}; {space.free / 1e9:.1f} of {space.total / 1e9:.1f} GB free"


def _refuse_foreign(storage: Directory) -> None:
    try:
        tree.refuse_foreign(storage.root)
    except OSError as error:
        raise StorageError.from_os(storage.root, f"write to {error.filename}", error) from error


async def _ask_neighbour(neighbour: Neighbour) -> tuple[bool, str]:
    await neighbour.start()
    try:
        return True, await neighbour.probe()
    except NeighbourError as error:
        return False, str(error)
    finally:
        await neighbour.stop()


def _line(name: str, text: str, began: float, *, well: bool) -> str:
    milliseconds = (time.perf_counter() - began) * 1000
    return f"{'ok' if well else 'ILL':3}  {name}: {text} ({milliseconds:.0f} ms)"
