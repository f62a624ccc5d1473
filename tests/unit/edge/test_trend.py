"""Movements an hour, added up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from edge.motion.trend import Trend

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def test_an_hour_has_its_movements_and_how_long_they_were() -> None:
    trend = Trend("yard")
    for k in range(601):
        at_s = k * 0.5
        at, score = NOON + timedelta(seconds=at_s), 0.2 if at_s == 110 else 0.1
        trend.step(at, at_s, moving=100 < at_s <= 130, began=at_s == 100.5, score=score)
    (hour,) = trend.message(NOON).hours
    assert hour.start == NOON
    assert (hour.movements, hour.moving_s, hour.watched_s, hour.score_max) == (1, 30.0, 300.0, 0.2)


def test_another_hour_is_told_once_and_older_days_go() -> None:
    trend = Trend("yard")
    told = [trend.step(NOON + timedelta(minutes=20 * k), 1200.0 * k, moving=False, began=True) for k in range(90)]
    assert [k for k, new in enumerate(told) if new] == list(range(3, 90, 3))
    hours = trend.message(NOON).hours
    assert len(hours) == 24
    assert hours[0].start == NOON + timedelta(hours=6)
    assert hours[-1].start == NOON + timedelta(hours=29)
    assert all(hour.movements == 3 for hour in hours)


def test_hours_without_a_frame_are_left_out_and_gaps_are_not_watched() -> None:
    trend = Trend("yard")
    trend.step(NOON, 0.0, moving=True)
    trend.step(NOON + timedelta(seconds=10), 10.0, moving=True)
    trend.step(NOON + timedelta(hours=5), 18_000.0, moving=True)
    trend.step(NOON + timedelta(hours=5, seconds=1), 0.0, moving=True)
    trend.step(NOON + timedelta(hours=5, seconds=2), 1.0, moving=False)
    early, late = trend.message(NOON).hours
    assert (early.start.hour, late.start.hour) == (12, 17)
    assert (early.watched_s, early.moving_s) == (10.0, 10.0)
    assert (late.watched_s, late.moving_s) == (1.0, 0.0)


@pytest.mark.parametrize("back_s", [10, 7200])
def test_a_clock_that_is_set_back_counts_on_in_its_hour(back_s: int) -> None:
    trend = Trend("yard")
    trend.step(NOON, 0.0, moving=False)
    assert not trend.step(NOON - timedelta(seconds=back_s), 1.0, moving=False)
    (hour,) = trend.message(NOON).hours
    assert hour.watched_s == 1.0
