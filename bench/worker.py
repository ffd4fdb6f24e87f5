"""One worker of Stor, alone in its process, for tools that look at a process: `python -m bench.worker CONFIG PORT`.

No supervisor, no storage that is taken for slow, as all are under such a tool, and no openat2 where it does not know
that system call: an open takes its place that does the same in nearly the same steps.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

from pystor import bulkhead, config, main, maintenance, posix
from pystor.http import server
from pystor.http.supervisor import STOPPING


def _open(path: bytes, how: posix.How) -> int:
    try:
        return os.open(path, posix.READ | (0 if how is posix.PLAINLY else os.O_NOATIME))
    except OSError as error:
        return -(error.errno or 1)


def serve(file: Path, port: int) -> None:
    """Serve as a worker does, until SIGTERM."""
    settings, _ = config.load(file)
    maintenance.prepare(settings)
    bulkhead._SLOW = math.inf  # type: ignore[misc]  # noqa: SLF001  slow ones are asked in another way
    if posix.open_cached(os.fsencode(file), posix.PLAINLY) < 0:
        posix.open_cached = _open
    ours, theirs = multiprocessing.Pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    with tempfile.TemporaryDirectory() as shared, server.listen("127.0.0.1", port) as listener, ours:
        build = partial(main.build, settings, shared)
        server.Task(build, listener, main.limits(settings), settings.shutdown_timeout, settled=False).run(theirs, 0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
