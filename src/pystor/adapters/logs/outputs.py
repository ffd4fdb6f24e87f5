"""An output: what waits for a sink, and the thread that writes it there."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from pystor.adapters.logs.entries import Entry
from pystor.adapters.logs.sinks import Sink, UnfinishedError

QUEUED: Final = 10_000
"""Entries that wait for one output; more are left out."""

_BATCH: Final = 500
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 5.0


class Output:
    """A sink, the levels it takes, its queue and its thread."""

    def __init__(self, sink: Sink, lowest: int, highest: int) -> None:
        self.sink: Final = sink
        self.lowest: Final = lowest
        self.highest: Final = highest
        self._queue: Final[deque[Entry]] = deque()
        self._wake: Final = threading.Event()
        self._end: Final = threading.Event()
        self._busy = False
        self._failing = False
        self._left_out = 0  # counted by those that log
        self._reported = 0  # counted by the thread
        self._complain: Callable[[str], None] = lambda _: None
        self._thread: threading.Thread | None = None

    def start(self, complain: Callable[[str], None]) -> None:
        """Begin to write; `complain` is told when that fails, once each time, and when it works again."""
        self._complain = complain
        self._thread = threading.Thread(target=self._run, name=f"log {self.sink.name}", daemon=True)
        self._thread.start()

    @property
    def failing(self) -> bool:
        """Whether what was to be written last could not be."""
        return self._failing

    def takes(self, entry: Entry) -> bool:
        """Tell whether the level of an entry is wanted."""
        return self.lowest <= entry.level <= self.highest

    def put(self, entry: Entry) -> None:
        """Take an entry if its level is wanted; this never waits."""
        if self.takes(entry):
            if len(self._queue) >= QUEUED:
                self._left_out += 1
                return
            self._queue.append(entry)
            if not self._wake.is_set():
                self._wake.set()

    def flush(self, deadline: float) -> None:
        """Wait until everything is written, or cannot be, or it is `deadline` (monotonic)."""
        while (self._queue or self._busy) and not self._failing and time.monotonic() < deadline:
            time.sleep(0.002)

    def close(self, deadline: float) -> None:
        """Write what can be written until `deadline`, and end."""
        self.flush(deadline)
        self._end.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()) + 0.1)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._end.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                while self._queue:
                    self._write_some()
                    self._succeeded()
                    pause = _FIRST_PAUSE
            except OSError as error:
                self._failed(error)
                self._end.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                self._wake.set()
        self.sink.close()

    def _succeeded(self) -> None:
        if self._failing:
            self._failing = False
            self._complain(f"the log output {self.sink.name} works again")

    def _failed(self, error: OSError) -> None:
        self.sink.close()
        if not self._failing:
            self._failing = True
            self._complain(f"the log output {self.sink.name} does not work: {error.strerror or error}")

    def _write_some(self) -> None:
        self._busy = True
        left_out = self._left_out
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
        try:
            self.sink.open()
            self.sink.write([*batch, *self._report(left_out - self._reported)])
            self._reported = left_out
        except OSError as error:
            written = error.written if isinstance(error, UnfinishedError) else 0
            self._queue.extendleft(reversed(batch[written:]))
            raise
        except Exception as error:  # noqa: BLE001  a value that cannot be written: the thread must live
            self._complain(f"{len(batch)} entries for the log output {self.sink.name} were lost: {error!r}")
        finally:
            self._busy = False

    def _report(self, count: int) -> list[Entry]:
        if not count:
            return []
        text = f"{count} entries were left out: the log output {self.sink.name} was too slow"
        return [Entry(time.time(), logging.WARNING, "pystor", text)]
