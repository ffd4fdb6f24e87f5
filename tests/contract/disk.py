"""The disk as the contract describes it: `STORAGE/AA/BB/CC/<64 UPPERCASE HEX>.dat`, seen without the service."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

Pair: TypeAlias = tuple[Path, ...]
Damage: TypeAlias = Callable[[Path], bytes | None]
"""Spoils the replica at a path; gives the spoilt bytes, or None when no bytes are left there."""

_FINAL_NAME: Final = f"{'[0-9A-F]' * 2}/{'[0-9A-F]' * 2}/{'[0-9A-F]' * 2}/{'[0-9A-F]' * 64}.dat"

OLD: Final = 1_234_567_890.0
"""A modification time of long ago, 13 February 2009 23:31:30 GMT."""


def sha(content: bytes) -> str:
    """The name of a blob, in lower case."""
    return hashlib.sha256(content).hexdigest()


def fresh(size: int = 100) -> bytes:
    """Bytes that nobody has stored before."""
    return secrets.token_bytes(size)


def replica(storage: Path, digest: str) -> Path:
    """Where the replica of a blob lies on a storage."""
    name = digest.upper()
    return storage / name[:2] / name[2:4] / name[4:6] / f"{name}.dat"


def key_of(content: bytes) -> str:
    """What a blob is called in the archive."""
    digest = sha(content)
    return f"{digest[:2]}/{digest[2:4]}/{digest[4:6]}/{digest}"


def place(storage: Path, content: bytes, modified: float = OLD) -> Path:
    """Put a replica there by hand, as the original left it: mode 0644, an old time."""
    path = replica(storage, sha(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)
    os.utime(path, (modified, modified))
    return path


def place_on(pair: Pair, content: bytes, modified: float = OLD) -> list[Path]:
    """Put a replica on every storage of a pair by hand."""
    return [place(storage, content, modified) for storage in pair]


def files(storages: Iterable[Path]) -> set[Path]:
    """Every file, link and the like below the storages, whatever its name."""
    return {Path(top, name) for storage in storages for top, _, names in os.walk(storage) for name in names}


def news(storages: Iterable[Path], before: set[Path]) -> set[Path]:
    """Files that were not there before, but for what the service does by itself about blobs that were.

    It makes incomplete blobs whole, notes them meanwhile, and keeps what was bad.
    """
    known = {path.name for path in before}
    return {path for path in files(storages) - before if not (path.name in known or _is_of_repair(path))}


def _is_of_repair(path: Path) -> bool:
    return path.parent.parent.name == ".stor" and path.parent.name in ("quarantine", "repair")


def blobs(storages: Iterable[Path]) -> set[Path]:
    """Every file under a final name, as the original would find it."""
    return {path for storage in storages for path in storage.glob(_FINAL_NAME)}


def is_whole(path: Path, content: bytes) -> bool:
    """Is this a regular file with exactly these bytes?"""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and path.read_bytes() == content
    except OSError:
        return False


def kept(storage: Path, content: bytes) -> bool:
    """Does any file below the storage have exactly these bytes?"""
    return any(is_whole(path, content) for path in files([storage]))


def settles(wanted: Callable[[], bool], within: float = 10.0) -> bool:
    """Wait until something is so, for things that the service does after its answer; False when time is up."""
    deadline = time.monotonic() + within
    while not wanted():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def missing(path: Path) -> None:
    """Lose the replica."""
    path.unlink()


def truncated(path: Path) -> bytes:
    """Leave the first half, under the old time."""
    return _rewrite(path, path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> bytes:
    """Leave nothing, as a file that was never flushed comes back after a power cut."""
    return _rewrite(path, b"")


def flipped(path: Path) -> bytes:
    """Bit rot: one bit in the middle is another, size and times are the old ones."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    return _rewrite(path, bytes(content))


def lengthened(path: Path) -> bytes:
    """Append a byte, under the old time."""
    return _rewrite(path, path.read_bytes() + b"!")


def a_directory(path: Path) -> None:
    """Put a directory in its place, which root cannot read either."""
    path.unlink()
    path.mkdir()


def a_dangling_link(path: Path) -> None:
    """Put a symbolic link to nowhere in its place."""
    path.unlink()
    path.symlink_to("nowhere")


def a_looping_link(path: Path) -> None:
    """Put a symbolic link to itself in its place: open fails, and not with "no such file"."""
    path.unlink()
    path.symlink_to(path.name)


@contextmanager
def a_failing_branch(storage: Path, digest: str) -> Iterator[None]:
    """Make the storage fail for a blob: `AA` is a symbolic link to itself, so that every open below it is ELOOP."""
    branch = storage / digest[:2].upper()
    away = branch.with_name(f"{branch.name}.away")
    if branch.exists():
        branch.rename(away)
    branch.symlink_to(branch.name)
    try:
        yield
    finally:
        branch.unlink()
        if away.exists():
            away.rename(branch)


def _rewrite(path: Path, content: bytes) -> bytes:
    before = path.stat()
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return content
