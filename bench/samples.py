"""What was measured, as values: one run, and many runs of one work side by side."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of a work against one server."""

    requests: int
    seconds: float
    received: int = 0
    """Bytes that the load generator got, headers included."""
    sent: int = 0
    """Bytes of bodies that it sent."""
    p50: float = 0.0
    p99: float = 0.0
    """Milliseconds."""
    cpu_seconds: float = 0.0
    """Of all processes of the server."""
    peak_bytes: int = 0
    """The highest resident sizes that the processes of the server had, added up."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def cpu_per_1000(self) -> float:
        """Seconds of the server's processors for 1,000 requests."""
        return self.cpu_seconds / self.requests * 1000 if self.requests else 0.0

    def megabytes_per_second(self) -> float:
        """Bytes that went through, in either direction."""
        return max(self.received, self.sent) / self.seconds / 1e6


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several numbers, and how far they lie apart."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Take the measure of at least one number."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio has to reach, beside whom: `least` of the peer's, or at the `most` so many times the peer's."""

    peer: str
    least: float | None = None
    most: float | None = None

    def is_met(self, ratio: float) -> bool:
        """Tell whether a ratio is good enough, in the two digits that are shown of it."""
        shown = round(ratio, 2)
        return (self.least is None or shown >= self.least) and (self.most is None or shown <= self.most)

    def __str__(self) -> str:
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


@dataclass(slots=True)
class Comparison:
    """The rounds of one work, by the name of the server; round n of one belongs to round n of another."""

    work: str
    subject: str = "stor"
    targets: tuple[Target, ...] = ()
    by_bytes: bool = False
    """Whether what counts is bytes per second: a short run ends in the middle of large blobs."""
    rounds: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Those that did not do the work, and why."""

    def add(self, peer: str, sample: Sample) -> None:
        """Note one run."""
        self.rounds.setdefault(peer, []).append(sample)

    def speed(self, sample: Sample) -> float:
        """What is compared of a run; more is better."""
        return sample.megabytes_per_second() if self.by_bytes else sample.rate

    def ratio(self, peer: str) -> Spread:
        """How fast the subject is beside a peer, round by round: 1 is as fast, 2 twice as fast."""
        pairs = zip(self.rounds[self.subject], self.rounds[peer], strict=True)
        return Spread.of([self.speed(ours) / self.speed(theirs) for ours, theirs in pairs])

    def peers(self) -> list[str]:
        """Those that the subject is compared with."""
        return [name for name in self.rounds if name != self.subject]


@dataclass(slots=True)
class Check:
    """What is measured of Stor alone, round by round, with a limit that it must stay below."""

    work: str
    unit: str
    most: float | None
    values: list[float] = field(default_factory=list)
    note: str = ""
    """What the values come from."""

    def is_met(self) -> bool:
        """Tell whether the median stays below the limit."""
        return self.most is None or Spread.of(self.values).median < self.most
