"""Which replica set takes a new blob, and in which order the sets are asked for one. Pure.

Both come from one rule, weighted rendezvous hashing: a set's score for a digest is `-weight / ln(h)`, where `h` is a
number in (0, 1) made from the digest and the set's name, and the weight is the set's free space. The highest score
takes the blob. Over all digests each set wins in exact proportion to its weight, so the choice is the original's
"at random in proportion to the free space" with the digest as the dice; and as filling in proportion to the free
space leaves the ratios of the free spaces as they are, the order stays what it was when the blob was placed, and the
first probe finds it. Blobs that were placed otherwise are found by the probes that follow.
(Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from pystor.digest import Digest

ROOMY: Final = 1_000_000_000
"""Bytes that a set should have left after a blob to be chosen by chance; below that the roomiest set is chosen."""

PLENTY: Final = 100 * ROOMY
"""The same for a blob of which nobody knows how long it will be: it cannot go on elsewhere where it does not fit."""

_SCALE: Final = 2.0**-52


def seed(name: str) -> int:
    """Make the number that stands for a replica set; the same in every process and after every start."""
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def _scores(digest: Digest, seeds: Sequence[int], weights: Sequence[float]) -> list[float]:
    """Score each set for a digest: by a number in (0, 1) that is fixed for both, and as good as random over all."""
    name, scores = int(digest.hex[:16], 16), []
    for set_seed, weight in zip(seeds, weights, strict=True):
        mixed = (name ^ set_seed) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & 0xFFFFFFFFFFFFFFFF
        scores.append(weight / -math.log((((mixed ^ mixed >> 32) >> 12) + 0.5) * _SCALE))
    return scores


def order(digest: Digest, seeds: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Rank the sets for a digest: indices into `seeds`, best first. Every set is in the answer, whatever its weight."""
    return sorted(range(len(seeds)), key=_scores(digest, seeds, weights).__getitem__, reverse=True)


def best(digest: Digest, seeds: Sequence[int], weights: Sequence[float]) -> int:
    """Tell which set is the first of `order`, for those who need no more."""
    scores = _scores(digest, seeds, weights)
    return scores.index(max(scores))


def choose(digest: Digest, seeds: Sequence[int], left: Sequence[int], roomy_from: int = ROOMY) -> list[int]:
    """Rank the sets that can take a new blob: indices, the one to try first in front.

    `left` is what each set would have left after the blob, in bytes; a set with less than nothing is not in the answer.
    Those that have `roomy_from` are chosen by chance, the roomiest one of all others after them.
    """
    fitting = [index for index in range(len(seeds)) if left[index] >= 0]
    if len(fitting) < 2:
        return fitting
    roomy = [index for index in fitting if left[index] >= roomy_from]
    by_chance = order(digest, [seeds[index] for index in roomy], [left[index] for index in roomy])
    tight = sorted(set(fitting) - set(roomy), key=lambda index: left[index], reverse=True)
    return [roomy[rank] for rank in by_chance] + tight
