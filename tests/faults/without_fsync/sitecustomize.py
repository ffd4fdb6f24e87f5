"""A mutant: with this directory in PYTHONPATH, a process leaves out one kind of sync that Stor relies on.

Which one is in STOR_TEST_WITHOUT_FSYNC. Of the uploads that sync for themselves (all do so then): the fsync of
`files`, of all `directories`, of the `leaves` in which blobs lie, or of the `parents` above them. Of those that are
synced together: the `first`, before they get their names, or the `second`, after it. A sync after which a name stands
for nothing takes its time, so that there is a time in which the power can fail: whoever syncs a file of his own brings
the names to the disk meanwhile, and nothing of what is behind them.
"""

import os
import re
import stat
import time

from pystor import commit
from pystor.blob import Filesystem
from pystor.bulkhead import Bulkhead
from pystor.steps import Step

_fsync = os.fsync
_left_out = os.environ.get("STOR_TEST_WITHOUT_FSYNC", "")
_LEAF = re.compile(r"(/[0-9A-F]{2}){3}$")


def _kind(fd: int) -> set[str]:
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return {"files"}
    leaf = _LEAF.search(os.readlink(f"/proc/self/fd/{fd}"))
    return {"directories", "leaves" if leaf else "parents"}


def fsync(fd: int) -> None:
    """Sync, or pretend to."""
    if _left_out not in _kind(fd):
        _fsync(fd)


_commit = Bulkhead.commit
_begun: set[Filesystem] = set()


class _Pretended(Step[None]):
    async def result(self) -> None:
        pass

    def abandon(self) -> None:
        pass


def commit_one(self: Bulkhead, filesystem: Filesystem, uploads: int = 1) -> Step[None]:
    """Sync together with others, or pretend to."""
    which = "second" if filesystem in _begun else "first"
    _begun.symmetric_difference_update({filesystem})
    return _Pretended() if which == _left_out else _commit(self, filesystem, uploads)


_sync = commit._sync


def sync_late(fd: int) -> None:
    """Sync a filesystem as a slow disk does."""
    time.sleep(0.1)
    _sync(fd)


if _left_out in ("first", "second"):
    Bulkhead.commit = commit_one  # type: ignore[method-assign]
    if _left_out == "first":
        commit._sync = sync_late
else:
    os.fsync = fsync  # type: ignore[assignment]  # whatever else it takes, Stor gives it a number
    commit.is_told = lambda kind, release=None: False  # noqa: ARG005
