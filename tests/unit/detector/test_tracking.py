from __future__ import annotations

import pytest

from detector.scene import Box
from detector.tracking import SortTracker, Tracker, next_period_s


def somebody(x: float, tall: float = 0.4) -> Box:
    """Who stands there, in heights of the picture."""
    return x - 0.2 * tall, 0.5 - tall / 2, x + 0.2 * tall, 0.5 + tall / 2


def walk(tracker: Tracker, period_s: float, paces: list[float], frames: int) -> list[list[int | None]]:
    """People who walk from left to right, each so many heights of their own a second."""
    numbers = []
    for frame in range(frames):
        at_s = frame * period_s
        boxes = [somebody(0.3 + place + 0.4 * pace * at_s) for place, pace in enumerate(paces)]
        numbers.append(tracker.follow(at_s, period_s if frame else None, boxes, [0.9] * len(boxes)))
    return numbers


@pytest.mark.parametrize("period_s", [0.04, 0.1, 0.5, 1.0, 2.0])
def test_an_object_keeps_its_number_from_the_first_frame_on(period_s: float) -> None:
    assert walk(SortTracker(lost_s=2.0), period_s, [0.0, 0.8], 8) == [[1, 2]] * 8


def test_a_frame_that_is_late_finds_who_walked_on() -> None:
    tracker = SortTracker(lost_s=2.0)
    for step in range(20):
        tracker.follow(step / 10, 0.1 if step else None, [somebody(0.3 + 0.04 * step)], [0.9])
    # Seven tenths of a second later, more than its own width away.
    assert tracker.follow(2.6, 0.1, [somebody(0.3 + 0.04 * 26)], [0.9]) == [1]


def test_a_number_is_never_given_twice() -> None:
    tracker = SortTracker(lost_s=1.0)
    seen = set()
    for step in range(20):
        (number,) = tracker.follow(step * 20.0, 20.0 if step else None, [somebody(0.3 + (step % 2) * 9)], [0.9])
        seen.add(number)
    assert seen == set(range(1, 21))


def test_the_period_follows_the_frames() -> None:
    period_s = next_period_s(None, 0.5)
    assert period_s == 0.5
    for _ in range(20):
        period_s = next_period_s(period_s, 0.1)
    assert period_s == pytest.approx(0.1, rel=0.01)
