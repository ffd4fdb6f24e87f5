"""Placement: proportions, the order of look-up, and how the two go together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pystor import placement
from pystor.digest import Digest
from pystor.placement import ROOMY, choose, order

GB = 1_000_000_000

SEEDS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12, unique=True)
DIGESTS = st.binary(max_size=16).map(Digest.of)
ANY_WEIGHT = st.floats(allow_nan=False) | st.integers(-(2**60), 2**60).map(float)


def seeds_of(count: int) -> list[int]:
    return [placement.seed(f"/mnt/{number}a|/mnt/{number}b") for number in range(count)]


def digests(count: int) -> list[Digest]:
    return [Digest.of(b"%d" % number) for number in range(count)]


@given(st.data(), DIGESTS, SEEDS)
def test_every_set_is_asked_exactly_once_whatever_the_weights(
    data: st.DataObject, digest: Digest, of: list[int]
) -> None:
    weights = data.draw(st.lists(ANY_WEIGHT, min_size=len(of), max_size=len(of)))

    assert sorted(order(digest, of, weights)) == list(range(len(of)))


def test_every_set_is_asked_for_the_digest_with_the_highest_chance_too() -> None:
    # Whoever asks chooses the digest, and may choose the one that the arithmetic is at its end with.
    (seed,) = seeds_of(1)
    for chance in (0, 1, 2**63, 2**64 - 1024, 2**64 - 1):
        digest = _with_chance(chance, seed)

        assert order(digest, [seed, 1], [1.0, 1.0]) in ([0, 1], [1, 0])


def _with_chance(chance: int, seed: int) -> Digest:
    """Go the way of the mixing function backwards."""
    mixed = chance ^ chance >> 32
    mixed = mixed * pow(0xD6E8FEB86659FD93, -1, 2**64) % 2**64
    mixed ^= mixed >> 32
    mixed = mixed * pow(0x9E3779B97F4A7C15, -1, 2**64) % 2**64
    return Digest(f"{mixed ^ seed:016x}" + "0" * 48)


@given(DIGESTS, st.lists(st.integers(1, 2**50), min_size=1, max_size=8), st.integers(1, 10**6))
def test_the_order_stays_when_all_weights_are_scaled(digest: Digest, weights: list[int], factor: int) -> None:
    of = seeds_of(len(weights))

    assert order(digest, of, weights) == order(digest, of, [weight * factor for weight in weights])


def test_each_set_wins_in_proportion_to_its_weight_and_so_do_the_others_after_it() -> None:
    count, weights = 20_000, [1.0, 2.0, 3.0]
    of = seeds_of(3)
    orders = [order(digest, of, weights) for digest in digests(count)]
    wins = Counter(ranked[0] for ranked in orders)
    second = Counter(ranked[1] for ranked in orders if ranked[0] == 2)

    # What is exceeded by chance once in 10,000 times, at two degrees of freedom and at one.
    assert _chi_square(wins, [count * weight / 6 for weight in weights]) < 18.4
    assert _chi_square(second, [second.total() / 3, second.total() * 2 / 3]) < 15.2


def _chi_square(counts: Counter[int], expected: Sequence[float]) -> float:
    return sum((counts[index] - value) ** 2 / value for index, value in enumerate(expected))


def test_what_was_placed_is_found_by_the_first_probe_while_the_sets_fill() -> None:
    # The sets end half full, in proportion, so that the ratios of the free spaces are what they were.
    of, free, size = seeds_of(3), [200 * GB, 300 * GB, 500 * GB], 10_000_000
    blobs = digests(50_000)
    placed = {}
    for blob in blobs:
        index = choose(blob, of, [room - size for room in free])[0]
        placed[blob] = index
        free[index] -= size
    found = sum(order(blob, of, free)[0] == index for blob, index in placed.items())

    assert sum(free) == 500 * GB
    assert found >= 0.99 * len(blobs)


def test_no_probe_order_loses_a_blob_that_was_placed_under_other_weights() -> None:
    of = seeds_of(3)
    for blob in digests(500):
        index = choose(blob, of, [5 * GB, 50 * GB, 1])[0]

        assert index in order(blob, of, [1, 1, 10**15])


def test_a_new_set_takes_only_what_it_wins() -> None:
    weights = [1.0, 2.0, 3.0, 2.0]
    for blob in digests(2_000):
        before, after = order(blob, seeds_of(3), weights[:3]), order(blob, seeds_of(4), weights)

        assert [index for index in after if index != 3] == before


def test_the_name_of_a_set_gives_the_same_number_in_every_process() -> None:
    assert placement.seed("/mnt/data1|/mnt/data2") == 0xAAE00ADF0ECC55E7
    assert placement.seed("/mnt/\udcff") != placement.seed("/mnt/\udcfe")


# Choosing


@given(st.data(), DIGESTS, SEEDS)
def test_a_set_is_chosen_from_exactly_if_the_blob_fits(data: st.DataObject, digest: Digest, of: list[int]) -> None:
    left = data.draw(st.lists(st.integers(-5, 5) | st.integers(-(2**50), 2**50), min_size=len(of), max_size=len(of)))

    assert sorted(choose(digest, of, left)) == [index for index, room in enumerate(left) if room >= 0]


@given(st.data(), DIGESTS, SEEDS)
def test_roomy_sets_come_first_and_then_the_roomiest(data: st.DataObject, digest: Digest, of: list[int]) -> None:
    left = data.draw(st.lists(st.integers(0, 2 * ROOMY), min_size=len(of), max_size=len(of)))
    rooms = [left[index] for index in choose(digest, of, left)]
    tight = [room for room in rooms if room < ROOMY]

    assert rooms[len(rooms) - len(tight) :] == sorted(tight, reverse=True)


def test_one_gigabyte_left_is_roomy() -> None:
    chosen = Counter(choose(blob, seeds_of(2), [GB, GB])[0] for blob in digests(200))
    tight = Counter(choose(blob, seeds_of(2), [GB - 1, GB - 2])[0] for blob in digests(200))

    assert set(chosen) == {0, 1}
    assert tight == {0: 200}


def test_no_set_is_no_choice() -> None:
    assert choose(Digest.of(b""), [], []) == []
    assert order(Digest.of(b""), [], []) == []
