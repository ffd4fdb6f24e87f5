"""`stor verify`: local files against the digests they are named after. No server is needed."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Final

from pystor.client import trees
from pystor.client.bulk import describe
from pystor.client.commands.hearing import one_line
from pystor.errors import ConfigError

_NAME: Final = re.compile(r"([0-9A-Fa-f]{64})(?![0-9A-Fa-f]).*", re.ASCII | re.DOTALL)
_PIECE: Final = 1 << 20
_AHEAD: Final = 1000  # files that were found and are not told of yet


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one file, or of a directory that cannot be read; `why` is empty when it is good."""

    path: str
    why: str = ""


def run(given: argparse.Namespace) -> int:
    """Read all files and name the bad ones; the exit status is 0 only if there is none."""
    if not os.path.isdir(given.directory):
        raise ConfigError([f"{given.directory}: is no directory"])
    good = bad = 0
    with _judging(given.directory) as verdicts:
        for verdict in verdicts:
            good, bad = good + (not verdict.why), bad + bool(verdict.why)
            _tell(verdict, verbose=given.verbose, as_json=given.json)
    print(f"{good:,} good, {bad:,} bad", file=sys.stderr)
    return 1 if bad else 0


def _files(directory: str, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, str]]:
    for parent, names in trees.walk(directory, onerror):
        for name in names:
            path = os.path.join(parent, name)
            if (match := _NAME.fullmatch(name)) and (os.path.isfile(path) or not os.path.exists(path)):
                yield path, match[1].lower()  # no pipe or device, which nobody may write to; what has gone is told


@contextlib.contextmanager
def _judging(directory: str) -> Iterator[Iterator[Verdict]]:
    """Judge the files, several at once; a block that ends before they are all judged waits for a piece of each."""
    given_up = threading.Event()
    with ThreadPoolExecutor() as pool:
        try:
            yield _verdicts(directory, lambda file: pool.submit(_judge, given_up, file))
        finally:
            given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _verdicts(directory: str, begin: Callable[[tuple[str, str]], Future[Verdict]]) -> Iterator[Verdict]:
    """Yield them in the order of the files, and what could not be read at the end; a disk has millions of files."""
    unread: list[OSError] = []
    begun: deque[Future[Verdict]] = deque()
    for file in _files(directory, unread.append):
        begun.append(begin(file))
        if len(begun) >= _AHEAD:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
    yield from (_unread(error.filename, error) for error in unread)


def _judge(given_up: threading.Event, file: tuple[str, str]) -> Verdict:
    path, digest = file
    try:
        real = _hash(path, given_up)
    except OSError as error:
        return _unread(path, error)
    return Verdict(path) if real == digest else Verdict(path, f"it is {real}")


def _unread(path: str, error: OSError) -> Verdict:
    return Verdict(path, f"cannot be read: {describe(error, path)}")


def _hash(path: str, given_up: threading.Event) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while not given_up.is_set() and (piece := file.read(_PIECE)):
            digest.update(piece)
    return digest.hexdigest()


def _tell(verdict: Verdict, *, verbose: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(verdict), "good": not verdict.why}))
    elif verdict.why or verbose:
        print(one_line(f"{verdict.path}: {verdict.why or 'OK'}"))
