"""A filesystem that obeys: what a directory has, with the faults that a test wants, by operation and by path.

Run as a program, this module is the filesystem. It reads its faults from a control file, again whenever that changes;
so a test breaks and heals a storage without touching it, and a test that hangs cannot hang here.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from tests.support import needs, processes

_ROOT: Final = Path(__file__).parents[2]
_THREADS: Final = 48  # as many operations may hang at once
_STOP_SECONDS: Final = 10.0

Times: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and where: in `operations` (none: in all), below paths in which `path` is found.

    Operations have the names that FUSE gives them; `getattr` is a look-up too. Of several faults the first counts.
    """

    operations: tuple[str, ...] = ()
    path: str = ""
    inode: int = 0
    """The one file that is concerned, as bad sectors are of one file; 0: any."""
    error: str = ""
    """The name of the errno that the operation fails with."""
    hang: bool = False
    """Whether it does not come back before the fault is taken away."""
    delay: float = 0.0
    """Seconds that it takes longer."""
    start: int = 0
    """Reads and writes that end before this offset are spared."""
    short: int = 0
    """Bytes that a write takes at most; 0: all."""
    flip: bool = False
    """Whether one bit of what is read or written is another."""


EVERYTHING_HANGS: Final = Fault(hang=True)


class FaultyStorage:
    """A directory `source`, seen at `point` with faults. `source` is always there to be looked at by a test."""

    def __init__(self, directory: Path, *, strict: bool = False) -> None:
        """Mount a filesystem below `directory`; `strict`: note what was synced, see `tests.support.power`."""
        needs.root("mount filesystems")
        needs.tool("fusermount3")
        if importlib.util.find_spec("mfusepy") is None:
            pytest.skip("needs mfusepy; `make test` installs it")
        self.source, self.point = directory / "source", directory / "point"
        self.synced = directory / "synced" if strict else None
        self._control = directory / "faults.json"
        self._calls = directory / "calls"
        for needed in (self.source, self.point, *filter(None, [self.synced])):
            needed.mkdir(parents=True, exist_ok=True)
        self._daemon: subprocess.Popen[bytes] | None = None
        self.mount()

    def mount(self) -> None:
        """Start the filesystem, healthy."""
        self.heal()
        self._calls.touch()
        words = [self.source, self.point, self._control, self._calls, *filter(None, [self.synced])]
        with self._control.with_name("messages").open("ab") as messages:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", __name__, *map(str, words)],
                stdin=subprocess.DEVNULL,
                stderr=messages,
                cwd=_ROOT,
                env=processes.unmeasured(),
                preexec_fn=processes.end_with_the_tests,  # noqa: PLW1509  one call of the kernel, no lock
            )
        processes.eventually(self._is_mounted, what=f"{self.point} is not mounted")

    def _is_mounted(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.poll() is None, f"the filesystem at {self.point} ended"
        table = Path("/proc/self/mountinfo").read_text()  # a stat of the point might hang
        return any(line.split()[4] == str(self.point) for line in table.splitlines())

    def fail(self, *faults: Fault) -> None:
        """Have exactly these faults from now on."""
        new = self._control.with_suffix(".new")
        new.write_text(json.dumps([asdict(fault) for fault in faults]))
        new.replace(self._control)

    def heal(self) -> None:
        """Take all faults away; what hung goes on."""
        self.fail()

    @contextlib.contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        """Have these faults in a block."""
        self.fail(*faults)
        try:
            yield
        finally:
            self.heal()

    def calls(self, operation: str) -> Counter[str]:
        """How often an operation (`fsync`, `fsyncdir`, `rename`) was called for each path."""
        lines = (line.split(" ", 1) for line in self._calls.read_text().splitlines())
        return Counter(path for name, path in lines if name == operation)

    def die(self) -> None:
        """End the filesystem as a crash does: every operation fails with ENOTCONN until it is mounted again."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait(_STOP_SECONDS)
            self._daemon = None

    def close(self) -> None:
        """Heal, so that nobody waits any more, and take everything away."""
        self.heal()
        self.unmount()
        self.die()

    def unmount(self) -> None:
        """Take the mount away, lazily."""
        subprocess.run(["umount", "-l", str(self.point)], check=False, capture_output=True)


# The filesystem


class PassThrough:
    """The operations of a directory. Names and arguments are those that mfusepy wants."""

    use_ns = True
    flag_nopath = True  # open files may have lost their names
    flag_nullpath_ok = True

    def __init__(self, source: str, control: str, calls: str, synced: str | None) -> None:
        self._source: Final = source
        self._control: Final = control
        self._calls: Final = os.open(calls, os.O_WRONLY | os.O_APPEND)
        self._synced: Final = None if synced is None else Path(synced)
        self._version: object = None
        self._faults: list[Fault] = []
        self._paths: Final[dict[int, str]] = {}
        if self._synced is not None:
            for top, _, names in os.walk(source):
                self._keep_directory(top)
                for name in names:
                    self._keep_file(os.path.join(top, name))

    # Faults

    def _fault(self, operation: str, path: str | None, end: int = 0, fh: int | None = None) -> Fault:
        """Wait, fail or pass, as the control file says; returns the fault for whoever has to do more about it."""
        while (fault := self._first(operation, path, end, fh)).hang:
            time.sleep(0.02)
        time.sleep(fault.delay)
        if fault.error:
            raise OSError(getattr(errno, fault.error), os.strerror(getattr(errno, fault.error)))
        return fault

    def _first(self, operation: str, path: str | None, end: int, fh: int | None) -> Fault:
        for fault in self._current():
            concerned = not fault.operations or operation in fault.operations
            if concerned and end >= fault.start and re.search(fault.path, path or "") and self._is(fault, path, fh):
                return fault
        return Fault()

    def _is(self, fault: Fault, path: str | None, fh: int | None) -> bool:
        if not fault.inode:
            return True
        try:
            info = os.fstat(fh) if fh is not None else os.lstat(f"{self._source}{path}")
        except OSError:
            return False
        return info.st_ino == fault.inode

    def _current(self) -> list[Fault]:
        info = os.stat(self._control)
        if (version := (info.st_ino, info.st_mtime_ns)) != self._version:
            with open(self._control, encoding="utf-8") as file:
                self._faults = [Fault(**values) for values in json.load(file)]
            self._version = version
        return self._faults

    def _note(self, operation: str, path: str) -> None:
        os.write(self._calls, f"{operation} {path}\n".encode())

    def _at(self, operation: str, path: str) -> str:
        self._fault(operation, path)
        return self._source + path

    # By name

    def getattr(self, path: str | None, fh: int | None = None) -> dict[str, Any]:
        known = self._paths.get(fh) if fh is not None else None
        self._fault("getattr", path or known)
        info = os.fstat(fh) if known is not None and fh is not None else os.lstat(f"{self._source}{path}")
        names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_blksize")
        times = {name: getattr(info, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
        return {**{name: getattr(info, name) for name in names}, **times}

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at("mkdir", path), mode)

    def rmdir(self, path: str) -> None:
        target = self._at("rmdir", path)
        self._forget(target)
        os.rmdir(target)

    def unlink(self, path: str) -> None:
        target = self._at("unlink", path)
        self._forget(target)
        os.unlink(target)

    def rename(self, old: str, new: str) -> None:
        self._note("rename", new)
        self._fault("rename", new)
        self._forget(self._source + new)
        os.rename(self._source + old, self._source + new)

    def link(self, target: str, source: str) -> None:
        os.link(self._source + source, self._at("link", target), follow_symlinks=False)

    def symlink(self, target: str, source: str) -> None:
        os.symlink(source, self._at("symlink", target))

    def readlink(self, path: str) -> str:
        return os.readlink(self._at("readlink", path))

    def chmod(self, path: str | None, mode: int) -> None:
        if path is not None:
            os.chmod(self._at("chmod", path), mode)

    def chown(self, path: str | None, uid: int, gid: int) -> None:
        if path is not None:
            os.chown(self._at("chown", path), uid, gid)

    def utimens(self, path: str | None, times: Times | None = None) -> None:
        if path is not None:
            os.utime(self._at("utimens", path), ns=times or (time.time_ns(), time.time_ns()))

    def statfs(self, path: str) -> dict[str, int]:
        info = os.statvfs(self._at("statfs", path))
        names = (
            "f_bavail",
            "f_bfree",
            "f_blocks",
            "f_bsize",
            "f_favail",
            "f_ffree",
            "f_files",
            "f_frsize",
            "f_namemax",
        )
        return {name: getattr(info, name) for name in names}

    # Open files and directories

    def create(self, path: str, mode: int, flags: int) -> int:
        return self._opened(os.open(self._at("create", path), flags | os.O_CREAT | os.O_CLOEXEC, mode), path)

    def open(self, path: str, flags: int) -> int:
        return self._opened(os.open(self._at("open", path), flags | os.O_CLOEXEC), path)

    def opendir(self, path: str) -> int:
        return self._opened(os.open(self._at("opendir", path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path)

    def _opened(self, fd: int, path: str) -> int:
        self._paths[fd] = path
        return fd

    def release(self, _: str | None, fh: int) -> None:
        self._paths.pop(fh, None)
        os.close(fh)

    releasedir = release

    def readdir(self, _: str | None, fh: int) -> list[tuple[str, dict[str, int], int]]:
        with os.scandir(self._at("readdir", self._paths[fh])) as found:
            return [(name.name, {"st_ino": name.inode(), "st_mode": _kind(name)}, 0) for name in found]

    def read(self, _: str | None, size: int, offset: int, fh: int) -> bytes:
        fault = self._fault("read", self._paths[fh], offset + size, fh)
        return _flipped(os.pread(fh, size, offset), fault)

    def write(self, _: str | None, data: bytes, offset: int, fh: int) -> int:
        fault = self._fault("write", self._paths[fh], offset + len(data), fh)
        return os.pwrite(fh, _flipped(data[: fault.short or len(data)], fault), offset)

    def truncate(self, path: str | None, length: int) -> None:
        if path is not None:
            os.truncate(self._at("truncate", path), length)

    def fallocate(self, _: str | None, mode: int, offset: int, size: int, fh: int) -> None:
        self._fault("fallocate", self._paths[fh])
        if mode or offset + size < os.fstat(fh).st_size:
            raise OSError(errno.EOPNOTSUPP, "not offered")
        os.posix_fallocate(fh, offset, size)

    def flush(self, _: str | None, fh: int) -> None:
        self._fault("flush", self._paths[fh])

    def fsync(self, _: str | None, datasync: int, fh: int) -> None:
        path = self._paths[fh]
        self._note("fdatasync" if datasync else "fsync", path)
        self._fault("fsync", path)
        if self._synced is not None:
            self._keep_file(f"/proc/self/fd/{fh}")

    def fsyncdir(self, _: str | None, __: int, fh: int) -> None:
        path = self._paths[fh]
        self._note("fsyncdir", path)
        self._fault("fsyncdir", path)
        if self._synced is not None:
            self._keep_directory(self._source + path)

    # What would be there after a power cut: `synced/fINODE` is a file as it was synced, `synced/dINODE` the
    # names of a directory.

    def _keep_file(self, path: str) -> None:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            if info.st_nlink:
                self._keep(f"f{info.st_ino}", file.read())

    def _keep_directory(self, path: str) -> None:
        with os.scandir(path) as found:
            names = {name.name: (name.inode(), name.is_dir(follow_symlinks=False)) for name in found}
        self._keep(f"d{os.stat(path).st_ino}", json.dumps(names).encode())

    def _keep(self, name: str, content: bytes) -> None:
        assert self._synced is not None
        new = self._synced / f"{name}.{time.monotonic_ns()}"
        new.write_bytes(content)
        new.replace(self._synced / name)

    def _forget(self, path: str) -> None:
        """Forget a file that is about to be removed: its inode will be another's."""
        if self._synced is None:
            return
        with contextlib.suppress(FileNotFoundError):
            info = os.lstat(path)
            if info.st_nlink == 1 or stat.S_ISDIR(info.st_mode):
                kind = "d" if stat.S_ISDIR(info.st_mode) else "f"
                (self._synced / f"{kind}{info.st_ino}").unlink(missing_ok=True)


def _flipped(data: bytes, fault: Fault) -> bytes:
    return bytes([data[0] ^ 0x10]) + data[1:] if fault.flip and data else data


def _kind(name: os.DirEntry[str]) -> int:
    return stat.S_IFMT(name.stat(follow_symlinks=False).st_mode)


def main(source: str, point: str, control: str, calls: str, synced: str | None = None) -> None:
    """Be the filesystem, until it is unmounted."""
    import mfusepy  # type: ignore[import-untyped]

    os.umask(0)
    mfusepy.FUSE(
        PassThrough(source, control, calls, synced),
        point,
        foreground=True,
        max_threads=_THREADS,
        # Every operation comes here: nothing is answered from the kernel's memory.
        direct_io=True,
        use_ino=True,
        hard_remove=True,
        attr_timeout=0.0,
        entry_timeout=0.0,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
