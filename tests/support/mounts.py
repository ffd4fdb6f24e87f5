"""Filesystems of our own: small enough to fill, real enough to trust."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from tests.support import needs
from tests.support.fuse import FaultyStorage


def make_image(image: Path, kind: str, size: int) -> None:
    """Make a filesystem in a sparse file of `size` bytes; of ext4 nothing is kept back for root."""
    needs.tool(f"mkfs.{kind}")
    with image.open("wb") as file:
        file.truncate(size)
    options = ["-q", "-m0"] if kind == "ext4" else ["-q"]
    subprocess.run([needs.find(f"mkfs.{kind}") or "", *options, str(image)], check=True, capture_output=True)


class Mounts:
    """Mounts filesystems below a directory, and takes all of them away at the end."""

    def __init__(self, directory: Path) -> None:
        needs.root("mount filesystems")
        self._directory = directory
        self._cleanup = contextlib.ExitStack()
        self._count = 0

    def tmpfs(self, size: int, inodes: int = 0, *, at: Path | None = None) -> Path:
        """Mount a filesystem in memory with room for `size` bytes and `inodes` inodes (0: no limit)."""
        return self._mount(at, "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "stor-test")

    def ext4(self, size: int = 32 << 20, *, at: Path | None = None, options: str = "defaults") -> Path:
        """Mount an ext4 image of `size` bytes, sparse, on a loop device."""
        return self._image("ext4", size, at, options)

    def xfs(self, size: int = 320 << 20, *, at: Path | None = None, options: str = "defaults") -> Path:
        """Mount an xfs image of `size` bytes, sparse, on a loop device; 320 MiB is the least xfs takes."""
        return self._image("xfs", size, at, options)

    def btrfs(self, size: int = 256 << 20) -> Path:
        """Mount a btrfs image of `size` bytes, sparse, on a loop device."""
        return self._image("btrfs", size, None, "defaults")

    def ext4_on(self, faulty: FaultyStorage, options: str) -> Path:
        """Mount an ext4 image that lies on a storage with faults: a disk of this machine that has them."""
        image = faulty.source / f"{self._next()}.ext4"
        make_image(image, "ext4", 256 << 20)
        return self.loop(faulty.point / image.name, options)

    def loop(self, image: Path, options: str = "defaults") -> Path:
        """Mount an image that there is; it is taken away before what was mounted earlier."""
        return self._mount(None, "-o", f"loop,{options}", str(image))

    def bind(self, directory: Path, *, at: Path | None = None) -> Path:
        """Mount what a directory has at a second place."""
        return self._mount(at, "--bind", str(directory))

    def remount(self, point: Path, options: str) -> None:
        """Change the options of a filesystem that is mounted."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(point)], check=True, capture_output=True)

    def mount_again(self, point: Path) -> None:
        """Take the filesystem of a loop device away, which nobody uses, and mount the same device there again."""
        number = point.stat().st_dev
        device = Path("/dev", os.path.basename(os.readlink(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")))
        with device.open("rb"):  # so that the image does not get another device
            subprocess.run(["umount", point], check=True, capture_output=True)
            subprocess.run(["mount", device, point], check=True, capture_output=True)

    def unmount(self, point: Path) -> None:
        """Take a filesystem away, lazily: what is open stays usable. A second time does nothing."""
        subprocess.run(["umount", "-l", str(point)], check=False, capture_output=True)

    def close(self) -> None:
        """Take everything away."""
        self._cleanup.close()

    def _image(self, kind: str, size: int, at: Path | None, options: str) -> Path:
        image = self._directory / f"{self._next()}.{kind}"
        make_image(image, kind, size)
        self._cleanup.callback(image.unlink)
        return self._mount(at, "-t", kind, "-o", f"loop,{options}", str(image))

    def _mount(self, at: Path | None, *arguments: str) -> Path:
        point = at or self._directory / f"mount{self._next()}"
        point.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", *arguments, str(point)], check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"mount {' '.join(arguments)}: {done.stderr}"
        self._cleanup.callback(self.unmount, point)
        return point

    def _next(self) -> int:
        self._count += 1
        return self._count
