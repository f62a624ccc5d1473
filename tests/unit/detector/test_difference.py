"""Where two pictures differ."""

from __future__ import annotations

import numpy as np
import pytest

from detector.difference import Difference
from tests.unit.detector.walks import HEIGHT_PX, WIDTH_PX, scene, walk


def test_who_walks_is_in_a_box_and_nothing_else_is() -> None:
    difference = Difference()
    assert difference.boxes(scene(None)) == ()
    boxes = [difference.boxes(picture) for picture in walk(8)]
    for number, found in enumerate(boxes):
        left, top, right, bottom = found[0]
        assert left <= (20 + 4 * number + 15) / WIDTH_PX <= right
        assert top == pytest.approx(80 / HEIGHT_PX, abs=0.06)
        assert bottom == pytest.approx(160 / HEIGHT_PX, abs=0.06)
        assert len(found) == 1


def test_what_stays_or_flickers_a_little_does_not_move() -> None:
    difference, rng = Difference(), np.random.default_rng(1)
    noisy = [np.clip(scene(100).astype(int) + rng.normal(0, 3, scene(100).shape), 0, 255) for _ in range(10)]
    assert [difference.boxes(picture.astype(np.uint8)) for picture in noisy] == [()] * 10


def test_somebody_who_stops_is_forgotten() -> None:
    difference = Difference()
    for picture in walk(5):
        difference.boxes(picture)
    assert difference.boxes(scene(60))
    later = [difference.boxes(scene(60)) for _ in range(40)]
    assert later[-1] == ()


def test_pictures_of_another_size_begin_anew() -> None:
    difference = Difference()
    difference.boxes(scene(20))
    assert difference.boxes(scene(200)[:, : WIDTH_PX // 2]) == ()
    assert difference.boxes(scene(20)[:, : WIDTH_PX // 2])
