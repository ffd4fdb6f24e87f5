"""Disks that lose their power: what was not synced is gone when they come back.

Real filesystems keep more than they have to: a journal takes the neighbours of what is synced along. So there is also a
disk that keeps exactly what it has to, file by file and directory by directory, and nothing else.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias

from tests.support import needs, processes
from tests.support.fuse import FaultyStorage
from tests.support.mounts import make_image

Kind: TypeAlias = Literal["ext4", "xfs", "strict"]

_BYTES: Final = 2 << 30  # sparse; ten rounds of uploads have to fit, however fast the machine is


class Disk(Protocol):
    """A mounted filesystem whose power can be cut."""

    point: Path

    def cut(self) -> None:
        """Lose everything that is in memory only. Nothing works any more until `restore`."""
        ...

    def restore(self) -> None:
        """Mount it again, after all who used it have ended."""
        ...

    def close(self) -> None:
        """Take it away."""
        ...


def disk(kind: Kind, directory: Path) -> Disk:
    """Make an empty disk below a directory, and mount it."""
    directory.mkdir(parents=True)
    return StrictDisk(directory) if kind == "strict" else LoopDisk(kind, directory)


class LoopDisk:
    """A real filesystem in an image. Its power is cut by shutting it down without flushing its journal."""

    def __init__(self, kind: Literal["ext4", "xfs"], directory: Path) -> None:
        needs.root("mount filesystems")
        needs.tool("xfs_io", "losetup")
        self.point = directory / "point"
        self.point.mkdir()
        self._kind = kind
        image = directory / "image"
        make_image(image, kind, _BYTES)
        # A device that outlives the mount: what comes back is what the device had.
        self._device = _run("losetup", "--find", "--show", str(image)).strip()
        self.mount()

    def mount(self) -> None:
        """Mount it: with all that the device has, or with all there is if somebody still uses it."""
        _run("mount", "-t", self._kind, self._device, str(self.point))

    def cut(self) -> None:
        _run("xfs_io", "-x", "-c", "shutdown", str(self.point))

    def restore(self) -> None:
        processes.eventually(self._unmount, what=f"{self.point} is busy")
        # Another test's own view of the mounts keeps what was mounted when it was made; what is kept stays shut down.
        processes.eventually(self._is_let_go, within=60, what=f"{self._device} is still mounted somewhere")
        self.mount()

    def unmount_lazily(self) -> None:
        """Take it away from under whoever uses it."""
        _run("umount", "-l", str(self.point))

    def _unmount(self) -> bool:
        return subprocess.run(["umount", str(self.point)], check=False, capture_output=True).returncode == 0

    def _is_let_go(self) -> bool:
        try:
            os.close(os.open(self._device, os.O_RDONLY | os.O_EXCL))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.point)], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", self._device], check=False, capture_output=True)


class StrictDisk:
    """A disk that keeps a file's bytes if the file was synced, and a name if its directory was, and nothing else."""

    def __init__(self, directory: Path) -> None:
        self.storage = FaultyStorage(directory, strict=True)
        self.point = self.storage.point

    def cut(self) -> None:
        self.storage.die()

    def restore(self) -> None:
        source, synced = self.storage.source, self.storage.synced
        assert synced is not None
        self.storage.unmount()
        restored = source.with_name("restored")
        _rebuild(source.stat().st_ino, restored, synced)
        shutil.rmtree(source)
        shutil.rmtree(synced)
        restored.rename(source)
        synced.mkdir()
        self.storage.mount()

    def close(self) -> None:
        self.storage.close()


def _rebuild(inode: int, directory: Path, synced: Path) -> None:
    """Make a directory of what was synced of it: its names, and behind each what was synced of that."""
    directory.mkdir()
    noted = synced / f"d{inode}"
    names: dict[str, tuple[int, bool]] = json.loads(noted.read_bytes()) if noted.exists() else {}
    for name, (child, is_directory) in names.items():
        if is_directory:
            _rebuild(child, directory / name, synced)
        else:
            content = synced / f"f{child}"
            (directory / name).write_bytes(content.read_bytes() if content.exists() else b"")


def _run(program: str, *arguments: str) -> str:
    done = subprocess.run([needs.find(program) or program, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stderr}"
    return done.stdout
