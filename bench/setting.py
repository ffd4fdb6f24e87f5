"""What every section of the comparison needs: where files go, how long runs take, and who takes part."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import peers
from bench.comparing import Run, compare, run_of
from bench.load import Requests
from bench.peers import Peer, Weed, find
from bench.samples import Comparison, Target
from tests.support import needs

_EXT4 = ("mkfs.ext4", "-q", "-i", "8192", "-E", "lazy_itable_init=0")

PEERS: tuple[str, ...] = ("nginx", "caddy", "rclone", "weed")


@dataclass(slots=True)
class Setting:
    """One directory, in which everything is made and nothing stays."""

    directory: Path
    rounds: int = 5
    seconds: int = 2
    workers: int = 2
    connections: tuple[int, ...] = (1, 32, 128)
    many: int = 100_000
    """Blobs that the larger of two stores has when growth is measured."""
    wanted: tuple[str, ...] = PEERS
    left_out: list[str] = field(default_factory=list)
    """Lines: what was not measured, and why."""

    def has(self, peer: str) -> bool:
        """Tell whether a peer takes part; one that is not installed is noted."""
        if peer not in self.wanted:
            return False
        there = find(peer) is not None
        line = f"{peer}: not installed"
        if not there and line not in self.left_out:
            self.left_out.append(line)
        return there

    @contextlib.contextmanager
    def room(self, at: Path | None = None) -> Iterator[Path]:
        """Make a directory that is removed afterwards."""
        made = Path(tempfile.mkdtemp(dir=at or self.directory))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    @contextlib.contextmanager
    def others(self, room: Path, storage: Path) -> Iterator[tuple[list[Peer], Weed | None]]:
        """Start those that serve the files of a storage, and SeaweedFS, which is to be filled."""
        (storage / "put").mkdir()  # where uploads go; rclone makes no directories
        with contextlib.ExitStack() as running:
            found: list[Peer] = []
            if self.has("nginx"):
                found.append(running.enter_context(peers.nginx(room, storage, self.workers)))
            if self.has("caddy"):
                found.append(running.enter_context(peers.caddy(room, storage)))
            if self.has("rclone"):
                found.append(running.enter_context(peers.rclone(room, storage)))
            weed = running.enter_context(peers.seaweed(room)) if self.has("weed") else None
            yield [*found, *((weed.volume, weed.filer) if weed else ())], weed

    def compare(
        self,
        work: str,
        taking_part: Sequence[Peer],
        requests: Callable[[Peer], Requests],
        *,
        connections: int,
        targets: tuple[Target, ...] = (),
        by_bytes: bool = False,
        beside: Mapping[str, Run] | None = None,
    ) -> Comparison:
        """Compare the first of the servers with the others, and with runs that are no servers."""
        runs: dict[str, Run] = {
            peer.name: run_of(
                peer, partial(requests, peer), connections=connections, seconds=self.seconds, directory=self.directory
            )
            for peer in taking_part
        }
        return self.compare_runs(work, {**runs, **(beside or {})}, targets=targets, by_bytes=by_bytes)

    def compare_runs(
        self, work: str, runs: Mapping[str, Run], *, targets: tuple[Target, ...] = (), by_bytes: bool = False
    ) -> Comparison:
        """Compare the first with the others."""
        comparison = Comparison(work, subject=next(iter(runs)), by_bytes=by_bytes)
        compare(comparison, runs, self.rounds)
        comparison.targets = tuple(target for target in targets if target.peer in comparison.rounds)
        self.left_out += [f"{work}, {name}: {reason}" for name, reason in comparison.failures.items()]
        return comparison

    @contextlib.contextmanager
    def fresh(self, *, journal: bool = False, megabytes: int = 6000) -> Iterator[tuple[Path, str]]:
        """Make an ext4 on which nothing was ever removed, and name it; without root, a directory as any other.

        Whenever ext4 without a journal makes a file, it looks at all inodes that were freed in the last minutes
        (`recently_deleted` in Linux' fs/ext4/ialloc.c): what earlier runs removed would be measured.
        """
        words = () if journal else ("-O", "^has_journal")
        with self.image(*_EXT4, *words, megabytes=megabytes) as point:
            if point is not None:
                yield point, "ext4" if journal else "ext4 without a journal"
            else:
                with self.room() as room:
                    yield room, filesystem_of(room)

    @contextlib.contextmanager
    def image(self, *mkfs: str, megabytes: int = 6000) -> Iterator[Path | None]:
        """Mount a filesystem of its own from an image; None, and a line, where that is not possible."""
        program = needs.find(mkfs[0])
        if os.geteuid() != 0 or program is None:
            self.left_out.append(f"a filesystem made by {' '.join(mkfs)}: needs root, and that program")
            yield None
            return
        with self.room() as room:
            image, point = room / "image", room / "mount"
            point.mkdir()
            subprocess.run(["fallocate", "-l", f"{megabytes}M", image], check=True)  # its blocks are its own already
            subprocess.run([program, *mkfs[1:], image], check=True, capture_output=True)
            with _loop(image) as device:
                subprocess.run(["mount", device, point], check=True)
                try:
                    yield point
                finally:
                    subprocess.run(["umount", "-l", point], check=True)


@contextlib.contextmanager
def _loop(image: Path) -> Iterator[str]:
    """Make a disk of a file; what is written goes to the file's disk, and not into the page cache once more."""
    words = ["losetup", "--find", "--show", "--direct-io=on", str(image)]
    device = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)  # when nobody uses it any more


def clean_up_when_ended() -> None:
    """Let SIGTERM end this process as an exception does: servers are stopped, files removed, images unmounted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def pair_in(room: Path, name: str = "pair") -> list[Path]:
    """Make two storages that keep the same."""
    pair = [room / name / side for side in "ab"]
    for storage in pair:
        storage.mkdir(parents=True)
    return pair


def filesystem_of(directory: Path) -> str:
    """Name the filesystem that a directory is on, as `xfs` or `ext4 without a journal`."""
    done = subprocess.run(["stat", "-f", "-c", "%T", directory], check=True, capture_output=True, text=True)
    name = done.stdout.strip().replace("ext2/ext3", "ext4")
    device = Path(f"/sys/dev/block/{_device(directory)}").resolve().name
    journal = any(Path("/proc/fs/jbd2").glob(f"{device}-*")) or not Path("/proc/fs/ext4", device).is_dir()
    return name if name != "ext4" or journal else "ext4 without a journal"


def _device(directory: Path) -> str:
    number = directory.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"
