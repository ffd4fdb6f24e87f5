"""Standard input, output and error: there for every command, and missed when nobody gets what it says."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TextIO

from pystor.client.commands.ending import ended

UNHEARD: Final = 1
"""The exit status when standard output takes no more."""

_OF_THE_MACHINE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""What is wanting whatever was to be done."""

_NO_THREAD: Final = "can't start new thread"
"""All that Python tells of a system that has none to give."""

_SPELT: Final = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160)) if chr(code) != "\t"}
"""What ends a line or steers a terminal, by number, as Python writes it."""

_OF_WRITING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EINVAL})
"""What a write is refused for; one that no file is named of is that to standard output."""


class NobodyListens(Exception):
    """Standard output takes no more; it is no failure of the file that is told about.

    The text is why, and empty when who reads it has gone.
    """


def heard(work: Callable[[], int]) -> int:
    """Run a whole program and see that what it says is said; returns its exit status.

    What the system refuses is told in a line, a standard output that is full as well; that nobody reads it any more is
    no news, and neither is an interruption (`ended`).
    """
    return ended(partial(_heard, work))


def _heard(work: Callable[[], int]) -> int:
    _open_all()
    sys.stdout, sys.stderr = _waiting(sys.stdout, 1), _waiting(sys.stderr, 2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files, and what servers tell, are any
    try:
        try:
            return work()
        finally:
            sys.stdout.flush()  # at the exit nobody could be told
    except NobodyListens as deaf:
        return unheard(str(deaf))
    except BrokenPipeError:
        return unheard()
    except RuntimeError as error:
        if str(error) != _NO_THREAD:
            raise
        return unheard(f"{_NO_THREAD}: as many processes and threads run as this user, or the container, may have")
    except OSError as error:
        output = "standard output" if error.errno in _OF_WRITING else None
        where = None if error.errno in _OF_THE_MACHINE else error.filename or output
        return unheard(f"{where}: {error.strerror or error}" if where else str(error.strerror or error))


def _open_all() -> None:
    """Open what is closed, to nowhere: what is opened next would be taken for it. A closed `sys.stdin` stays None."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  they stay open
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


class _Waiting(io.FileIO):
    """An output that does not block, of which Python would lose what it does not take at once: it is waited for."""

    def write(self, piece: Any, /) -> int:
        while (written := super().write(piece)) is None:
            select.select((), (self,), ())
        return written


def _waiting(stream: TextIO, descriptor: int) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper) or os.get_blocking(descriptor):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Waiting(descriptor, "w", closefd=False)),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
    )


def unheard(why: str = "") -> int:
    """Say why standard output takes no more, and let nothing complain of it at the exit; returns the exit status."""
    if why:
        complain(f"stor: {why}")
    silence(1)
    return UNHEARD


def one_line(text: str) -> str:
    """Spell what would begin another line, or move about on a terminal: names of files, and what servers tell, may."""
    return text if text.isprintable() else text.translate(_SPELT)


def complain(line: str) -> None:
    """Say something on standard error, in one line whatever it names; what that does not take is lost."""
    try:
        print(one_line(line).encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)
    except OSError:
        silence(2)


def silence(descriptor: int) -> None:
    """Have what is still written there lost."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
