"""The observer of events that feeds the outputs."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from pystor.adapters.logs.entries import Entry, abridged
from pystor.adapters.logs.formats import as_text
from pystor.adapters.logs.outputs import Output
from pystor.adapters.logs.repeats import TOLD, Repeats
from pystor.adapters.logs.sinks import Screen, Sink
from pystor.errors import NeighbourError
from pystor.events import Event, RequestEnded

_STOP_SECONDS: Final = 0.8


class Logs:
    """The outputs, and the observer that feeds them."""

    def __init__(self, outputs: Sequence[Output], access: float) -> None:
        """`access` is the part of the requests that is logged, from 0 to 1; failures (5xx) are, unless it is 0."""
        self._outputs: Final = tuple(outputs)
        self._access: Final = access
        self._repeats: Final = Repeats()
        self._prefix: Final = secrets.token_hex(3)
        self._numbers: Final = itertools.count(1)
        self.lowest: Final = min((output.lowest for output in outputs), default=logging.WARNING)
        for output in outputs:
            output.start(partial(self._complain, output))
        atexit.register(self.flush)

    async def start(self) -> None:
        """There is nothing to start: what happens before is logged as well."""

    async def stop(self) -> None:
        """Write what waits, for 0.8 s at most; what follows is still logged."""
        self._repeats.flush()
        try:
            await asyncio.to_thread(self.flush)
        except RuntimeError:  # the system has no thread to give now, and nobody is served any more
            self.flush()

    async def probe(self) -> str:
        """Open every output; raises `NeighbourError` for those that cannot be."""
        wrong = [await asyncio.to_thread(_probe, output.sink) for output in self._outputs]
        if any(wrong):
            raise NeighbourError(f"{'; '.join(filter(None, wrong))}; mend it, or remove it from log")
        return f"opened {', '.join(output.sink.name for output in self._outputs)}"

    def __call__(self, event: Event) -> None:
        """Log an event; an `Observer`."""
        if isinstance(event, RequestEnded):
            if self._access and self._is_sampled(event):
                number = {"request": f"{self._prefix}-{next(self._numbers):x}"}
                self.put(Entry(time.time(), logging.INFO, "pystor.access", fields=number, request=abridged(event)))
        elif type(event) in TOLD:
            self._repeats(event)

    def listener(self, kind: type[Event]) -> Callable[[Any], None] | None:
        """Give what logs events of a kind, as things are configured."""
        if kind is RequestEnded:
            return self if self._access else None
        return self._repeats if kind in TOLD else None

    def _is_sampled(self, event: RequestEnded) -> bool:
        return self._access >= 1 or event.status >= 500 or random.random() < self._access  # noqa: S311  no secret

    def put(self, entry: Entry) -> None:
        """Hand an entry to every output that takes its level."""
        for output in self._outputs:
            output.put(entry)

    def flush(self) -> None:
        """Wait until everything is written, for 0.8 s at most."""
        deadline = time.monotonic() + _STOP_SECONDS
        for output in self._outputs:
            output.flush(deadline)

    def close(self) -> None:
        """Write what waits, and end the threads."""
        deadline = time.monotonic() + _STOP_SECONDS
        for output in self._outputs:
            output.close(deadline)
        atexit.unregister(self.flush)

    def _complain(self, about: Output, text: str) -> None:
        entry = Entry(time.time(), logging.WARNING, "pystor", text)
        others = [output for output in self._outputs if output is not about]
        for output in others:
            output.put(entry)
        is_told = any(output.takes(entry) and not output.failing for output in others)
        if not is_told and not isinstance(about.sink, Screen):
            with contextlib.suppress(OSError):
                os.write(2, as_text(entry).encode() + b"\n")


def _probe(sink: Sink) -> str | None:
    """Open an output, or tell what is wrong."""
    try:
        sink.open()
    except OSError as error:
        return f"{sink.name}: {error.strerror or error}"
    return None
