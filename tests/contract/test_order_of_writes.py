"""The rules of a write, seen by strace: temporaries, sync of every replica, final names, sync of directories, 201.

An upload that is alone is made durable by fsync, several small ones together by a sync of the whole filesystem.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.contract.disk import fresh, sha
from tests.contract.house import House, at_once
from tests.support import needs
from tests.support.mounts import Mounts
from tests.support.processes import tracers_of
from tests.support.server import Server

CALLS: Final = ",".join(
    [
        *("openat", "openat2", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "unlink"),
        *(
            "unlinkat",
            "fsync",
            "fdatasync",
            "syncfs",
            "write",
            "writev",
            "pwrite64",
            "pwritev",
            "send",
            "sendto",
            "sendmsg",
        ),
    ]
)

_LINE: Final = re.compile(r"^(?P<pid>\d+) +(?P<rest>.*)$")
_BEGUN: Final = re.compile(r"^(?P<name>\w+)\((?P<arguments>.*?)(?P<unfinished> <unfinished \.\.\.>)?$")
_RESUMED: Final = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>(?P<arguments>.*)$")
_RESULT: Final = re.compile(
    r"^(?P<arguments>.*)\) += (?P<result>-?\d+|\?)(?:<(?P<path>[^>]*)>(?:\(deleted\))?)?(?P<error> E\w+.*)?$"
)


@dataclass
class Call:
    """One system call: when it began and ended, as numbers of lines."""

    name: str
    arguments: str
    began: int
    ended: int = -1
    result: int = -1
    path: str = ""
    """What the descriptor that it gave stands for."""

    @property
    def ok(self) -> bool:
        return self.ended >= 0 and self.result >= 0


def parse(trace: str) -> list[Call]:
    """Read what `strace -f -y` wrote; a call of one thread that was interrupted by another is put together again."""
    calls: list[Call] = []
    open_calls: dict[str, Call] = {}
    for number, line in enumerate(trace.splitlines()):
        if (found := _LINE.match(line)) is None:
            continue
        pid, rest = found["pid"], found["rest"]
        if (resumed := _RESUMED.match(rest)) is not None:
            if (call := open_calls.pop(pid, None)) is not None:
                _finish(call, call.arguments + resumed["arguments"], number)
        elif (begun := _BEGUN.match(rest)) is not None:
            calls.append(call := Call(begun["name"], begun["arguments"], number))
            if begun["unfinished"]:
                open_calls[pid] = call
            else:
                _finish(call, begun["arguments"], number)
    return calls


def _finish(call: Call, text: str, number: int) -> None:
    if (result := _RESULT.match(text)) is None:
        return
    call.arguments, call.ended = result["arguments"], number
    call.result = -1 if result["error"] or result["result"] == "?" else int(result["result"])
    call.path = result["path"] or ""


_MANY: Final = {"small": 1, "large": 1, "together": 8}


@contextmanager
def traced(stor: House, into: Path) -> Iterator[Callable[[], list[Call]]]:
    """Trace every process of the server; after the block, what it gave yields the calls."""
    needs.root("trace processes")
    needs.tool("strace")
    pids = [option for pid in stor.server.processes() for option in ("-p", str(pid))]
    tracer = subprocess.Popen(
        [
            "strace",
            "-f",
            "-y",
            "-qq",
            "-s",
            "4096",
            "-e",
            f"trace={CALLS}",
            "-e",
            "signal=none",
            "-o",
            str(into),
            *pids,
        ],
        stderr=subprocess.PIPE,
    )
    _wait_until_traced(stor, tracer)
    try:
        yield lambda: parse(into.read_text(errors="replace"))
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=20)


def _wait_until_traced(stor: House, tracer: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while not all(tracers_of(pid) == {tracer.pid} for pid in stor.server.processes()):
        assert tracer.poll() is None, tracer.stderr and tracer.stderr.read()
        assert time.monotonic() < deadline, "strace does not attach"
        time.sleep(0.02)


class Upload:
    """What one upload did to the disks, as a trace tells in which there may be others."""

    def __init__(self, calls: list[Call], digest: str, pair: tuple[Path, ...]) -> None:
        self.calls = [call for call in calls if call.ok]
        self.final = f"{digest.upper()}.dat"
        self.pair = pair

    def temporaries(self) -> dict[Path, Call]:
        """The creation of the temporary on each storage: of the file that got the final name."""
        named = {self._source(call) for call in self.names()}
        return {
            storage: call
            for storage in self.pair
            for call in self.calls
            if call.name.startswith("open") and call.path in named and _is_below(call.path, storage)
        }

    def _source(self, call: Call) -> str:
        """What got a final name: a path, or what strace calls the file without one that a descriptor stands for.

        Where the kernel lets nobody name a descriptor, it is the path to it that is named.
        """
        place = _places(call)[0]
        if not place.startswith("/proc/self/fd/"):
            return place
        fd = int(os.path.basename(place))
        made = [each for each in self._named("openat") if "O_TMPFILE" in each.arguments and each.ended < call.began]
        return max((each for each in made if each.result == fd), key=lambda each: each.ended).path

    def names(self) -> list[Call]:
        """The calls that gave a replica its final name."""
        return [
            call for call in self.calls if call.name.startswith(("rename", "link")) and self.final in call.arguments
        ]

    def syncs(self, path: str) -> list[Call]:
        """The syncs of a file or directory, and those of the whole filesystem of its storage."""
        (root,) = [storage for storage in self.pair if _is_below(f"{path}/", storage)]
        return [*self.own_syncs(path), *(call for call in self._named("syncfs") if f"<{root}>" in call.arguments)]

    def own_syncs(self, path: str) -> list[Call]:
        return [call for call in self._named("fsync", "fdatasync") if f"<{path}>" in call.arguments]

    def _named(self, *names: str) -> list[Call]:
        return [call for call in self.calls if call.name in names]

    def writes(self, path: str) -> list[Call]:
        return [call for call in self.calls if "write" in call.name and f"<{path}>" in call.arguments]

    def made(self) -> list[Call]:
        """The making of directories that lead to the blob."""
        parents = self.parents()
        return [call for call in self.calls if call.name.startswith("mkdir") and _places(call)[-1] in parents]

    def answer(self) -> Call:
        """The call that sent the 201, whose body names the replicas."""
        sent = [call for call in self.calls if call.name.startswith(("write", "send"))]
        body = next(call for call in sent if self.final in call.arguments)
        connection = body.arguments.partition(",")[0]
        answers = [call for call in sent if call.arguments.startswith(connection) and "HTTP/1.1 201" in call.arguments]
        return max((call for call in answers if call.began <= body.began), key=lambda call: call.began)

    def is_together(self) -> bool:
        """Whether it left every sync to one of the whole filesystem."""
        return not any(self.own_syncs(path) for path in [call.path for call in self.temporaries().values()])

    def parents(self) -> list[str]:
        """Every directory with a new entry, on every storage: the leaf, and each up to the root."""
        name = self.final
        leaves = [storage / name[:2] / name[2:4] / name[4:6] for storage in self.pair]
        return [str(directory) for leaf in leaves for directory in (leaf, *list(leaf.parents)[:3])]


def _is_below(path: str, storage: Path) -> bool:
    return path.startswith(f"{storage}/")


@pytest.fixture(scope="module", params=["small", "large", "together"])
def upload(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upload]:
    """One upload into empty storages, traced: a small or large one alone, or a small one among others."""
    directory = tmp_path_factory.mktemp("traced")
    contents = [fresh(3_000_000 if request.param == "large" else 1000) for _ in range(_MANY[request.param])]
    with contextlib.closing(Mounts(directory)) as mounts:
        pair = (mounts.ext4(), mounts.ext4())
        with Server(directory, pairs=[pair], workers=1) as server:
            stor = House(server)
            stor.ask("GET", "/live")
            with traced(stor, directory / "trace") as calls:
                assert {answer.status for answer in at_once(stor, [(each, "POST") for each in contents])} == {201}
        uploads = [Upload(calls(), sha(content), pair) for content in contents]
        yield next(upload for upload in uploads if upload.is_together() == (request.param == "together"))


def test_an_upload_is_written_to_a_temporary_in_a_dot_directory_of_each_storage(upload: Upload) -> None:
    temporaries = upload.temporaries()

    assert set(temporaries) == set(upload.pair)
    for storage, call in temporaries.items():
        assert Path(call.path).relative_to(storage).parts[0].startswith(".")
        assert ("O_TMPFILE" if upload.is_together() else "O_EXCL") in call.arguments
        assert ", 0600" in call.arguments


def test_each_replica_is_synced_after_its_last_byte(upload: Upload) -> None:
    for call in upload.temporaries().values():
        writes, syncs = upload.writes(call.path), upload.syncs(call.path)
        assert writes
        assert any(sync.began > max(write.ended for write in writes) for sync in syncs), (writes, syncs)


def test_every_replica_is_synced_before_the_first_final_name_appears(upload: Upload) -> None:
    first_name = min(call.began for call in upload.names())

    assert len(upload.names()) == len(upload.pair)
    for call in upload.temporaries().values():
        written = max(write.ended for write in upload.writes(call.path))
        assert any(written < sync.began and sync.ended < first_name for sync in upload.syncs(call.path))


def test_every_directory_with_a_new_entry_is_synced_between_the_names_and_the_answer(upload: Upload) -> None:
    answer = upload.answer().began
    for directory in upload.parents():
        changes = [call.ended for call in upload.made() + upload.names() if _makes_entry_in(call, directory)]
        syncs = upload.syncs(directory)
        assert any(sync.began > max(changes, default=-1) and sync.ended < answer for sync in syncs), directory


def _makes_entry_in(call: Call, directory: str) -> bool:
    """Does this mkdir, rename or link make an entry in the directory?"""
    return os.path.dirname(_places(call)[-1]) == directory


def _places(call: Call) -> list[str]:
    """The paths that a call names, which may be relative to a descriptor."""
    places = re.findall(r'<([^>]*)>(?:\(deleted\))?, "([^"]*)"', call.arguments) or [
        ("", name) for name in re.findall(r'"([^"]*)"', call.arguments)
    ]
    return [os.path.join(base, name).rstrip("/") for base, name in places]


def test_the_leaf_is_synced_after_the_final_name_is_in_it(upload: Upload) -> None:
    for call in upload.names():
        syncs = [
            sync
            for directory in upload.parents()
            if _makes_entry_in(call, directory)
            for sync in upload.syncs(directory)
        ]
        assert any(call.ended < sync.began and sync.ended < upload.answer().began for sync in syncs)


def _mark(temporary: str) -> str:
    """What only a call about this temporary has in it: one without a name has a number, as those of other storages."""
    _, name = os.path.split(temporary)
    return f"<{temporary}>" if name.startswith("#") else name


def test_nothing_of_the_upload_is_changed_after_its_answer(upload: Upload) -> None:
    changing = ("rename", "link", "mkdir", "unlink", "fsync", "fdatasync")
    late = [call for call in upload.calls if call.name.startswith(changing) and call.began > upload.answer().ended]
    own = [upload.final, *(_mark(call.path) for call in upload.temporaries().values())]
    ours = own if upload.is_together() else map(str, upload.pair)  # others may still be at work

    assert [call for call in late for our in ours if our in call.arguments] == []
