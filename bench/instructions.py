"""How many instructions one GET and one POST take, as valgrind counts them, on a busy machine as on a quiet one.

    python -m bench.instructions [--record]

Compares with what is recorded in instructions.json; `--record` records it, and makes the page anew.
Half a minute, most of it for the start.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import blobs, page
from bench.blobs import Bodies
from bench.peers import free_port, started
from bench.results import RECORD
from tests.support import needs
from tests.support.server import Server

_WARM, _GETS, _POSTS = 100, 100, 50
_TIMES = 3
"""So often each is counted, and the least counts: what a worker does every second is no part of a request."""

_SIZE = 4096


class NotCounted(Exception):
    """Nothing can be counted here, for the reason given."""


def count() -> dict[str, int]:
    """Count the instructions of one request of each kind; raises `NotCounted`."""
    if needs.find("valgrind") is None or needs.find("callgrind_control") is None:
        raise NotCounted("valgrind is not installed")
    with tempfile.TemporaryDirectory(prefix="stor-bench-") as name:
        directory = Path(name)
        server = Server(directory / "server", pairs=[[directory / "a", directory / "b"]])
        (digest,) = blobs.lay(server.pairs[0], 1, _SIZE)
        with _worker(directory, server) as (connection, counted):
            return _measure(connection, counted, digest, server.authorization())


def _measure(
    connection: http.client.HTTPConnection, counted: Callable[[], int], digest: str, login: dict[str, str]
) -> dict[str, int]:
    bodies = Bodies(_SIZE)

    def get(times: int) -> None:
        for _ in range(times):
            _ask(connection, "GET", f"/{digest}", None, {})

    def post(times: int) -> None:
        first, digests = bodies.name(times)
        for number, name in enumerate(digests, first):
            _ask(connection, "POST", f"/{name}", bodies.body(number), login)

    def count_of(do: Callable[[int], None], times: int) -> int:
        counted()
        do(times)
        return counted() // times

    found = {}
    for name, do, times in (("GET 4 KiB", get, _GETS), ("POST 4 KiB", post, _POSTS)):
        do(_WARM)
        found[name] = min(count_of(do, times) for _ in range(_TIMES))
    return found


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> None:
    connection.request(method, path, body, headers)
    with connection.getresponse() as answer:
        answer.read()
        assert answer.status in (200, 201), answer.status


@contextlib.contextmanager
def _worker(directory: Path, server: Server) -> Iterator[tuple[http.client.HTTPConnection, Callable[[], int]]]:
    """Start a worker under valgrind; gives a connection to it, and what counts instructions since the last time."""
    port, config = free_port(), server.directory / "config.json"
    valgrind = ["valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={directory}/counted"]
    command = [*valgrind, sys.executable, "-m", "bench.worker", str(config), str(port)]
    with started(command, port, directory / "output", PYTHONHASHSEED="0") as pid:

        def counted() -> int:
            before = set(directory.glob("counted*"))
            subprocess.run(["callgrind_control", "--dump", str(pid)], check=True, capture_output=True)
            (dump,) = set(directory.glob("counted*")) - before
            match = re.search(r"^(?:totals|summary): (\d+)$", dump.read_text(), re.MULTILINE)
            assert match is not None
            return int(match[1])

        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        yield connection, counted
        connection.close()


def report(found: dict[str, int]) -> Iterator[str]:
    """Compare with what is recorded, a line for each."""
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name, number in found.items():
        before = recorded.get(name)
        beside = f"; {number / before - 1:+.1%} of the {before:,} recorded" if before else ""
        yield f"{name:24} {number:,} instructions{beside}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, compare, and record if that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args(arguments)
    try:
        found = count()
    except NotCounted as error:
        print(f"instructions are not counted: {error}")
        return 0
    print(*report(found), sep="\n")
    if given.record:
        RECORD.write_text(json.dumps(found, indent=2) + "\n")
        page.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
