from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.freshness import Freshness, TransitLag

HOUR_S = 3600.0
LATE_S = 2.0


@pytest.mark.parametrize("offset_s", [0.0, HOUR_S, -HOUR_S, 400 * 24 * HOUR_S])
def test_a_clock_that_is_wrong_by_any_constant_makes_no_frame_late(offset_s: float) -> None:
    lags = TransitLag(LATE_S)
    late = [lags.excess_s("yard", now_s - offset_s - 0.02, now_s) for now_s in range(600)]
    assert max(late) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("offset_s", [0.0, HOUR_S, -HOUR_S])
def test_a_frame_that_was_held_up_is_late_by_that(offset_s: float) -> None:
    lags = TransitLag(LATE_S)
    for now_s in range(10):
        lags.excess_s("yard", now_s - offset_s - 0.02, now_s)
    assert lags.excess_s("yard", 10.5 - offset_s - 7.02, 10.5) == pytest.approx(7.0, abs=0.01)


def test_the_first_frame_after_a_long_silence_is_not_taken_for_a_fresh_one() -> None:
    """A reader that was frozen for half a minute meets half a minute of old frames."""
    lags = TransitLag(LATE_S)
    for tenth in range(100):
        lags.excess_s("yard", tenth / 10 - 0.02, tenth / 10)
    assert lags.excess_s("yard", 10.0, 40.0) == pytest.approx(30.0, abs=0.1)


def test_a_clock_that_is_set_back_is_believed_after_a_while() -> None:
    lags = TransitLag(LATE_S)
    for tenth in range(100):
        lags.excess_s("yard", tenth / 10 - 0.02, tenth / 10)
    late_until_s = max(
        now_s for now_s in (10 + t / 10 for t in range(300)) if lags.excess_s("yard", now_s - HOUR_S, now_s) > LATE_S
    )
    assert 19 < late_until_s < 21


def test_a_clock_that_is_set_forward_changes_nothing() -> None:
    lags = TransitLag(LATE_S)
    lags.excess_s("yard", 0.0, 0.02)
    assert lags.excess_s("yard", HOUR_S, 0.1) == 0.0


def test_a_clock_that_drifts_is_followed() -> None:
    lags = TransitLag(LATE_S)
    assert all(lags.excess_s("yard", now_s * 0.99995, now_s) < 0.1 for now_s in range(0, 200_000, 100))


def test_cameras_do_not_know_each_other_and_invented_names_fill_no_memory() -> None:
    lags = TransitLag(LATE_S)
    for number in range(5000):
        lags.excess_s(f"camera-{number}", 0.0, number / 1000)
    assert lags.excess_s("camera-7", -HOUR_S, 5.0) > LATE_S
    assert lags.excess_s("camera-4999", -HOUR_S, 5.0) == 0.0


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 20)), min_size=1, max_size=50))
def test_the_delay_is_never_negative(frames: list[tuple[float, float]]) -> None:
    lags, now_s = TransitLag(LATE_S), 0.0
    for captured_s, pause_s in frames:
        now_s += pause_s
        assert lags.excess_s("yard", captured_s, now_s) >= 0.0


def test_a_reader_is_behind_when_only_old_frames_come_for_a_while() -> None:
    fresh = Freshness(LATE_S)
    assert fresh.delay_s("yard", 0.0, 0.0) == 0.0
    assert fresh.delay_s("yard", 0.1, 30.0) is None
    assert not fresh.is_behind(30.0)
    assert fresh.delay_s("yard", 0.2, 30.6) is None
    assert fresh.is_behind(30.6)
    fresh.connected()
    assert not fresh.is_behind(30.7)
    assert fresh.delay_s("yard", 0.3, 30.7) == 0.0


def test_one_late_camera_among_others_does_not_make_a_reader_late() -> None:
    fresh = Freshness(LATE_S)
    for tenth in range(100):
        now_s = tenth / 10
        fresh.delay_s("yard", now_s if tenth < 10 else now_s - 5.0, now_s)
        fresh.delay_s("gate", now_s, now_s)
        assert not fresh.is_behind(now_s)


def test_a_reader_that_is_always_too_slow_does_not_creep_away() -> None:
    """It works on fresh frames only, and what it takes for fresh must not grow older and older."""
    fresh, now_s, oldest_s = Freshness(LATE_S), 0.0, 0.0
    for number in range(5000):
        captured_s = number / 30
        now_s = max(now_s, captured_s)
        if fresh.delay_s("yard", captured_s, now_s) is not None:
            oldest_s = max(oldest_s, now_s - captured_s)
            now_s += 0.1
    assert oldest_s < LATE_S + 0.1
