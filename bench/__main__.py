"""Stor beside what could be used instead: `make bench`, or `make bench ARGS="--only reads --rounds 1 --dry"`.

Measures section after section, prints each result, and writes docs/performance.md. A section that is measured alone
takes the place of its earlier results; the others stay. With --dry nothing is written.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from bench import page
from bench.load import LoadFailed
from bench.machine import describe
from bench.results import Results
from bench.sections import SECTIONS
from bench.setting import PEERS, Setting, clean_up_when_ended
from bench.table import lines
from tests.support import needs


def main() -> int:
    """Measure and write; returns 1 if there is no wrk, or a section could not be measured."""
    given = _arguments()
    clean_up_when_ended()
    if needs.find("wrk") is None:
        print("install wrk first")
        return 1
    failed = [section for section in given.only or SECTIONS if not _is_measured(section, given)]
    return 1 if failed else 0


def _is_measured(section: str, given: argparse.Namespace) -> bool:
    """Measure a section and keep its results; tell whether it could be."""
    try:
        with tempfile.TemporaryDirectory(prefix="stor-bench-", dir=given.directory) as name:
            found = _measured(section, _setting(given, Path(name)))
    except LoadFailed as error:
        print(f"{section} could not be measured: {error}")
        return False
    if not given.dry:
        found.save()
        page.write()
    return True


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), metavar="SECTION", help=f"of {', '.join(SECTIONS)}"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="those that are compared with")
    parser.add_argument("--connections", type=int, nargs="+", default=(1, 32, 128), help="of GET")
    for option, default in (("rounds", 5), ("seconds", 2), ("workers", 2)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--many", type=int, default=100_000, help="blobs of the larger store, when growth is measured")
    parser.add_argument("--directory", default="/var/tmp", help="on the filesystem that is to be measured")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    return parser.parse_args()


def _setting(given: argparse.Namespace, directory: Path) -> Setting:
    return Setting(
        directory=directory,
        rounds=given.rounds,
        seconds=given.seconds,
        workers=given.workers,
        connections=tuple(given.connections),
        many=given.many,
        wanted=tuple(given.peers),
    )


def _measured(section: str, setting: Setting) -> Results:
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    how = f"{setting.rounds} rounds of {setting.seconds} s, {setting.workers} workers"
    found = Results(section, when, how, describe(setting.directory), left_out=setting.left_out)
    for result in SECTIONS[section](setting):
        print(*lines(result), sep="\n", flush=True)
        found.results.append(result)
    for line in setting.left_out:
        print(f"left out: {line}")
    return found


if __name__ == "__main__":
    sys.exit(main())
