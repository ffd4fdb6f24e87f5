"""docs/performance.md, made of the results of all sections, and of the remarks on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench import table
from bench.results import HOME, RECORD, Results
from bench.sections import SECTIONS

PAGE = Path(__file__).parent.parent / "docs/performance.md"
REMARKS = Path(__file__).with_name("remarks.md")
"""What was written by hand: what limits that which missed its target. It follows the targets."""

_INTRODUCTION = """# Performance

How fast Stor is beside what could be used instead, and beside what the machine can do. Made by `make bench`, not by
hand; run it to see how it is on yours. All servers run on one machine with the load generator and have the same blobs.
Each work is done by each server in turn, in several rounds; a **ratio** compares Stor's speed with the other's in the
same round, so that a neighbour on the machine disturbs both: 2.00 is twice as fast. The median is shown, with the
lowest and the highest in brackets. Absolute figures are for this machine and this day only.

Stor verifies what is read, counts for `/metrics`, and stores two copies of each blob; the others do none of these.
"weed" is SeaweedFS. "script" is a bare program that writes as durably as Stor does, into the same tree, and does
nothing else, by two `syncfs` for 32 files; "script, flat" leaves the tree out, "fsync each" syncs each file and its
directory, in 32 threads. "dd" writes both files at once.
"""


def write(home: Path = HOME, page: Path = PAGE) -> None:
    """Write the page anew."""
    found = [Results.load(home / f"{name}.json") for name in SECTIONS if (home / f"{name}.json").exists()]
    page.write_text("\n".join(_page(found)) + "\n")


def _page(found: Sequence[Results]) -> Iterator[str]:
    results = [result for each in found for result in each.results]
    yield _INTRODUCTION
    yield "## Targets\n"
    yield from table.targets(results)
    if REMARKS.exists():
        yield f"\n{REMARKS.read_text().strip()}"
    for each in found:
        if any(hasattr(result, "rounds") for result in each.results):
            yield f"\n## Ratios: {each.section}\n"
            yield from table.ratios(each.results)
    yield "\n## Instructions of one request\n"
    yield from _instructions()
    yield "\n## The machine\n"
    yield from _machines(found)
    yield "\n## Absolute figures\n"
    yield "CPU is that of all processes of the server, for 1,000 requests or a gigabyte; the peak is of all added up."
    yield "Of `stor get`, `stor put` and curl it is their own.\n"
    yield from table.figures(results)
    yield "\n## Alone\n"
    yield from table.alone(results)


def _instructions() -> Iterator[str]:
    recorded = json.loads(RECORD.read_text())
    yield "As valgrind counts them in the worker; they do not depend on the neighbours on the machine.\n"
    yield from (f"- {name}: {number:,}" for name, number in recorded.items())


def _machines(found: Iterable[Results]) -> Iterator[str]:
    by_machine: dict[str, list[Results]] = {}
    for each in found:
        text = "\n".join(f"- {what}: {value}" for what, value in each.machine.items())
        by_machine.setdefault(text, []).append(each)
    for text, there in by_machine.items():
        yield text
        yield from (f"- {each.section}: {each.when}, {each.how}" for each in there)
        yield from dict.fromkeys(f"- left out: {line}" for each in there for line in each.left_out)
