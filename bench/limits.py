"""What this machine can do at best, without any server: durable writes of small files to two directories.

    python -m bench.limits group|flat|each COUNT SIZE DIRECTORY DIRECTORY

`group`: 32 files at a time are written without a name, flushed by one syncfs, linked into the tree that replicas lie
in, and flushed by another. `flat`: the same without the tree, which takes two new directories for nearly every file.
`each`: a pool of 32 threads writes each file under a temporary name, with an fsync of the file and one of its
directory; no tree either. Nothing is received, hashed or compared. Prints the seconds that it took.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from pathlib import Path

from bench.blobs import path_of
from bench.samples import Sample

_AT_ONCE = 32
_libc = ctypes.CDLL(None, use_errno=True)


def durable(way: str, directories: Sequence[Path], *, count: int, size: int) -> Sample:
    """Run a script in a process of its own."""
    command = [sys.executable, "-m", __name__, way, str(count), str(size), *map(str, directories)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Sample(requests=count, seconds=float(done.stdout), sent=count * size)


def _group(count: int, body: bytes, directories: Sequence[str], *, flat: bool = False) -> None:
    descriptors = [os.open(directory, os.O_RDONLY) for directory in directories]
    filesystems = list({os.fstat(fd).st_dev: fd for fd in descriptors}.values())
    for _ in range(0, count, _AT_ONCE):
        names = [secrets.token_hex(32) for _ in range(_AT_ONCE)]
        files = [[(_unnamed(directory, body), name) for name in names] for directory in directories]
        _sync(filesystems)
        for directory, written in zip(descriptors, files, strict=True):
            for file, name in written:
                _link(file, name if flat else path_of(name), directory)
        _sync(filesystems)


def _link(file: int, path: str, directory: int) -> None:
    try:
        os.link(f"/proc/self/fd/{file}", path, dst_dir_fd=directory)
    except FileNotFoundError:
        parents = list(accumulate(path.split("/")[:-1], lambda above, name: f"{above}/{name}"))
        for parent in parents:
            with contextlib.suppress(FileExistsError):
                os.mkdir(parent, dir_fd=directory)
        os.link(f"/proc/self/fd/{file}", path, dst_dir_fd=directory)
    os.close(file)


def _unnamed(directory: str, body: bytes) -> int:
    fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY, 0o644)
    os.write(fd, body)
    return fd


def _sync(filesystems: Sequence[int]) -> None:
    for fd in filesystems:
        if _libc.syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs failed")


def _each(count: int, body: bytes, directories: Sequence[str]) -> None:
    descriptors = [os.open(directory, os.O_RDONLY) for directory in directories]

    def store(_: int) -> None:
        name = secrets.token_hex(16)
        for directory in descriptors:
            fd = os.open(f"{name}.new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=directory)
            os.write(fd, body)
            os.fsync(fd)
            os.close(fd)
            os.rename(f"{name}.new", name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(store, range(count)))


_WAYS: Mapping[str, Callable[[int, bytes, Sequence[str]], None]] = {
    "group": _group,
    "flat": partial(_group, flat=True),
    "each": _each,
}


def main() -> None:
    """Run one of them, as the command line says."""
    way, count, size, *directories = sys.argv[1:]
    body = os.urandom(int(size))
    began = time.perf_counter()
    _WAYS[way](int(count), body, directories)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main()
