"""A supervisor and its worker processes.

The supervisor starts the workers and waits: for a signal, for the end of a worker, for a worker that is silent.
A `Line` connects the two: the worker says that it is ready, and later that it takes no more connections, and answers
pings; when the line breaks, the supervisor is gone.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import connection, resource_tracker
from typing import Final, Self, TypeAlias

Line: TypeAlias = connection.Connection

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
"""The signals that end a server."""

RENEWING: Final = signal.SIGHUP
"""The signal that renews its workers, who take no notice of it: systemd and terminals may send it to all processes."""

PING_EVERY: Final = 1.0
SILENCE: Final = 30.0
"""Seconds without an answer after which a worker is replaced."""

START: Final = 4 * SILENCE
"""Seconds after which a worker that is not ready is replaced: one that hangs before it serves may answer."""

LOST_AFTER: Final = 2.0
"""Seconds after which a worker that was killed and has not ended is done without."""

RETRY_AFTER: Final = 1.0
"""Seconds between two attempts to start a worker while others serve."""

READY: Final = b"ready"
PARTED: Final = b"parted"
PING: Final = b"ping"

_spawn: Final = multiprocessing.get_context("spawn")  # forking would copy the locks of threads
_log: Final = logging.getLogger(__name__)


def tell(line: Line, word: bytes) -> None:
    """Say something; if nobody is there, whoever waits for an answer will find out."""
    with contextlib.suppress(OSError):
        line.send_bytes(word)


class Worker:
    """A worker process, as its supervisor sees it."""

    def __init__(self, target: Callable[[Line, int], None], number: int) -> None:
        """Start a process that calls `target`; `STOPPING` is held back until it listens, and `RENEWING` for good.

        `number` is the least that no other worker of its generation has.
        """
        self.number: Final = number
        self.line, theirs = _spawn.Pipe()
        self.ready = False
        self._parted = False
        self._begun: Final = time.monotonic()
        self._asked: float | None = None
        self._ask_at = 0.0
        self._kill_at: float | None = None
        self._killed_at: float | None = None
        self._process = _spawn.Process(target=target, args=(theirs, number), name="worker")
        with theirs, _blocked((*STOPPING, RENEWING)):
            self._process.start()

    @property
    def sentinel(self) -> int:
        """Readable when the process has ended."""
        return self._process.sentinel

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    @property
    def lost(self) -> bool:
        """Whether it was killed and does not end: a thread of it waits for a disk, and the kernel keeps it for that."""
        return self._killed_at is not None and time.monotonic() - self._killed_at > LOST_AFTER

    @property
    def parted(self) -> bool:
        """Whether it takes no more connections, or was killed."""
        return self._parted or self._killed_at is not None

    @property
    def stopping(self) -> bool:
        """Whether the worker was asked to stop."""
        return self._kill_at is not None

    def receive(self) -> None:
        """Take what the worker says."""
        with contextlib.suppress(OSError, EOFError):
            while self.line.poll():
                word = self.line.recv_bytes()
                self.ready = self.ready or word == READY
                self._parted = self._parted or word == PARTED
                self._asked = None

    def check(self, now: float) -> None:
        """Ask whether the worker is alive; kill it if it has not answered, or ended, in time."""
        if self._killed_at is not None:
            return
        if self._kill_at is not None:
            if now > self._kill_at:
                self.kill()
        elif not self.ready and now - self._begun > START:
            _log.error("worker %s was not ready within %g s and is replaced", self._process.pid, START)
            self.kill()
        elif self._asked is None:
            # The answer wakes the supervisor: without a pause the two would talk to each other all the time.
            if now >= self._ask_at:
                self._asked, self._ask_at = now, now + PING_EVERY
                tell(self.line, PING)
        elif now - self._asked > SILENCE:
            _log.error("worker %s does not answer and is replaced", self._process.pid)
            self.kill()

    def stop(self, grace: float) -> None:
        """Ask the worker to finish what is running within `grace` seconds; one that is not ready has nothing."""
        if self._kill_at is not None:
            return
        self._kill_at = time.monotonic() + grace
        if self.ready:
            self._process.terminate()
        else:
            self.kill()

    def kill(self) -> None:
        """End the worker now."""
        if self._killed_at is None:
            self._killed_at = time.monotonic()
            self._process.kill()

    def abandon(self) -> None:
        """Wait no more for its end, not even when this process ends."""
        _log.error("worker %s hangs in a disk and is left", self._process.pid)
        # multiprocessing waits at the exit for all that are in this set, and offers no other way to leave one out.
        multiprocessing.process._children.discard(self._process)  # type: ignore[attr-defined]  # noqa: SLF001

    def reap(self) -> str:
        """Release what is held for a worker that has ended; say how it ended."""
        self._process.join()
        told = f"worker {self._process.pid} ended with status {self._process.exitcode}"
        self._process.close()
        self.line.close()
        return told


class Signals:
    """Signals as something to wait for, next to other things."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers
        self._seen: Counter[int] = Counter()
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._note) for number in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._reader)
        os.close(self._writer)

    def _note(self, number: int, _: object) -> None:
        self._seen[number] += 1

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._reader

    def drain(self) -> None:
        """Make `fileno` wait for the next signal."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)

    def take(self, number: int) -> bool:
        """Whether the signal came since it was last taken."""
        return self._seen.pop(number, 0) > 0

    def count(self, *numbers: int) -> int:
        """How often the signals came."""
        return sum(self._seen[number] for number in numbers)


class Supervisor:
    """Keeps `count` workers running that call `target`; SIGHUP renews them without a pause.

    `on_ready` is called when the first one is ready. A worker that is stopped is killed after `grace` seconds.
    """

    def __init__(
        self, target: Callable[[Line, int], None], count: int, *, grace: float, on_ready: Callable[[], None]
    ) -> None:
        self._target = target
        self._count = count
        self._grace = grace
        self._on_ready: Callable[[], None] | None = on_ready
        self._workers: list[Worker] = []
        self._old: list[Worker] = []
        self._not_before = 0.0
        self._failed = False

    def run(self, on_stop: Callable[[], None]) -> int:
        """Run until a signal ends it, and end the workers; return 0, or 1 if none could be started.

        `on_stop` is called, perhaps more than once, when none of them takes connections any more.
        """
        with Signals(*STOPPING, RENEWING) as signals:
            with _blocked((RENEWING,)):
                resource_tracker.ensure_running()  # started with a worker, it would unblock what is held back there
            try:
                while not self._failed and not signals.count(*STOPPING):
                    self._keep(signals)
            finally:
                self._stop(signals, on_stop)
        return int(self._failed)

    def _keep(self, signals: Signals) -> None:
        if len(self._workers) < self._count and time.monotonic() >= self._not_before:
            self._start_worker()
            return
        self._wait(signals)
        for worker in [worker for worker in self._workers if worker.lost]:
            self._workers.remove(worker)
            self._old.append(worker)
        self._note_ready()
        # One generation at a time: a signal that comes while one starts is remembered, once.
        if self._is_complete() and signals.take(RENEWING):
            self._old, self._workers = self._old + self._workers, []

    def _start_worker(self) -> None:
        """Start a worker, or do so later if the system has no process to give now."""
        taken = {worker.number for worker in self._workers}
        try:
            self._workers.append(Worker(self._target, min(set(range(self._count)) - taken)))
        except OSError as error:
            _log.error("a worker cannot be started: %s", error)
            self._not_before = time.monotonic() + RETRY_AFTER
            self._failed = self._on_ready is not None and not self._workers

    def _wait(self, signals: Signals) -> None:
        """Sleep until something happens, and do what each worker's state asks for."""
        everyone = self._workers + self._old
        lines = [worker.line for worker in everyone]
        connection.wait([signals.fileno(), *(worker.sentinel for worker in everyone), *lines], PING_EVERY)
        signals.drain()
        for worker in everyone:
            worker.receive()
            worker.check(time.monotonic())
        self._reap()

    def _note_ready(self) -> None:
        if self._on_ready is not None and any(worker.ready for worker in self._workers):
            self._on_ready()
            self._on_ready = None
        if self._is_complete():
            for worker in self._old:
                worker.stop(self._grace)

    def _is_complete(self) -> bool:
        return sum(worker.ready for worker in self._workers) == self._count

    def _reap(self) -> None:
        for worker in [worker for worker in self._workers + self._old if not worker.alive]:
            (self._old if worker in self._old else self._workers).remove(worker)
            self._note_end(worker, worker.reap())

    def _note_end(self, worker: Worker, told: str) -> None:
        """Go on without a worker that has ended, or give up when none can be started."""
        if worker.stopping:
            _log.info("%s", told)
        elif worker.ready:
            _log.error("%s and is replaced", told)
        else:
            _log.error("%s before it was ready", told)
            self._not_before = time.monotonic() + RETRY_AFTER
            self._failed = not any(other.ready for other in self._workers + self._old)

    def _stop(self, signals: Signals, on_stop: Callable[[], None]) -> None:
        """End the workers: kindly, and at a second Ctrl-C at once. Those that even then do not end are left."""
        while everyone := [worker for worker in self._workers + self._old if not worker.lost]:
            for worker in everyone:
                worker.stop(self._grace)
                if signals.count(signal.SIGINT) > 1:
                    worker.kill()
            self._wait(signals)
            if all(worker.parted for worker in self._workers + self._old):
                on_stop()
        on_stop()
        for worker in self._workers + self._old:
            worker.abandon()


@contextlib.contextmanager
def _blocked(numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Hold signals back; a process started meanwhile inherits that, and so misses none before it listens."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
