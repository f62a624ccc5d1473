from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bridge.sequences import SequenceSet

NUMBERS = st.lists(st.integers(1, 60), max_size=80)


def filled(numbers: list[int]) -> SequenceSet:
    seen = SequenceSet()
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
    assert seen.highest == max(known, default=0)
    assert [number for number in range(62) if number in seen] == sorted(known)
    assert seen.missing(61) == filled(sorted(known)).missing(61)


@given(NUMBERS, st.integers(0, 70))
def test_what_is_missing_and_what_is_there_make_the_whole(numbers: list[int], up_to: int) -> None:
    missing = [n for first, last in filled(numbers).missing(up_to) for n in range(first, last + 1)]
    assert sorted(missing) == sorted(set(range(1, up_to + 1)) - set(numbers))


@given(NUMBERS)
def test_missing_ranges_are_as_few_as_possible(numbers: list[int]) -> None:
    ranges = filled(numbers).missing(60)
    for (_, last), (first, _) in itertools.pairwise(ranges):
        assert first > last + 1


@given(NUMBERS, st.lists(st.tuples(st.integers(1, 60), st.integers(0, 12)), max_size=6))
def test_filling_a_range_is_adding_each_of_its_numbers(numbers: list[int], spans: list[tuple[int, int]]) -> None:
    at_once, one_by_one = filled(numbers), filled(numbers)
    for first, length in spans:
        added = sum(one_by_one.add(number) for number in range(first, first + length + 1))
        assert at_once.fill(first, first + length) == added
        assert at_once.missing(80) == one_by_one.missing(80)
        assert at_once.highest == one_by_one.highest


def test_many_in_order_are_one_range() -> None:
    seen = filled(list(range(1, 100_001)))
    assert seen.missing(100_000) == []
    assert len(seen._firsts) == 1
    assert seen.fill(100_001, 10**15) == 10**15 - 100_000
