from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.freshness import TransitLag

HOUR_S = 3600.0


@pytest.mark.parametrize("offset_s", [0.0, HOUR_S, -HOUR_S, 400 * 24 * HOUR_S])
def test_a_clock_that_is_wrong_by_any_constant_makes_no_frame_late(offset_s: float) -> None:
    lags = TransitLag(5.0)
    late = [lags.excess_s("yard", offset_s + 0.02, now_s) for now_s in range(60)]
    assert max(late) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("offset_s", [0.0, HOUR_S, -HOUR_S])
def test_a_frame_that_was_held_up_is_late_by_that(offset_s: float) -> None:
    lags = TransitLag(5.0)
    for now_s in range(10):
        lags.excess_s("yard", offset_s + 0.02, now_s)
    assert lags.excess_s("yard", offset_s + 7.02, 10.5) == pytest.approx(7.0)


def test_a_clock_that_is_set_back_is_forgiven_within_two_windows() -> None:
    lags = TransitLag(5.0)
    for tenth in range(100):
        lags.excess_s("yard", 0.02, tenth / 10)
    late_until_s = max(
        (now_s for now_s in (10 + t / 10 for t in range(300)) if lags.excess_s("yard", HOUR_S, now_s) > 5.0), default=0
    )
    assert 10 < late_until_s <= 20.1


def test_a_clock_that_is_set_forward_changes_nothing() -> None:
    lags = TransitLag(5.0)
    lags.excess_s("yard", 0.02, 0.0)
    assert lags.excess_s("yard", -HOUR_S, 0.1) == 0.0


def test_cameras_do_not_know_each_other() -> None:
    lags = TransitLag(5.0)
    lags.excess_s("yard", -HOUR_S, 0.0)
    assert lags.excess_s("gate", 0.0, 0.1) == 0.0


def test_a_long_silence_forgets_what_was_before() -> None:
    lags = TransitLag(5.0)
    lags.excess_s("yard", 0.0, 0.0)
    assert lags.excess_s("yard", HOUR_S, 60.0) == 0.0


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 20)), min_size=1, max_size=50))
def test_the_delay_is_never_negative(frames: list[tuple[float, float]]) -> None:
    lags, now_s = TransitLag(5.0), 0.0
    for lag_s, pause_s in frames:
        now_s += pause_s
        assert lags.excess_s("yard", lag_s, now_s) >= 0.0
