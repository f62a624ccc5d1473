"""Distributions: what was noted is counted once, in its bucket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import Distribution
from broker.figures import BOUNDS_S


@given(st.lists(st.floats(min_value=-1, max_value=1e6), max_size=50))
def test_each_is_counted_once_and_in_its_bucket(values: list[float]) -> None:
    distribution = Distribution()
    for value in values:
        distribution.note(value)
    assert sum(distribution.counts) == len(values)
    for number, bound_s in enumerate(BOUNDS_S):
        assert sum(distribution.counts[: number + 1]) == sum(1 for value in values if value <= bound_s)
    assert distribution.sum_s == pytest.approx(sum(max(0.0, value) for value in values))


def test_a_quantile_lies_in_the_bucket_of_the_value() -> None:
    distribution = Distribution()
    assert distribution.quantile_s(0.5) == 0.0
    for value_s in (0.004, 0.012, 0.013, 0.2):
        distribution.note(value_s)
    assert 0.01 < distribution.quantile_s(0.5) <= 0.015
    assert 0.1 < distribution.quantile_s(0.99) <= 0.25
    distribution.note(10_000)
    assert distribution.quantile_s(1.0) == BOUNDS_S[-1]


def test_the_sum_of_some_is_what_one_would_have_counted() -> None:
    parts, whole = (Distribution(), Distribution()), Distribution()
    for number, value_s in enumerate((0.001, 0.5, 0.02, 7.0)):
        parts[number % 2].note(value_s)
        whole.note(value_s)
    together = Distribution.sum(parts)
    assert together.counts == whole.counts
    assert together.sum_s == pytest.approx(whole.sum_s)
