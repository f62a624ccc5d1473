from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.batching import ArrivalRate, BatchTimes, batch_size, parts_budget


def times(**took_s: float) -> BatchTimes:
    """Measured: ``times(n1=0.02, n8=0.04)``."""
    measured = BatchTimes()
    for size, seconds in took_s.items():
        measured.note(int(size[1:]), seconds)
    return measured


GPU = times(n1=0.010, n2=0.011, n4=0.012, n8=0.016, n16=0.020)
CPU = times(n1=0.020, n2=0.040, n4=0.080, n8=0.160)


def test_a_model_that_gains_from_it_gets_all_that_wait() -> None:
    assert batch_size([5.0] * 12, [1] * 12, GPU, 64) == 12
    assert batch_size([5.0] * 12, [1] * 12, GPU, 8) == 8


@pytest.mark.parametrize(("slack_s", "frames"), [(0.0135, 5), (0.0105, 1), (0.001, 1), (-1.0, 1)])
def test_the_oldest_frame_is_still_fresh_afterwards(slack_s: float, frames: int) -> None:
    assert batch_size([slack_s] + [5.0] * 7, [1] * 8, GPU, 64) == frames


def test_a_later_frame_that_is_more_urgent_ends_the_batch_before_it() -> None:
    assert batch_size([5.0, 5.0, 5.0, 0.0115, 5.0], [1] * 5, GPU, 64) == 3


def test_a_model_that_gains_nothing_lets_nobody_wait_for_the_last() -> None:
    assert batch_size([5.0] * 8, [1] * 8, CPU, 8) == 1


def test_a_larger_batch_is_tried_before_it_is_judged() -> None:
    assert batch_size([5.0] * 8, [1] * 8, times(n1=0.02), 8) == 8
    assert batch_size([5.0] * 8, [1] * 8, BatchTimes(), 8) == 8
    assert batch_size([0.05] * 8, [1] * 8, times(n1=0.02), 8) == 2


def test_parts_count_and_a_frame_with_more_than_a_batch_takes_goes_alone() -> None:
    assert batch_size([5.0] * 4, [3, 3, 3, 3], GPU, 8) == 2
    assert batch_size([5.0] * 4, [3, 3, 3, 3], GPU, 1) == 1


@given(
    slack_s=st.lists(st.floats(-1, 5), min_size=1, max_size=70),
    pictures=st.integers(1, 5),
    most=st.integers(1, 64),
    took_s=st.dictionaries(st.integers(1, 64), st.floats(1e-4, 2)),
)
def test_a_batch_has_a_frame_fits_and_is_in_time(
    slack_s: list[float], pictures: int, most: int, took_s: dict[int, float]
) -> None:
    measured = BatchTimes()
    for size, seconds in took_s.items():
        measured.note(size, seconds)
    frames = batch_size(slack_s, [pictures] * len(slack_s), measured, most)
    assert 1 <= frames <= len(slack_s)
    if frames > 1:
        assert frames * pictures <= most
        assert measured.expected_s(frames * pictures) <= min(slack_s[:frames])


def test_times_between_two_measured_sizes_and_beyond_them_are_estimated() -> None:
    measured = times(n2=0.010, n6=0.030)
    assert measured.expected_s(4) == pytest.approx(0.020)
    assert measured.expected_s(1) == pytest.approx(0.005)
    assert measured.expected_s(12) == pytest.approx(0.060)
    assert BatchTimes().expected_s(3) == 0.0


def test_one_hiccup_changes_little_and_a_slower_machine_is_noticed() -> None:
    measured = times(n1=0.020)
    measured.note(1, 3.0)
    assert measured.expected_s(1) < 0.025
    for _ in range(30):
        measured.note(1, 0.060)
    assert measured.expected_s(1) == pytest.approx(0.060, rel=0.05)


def test_what_a_picture_takes_is_known_from_batches_of_any_size() -> None:
    measured = times(n1=0.020)
    assert measured.picture_s == 0.020
    for _ in range(30):
        measured.note(3, 0.120)
    assert measured.picture_s == pytest.approx(0.040, rel=0.05)
    assert measured.expected_s(1) == 0.020


def test_the_best_rate_is_that_of_the_best_size() -> None:
    assert GPU.best_fps() == pytest.approx(16 / 0.020)
    assert BatchTimes().best_fps() == 0.0


@pytest.mark.parametrize(("arriving_fps", "parts"), [(0, 2), (2, 2), (9, 2), (12, 1), (25, 0), (100, 0)])
def test_parts_are_looked_at_while_there_is_time(arriving_fps: float, parts: int) -> None:
    assert parts_budget(arriving_fps, 0.020, 2) == parts


def test_the_rate_of_arrival_follows_what_comes_and_fades() -> None:
    rate = ArrivalRate()
    assert rate.fps(0) == 0
    for tick in range(200):
        rate.note(tick / 10)
    assert rate.fps(19.9) == pytest.approx(10, rel=0.1)
    assert rate.fps(40) < 0.1
