"""A mutant: with this directory in PYTHONPATH, a process leaves out one kind of fsync that Stor relies on.

Which one is in STOR_TEST_WITHOUT_FSYNC: of `files`, of all `directories`, of the `leaves` in which blobs lie, or of
the `parents` above them.
"""

import os
import re
import stat

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


os.fsync = fsync  # type: ignore[assignment]  # whatever else it takes, Stor gives it a number
