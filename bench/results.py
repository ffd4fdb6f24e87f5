"""Results of a section as a file, so that sections can be measured one at a time and shown together."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.samples import Check, Comparison, Sample, Target
from bench.sections import Result

HOME = Path(__file__).with_name("results")
RECORD = Path(__file__).with_name("instructions.json")
"""How many instructions a request of each kind took, as `bench.instructions` recorded it."""


@dataclass(slots=True)
class Results:
    """What a section gave, where and how it was measured."""

    section: str
    when: str
    how: str
    machine: dict[str, str]
    results: list[Result] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def save(self, home: Path = HOME) -> None:
        """Keep them in the place of what the section gave before."""
        home.mkdir(exist_ok=True)
        kept = {**asdict(self), "results": [{type(each).__name__: asdict(each)} for each in self.results]}
        (home / f"{self.section}.json").write_text(json.dumps(kept, indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Results:
        """Read what was kept."""
        kept = json.loads(file.read_text())
        return cls(**{**kept, "results": [_result(each) for each in kept["results"]]})


def _result(kept: dict[str, Any]) -> Result:
    if "Check" in kept:
        return Check(**kept["Check"])
    values = kept["Comparison"]
    rounds = {name: [Sample(**sample) for sample in samples] for name, samples in values["rounds"].items()}
    targets = tuple(Target(**target) for target in values["targets"])
    return Comparison(**{**values, "targets": targets, "rounds": rounds})
