"""The works that are compared, a file for each kind; each section gives its results one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from bench.samples import Check, Comparison
from bench.sections.bulk import bulk
from bench.sections.crowd import crowd
from bench.sections.growth import growth
from bench.sections.limits import limits
from bench.sections.misses import misses
from bench.sections.reads import reads
from bench.sections.slow import slow
from bench.sections.uploads import uploads
from bench.setting import Setting

Result: TypeAlias = Comparison | Check

SECTIONS: Mapping[str, Callable[[Setting], Iterator[Result]]] = {
    "reads": reads,
    "misses": misses,
    "uploads": uploads,
    "growth": growth,
    "slow": slow,
    "crowd": crowd,
    "bulk": bulk,
    "limits": limits,
}
