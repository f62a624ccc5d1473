from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bridge.sequences import SequenceSet

NUMBERS = st.lists(st.integers(1, 60), max_size=80)


def filled(numbers: list[int], ranges_max: int | None = None) -> SequenceSet:
    seen = SequenceSet(ranges_max)
    for number in numbers:
        seen.add(number)
    return seen


@given(NUMBERS)
def test_it_knows_what_a_set_knows(numbers: list[int]) -> None:
    known: set[int] = set()
    seen = SequenceSet()
    for number in numbers:
        assert seen.add(number) == (number not in known)
        known.add(number)
    assert seen.count == len(known)
    assert seen.highest == max(known, default=0)
    assert seen.gaps == (len(set(range(min(known), max(known) + 1)) - known) if known else 0)


@given(NUMBERS, st.integers(0, 70))
def test_what_is_missing_and_what_is_there_make_the_whole(numbers: list[int], up_to: int) -> None:
    missing = [n for first, last in filled(numbers).missing(up_to) for n in range(first, last + 1)]
    assert sorted(missing) == sorted(set(range(1, up_to + 1)) - set(numbers))


@given(NUMBERS)
def test_missing_ranges_are_as_few_as_possible(numbers: list[int]) -> None:
    ranges = filled(numbers).missing(60)
    for (_, last), (first, _) in itertools.pairwise(ranges):
        assert first > last + 1


def test_a_bounded_one_forgets_its_lowest_gap() -> None:
    seen = filled([1, 3, 5], ranges_max=2)
    assert seen.missing(5) == [(4, 4)]
    assert seen.gaps == 1


def test_a_million_in_order_are_one_range() -> None:
    seen = filled(list(range(1, 100_001)))
    assert seen.missing(100_000) == []
    assert seen.count == 100_000
