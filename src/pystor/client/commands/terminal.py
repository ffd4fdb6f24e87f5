"""What people and programs see of a bulk transfer: a line that moves on a terminal, plain lines or JSON otherwise."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Final, TextIO

from pystor.client import progress, sums
from pystor.client.bulk import Done, Event, Expected, Failed, Moved, Skipped, Totals
from pystor.client.commands import hearing
from pystor.client.commands.hearing import NobodyListens

_UNTOLD: Final = (Moved, Expected)


class Screen:
    """Observes a transfer. Results go to standard output; progress, errors and the summary to standard error.

    `verb` is the past participle of what is done; `lines` is whether each file is a result to be printed.
    """

    def __init__(self, verb: str, *, lines: bool, verbose: bool, as_json: bool) -> None:
        self.totals = Totals()
        self._verb = verb
        self._lines = lines
        self.verbose: Final = verbose
        self._json = as_json
        self._bar = sys.stderr.isatty() and not as_json
        self._together = self._bar and sys.stdout.isatty()
        """Whether the terminal shows results where the line that moves is."""
        self._held: list[str] = []
        """Results that are shown at the next drawing, all in one go."""
        self._deaf: NobodyListens | None = None
        self._drawn = False
        self._began = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self.totals.add(event)
        if isinstance(event, _UNTOLD):
            return
        if self._json:
            self._print(json.dumps(_plain(event)))
        else:
            self._tell(event)

    def _tell(self, event: Done | Skipped | Failed) -> None:
        if isinstance(event, Failed):
            self.complain(f"stor: {event.what}: {event.why}")
        elif self._lines and self._is_result(event):
            self._print(sums.line(event.name, event.path))
        else:
            self._mention(event)

    def _is_result(self, event: Done | Skipped) -> bool:
        if isinstance(event, Done):
            return bool(event.path)
        return bool(event.name) and self._verb != "downloaded"

    def _mention(self, event: Done | Skipped) -> None:
        if self.verbose:
            what = event.path or event.name
            size = progress.size(event.size)
            self.complain(f"{what}: {event.why}" if isinstance(event, Skipped) else f"{what}: {self._verb}, {size}")

    def _print(self, line: str) -> None:
        if self._deaf is not None:
            raise self._deaf
        self._held.append(line)

    def _flush(self) -> None:
        """Show the results so far; raises `NobodyListens` when they cannot be, and so does what comes after."""
        if not self._held:
            return
        if self._together:
            self._erase()
        rest, self._held = memoryview(os.fsencode("\n".join([*self._held, ""]))), []
        try:
            while rest:  # without a buffer, as PYTHONUNBUFFERED has it, a write may be short
                rest = rest[sys.stdout.buffer.write(rest) :]
            sys.stdout.flush()
        except OSError as error:
            why = "" if isinstance(error, BrokenPipeError) else f"standard output: {error.strerror}"
            self._deaf = NobodyListens(why)
            raise self._deaf from None

    def complain(self, line: str) -> None:
        """Say something that is no result."""
        self._erase()
        hearing.complain(line)

    # The line that moves

    def _draw(self) -> None:
        width = shutil.get_terminal_size((80, 24)).columns
        text = progress.line(self.totals, time.monotonic() - self._began, width)
        _write(sys.stderr, f"\r{text.ljust(width - 1)}")
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            width = shutil.get_terminal_size((80, 24)).columns
            _write(sys.stderr, f"\r{' ' * (width - 1)}\r")
            self._drawn = False

    @contextlib.contextmanager
    def summed_up(self) -> Iterator[None]:
        """Sum up at the end of the block, however that comes."""
        try:
            yield
        finally:
            self._erase()
            self._sum_up()

    def refresh(self) -> None:
        """Show the results so far, and how far it is. To be called every `PERIOD` seconds."""
        with contextlib.suppress(NobodyListens):  # the next line will find it out
            self._flush()
        if self._bar:
            self._draw()

    def _sum_up(self) -> None:
        self._flush()  # the results come before the sum
        seconds = time.monotonic() - self._began
        totals = self.totals
        if self._json:
            facts = {"done": totals.done, "skipped": totals.skipped, "failed": totals.failed, "size": totals.size}
            self._print(json.dumps({"event": "totals", **facts, "seconds": round(seconds, 3)}))
            self._flush()
        else:
            self.complain(progress.summary(totals, seconds, self._verb))

    @property
    def status(self) -> int:
        """The exit status: 0 only if nothing failed."""
        return 1 if self.totals.failed else 0


def _write(file: TextIO, text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(file.fileno(), text.encode())


def _plain(event: Done | Skipped | Failed) -> dict[str, object]:
    facts = event._asdict()
    facts.pop("at_once", None)
    return {"event": type(event).__name__.lower(), **facts}
