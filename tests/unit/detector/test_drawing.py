"""What is drawn over a picture."""

from __future__ import annotations

import numpy as np
import pytest

from broker.messages import Detection
from detector.drawing import Drawing
from detector.pictures import Picture

Box = tuple[float, float, float, float]


def grey(width: int = 640, height: int = 480) -> Picture:
    return np.full((height, width, 3), 90, np.uint8)


def person(box: Box) -> Detection:
    return Detection(label="person", score=0.8, box=box, box_px=box)


def changed(drawing: Drawing) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.asarray((drawing.pixels != 90).any(axis=2))


@pytest.mark.parametrize(("large", "width"), [(False, 640), (True, 1280)])
def test_a_large_one_is_as_wide_as_a_screen_shows(*, large: bool, width: int) -> None:
    picture = grey()
    drawing = Drawing(picture, large=large)
    assert drawing.pixels.shape == (width * 3 // 4, width, 3)
    drawing.alarms(["somebody is there"])
    assert (picture == 90).all()


def test_an_area_has_its_outline_and_only_a_tint_inside() -> None:
    drawing = Drawing(grey())
    drawing.area("road", [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)], left_out=False)
    inside, outside = drawing.pixels[300, 320], drawing.pixels[60:100, 320]
    assert (outside == 90).all()
    assert 0 < np.abs(inside.astype(int) - 90).max() < 40
    assert changed(drawing)[240, 157:163].all()


def test_a_part_that_was_looked_at_is_a_thin_frame() -> None:
    drawing = Drawing(grey())
    drawing.looked_at((0.25, 0.25, 0.75, 0.75))
    assert changed(drawing).mean() < 0.01
    assert changed(drawing)[120:360, 160].all()
    drawing = Drawing(grey())
    drawing.looked_at((0.0, 0.0, 1.0, 1.0))
    assert changed(drawing)[:, [0, -1]].all()


def test_a_way_is_drawn_from_its_second_step_on() -> None:
    drawing = Drawing(grey())
    drawing.way("#1", [(0.1, 0.5)])
    assert not changed(drawing).any()
    drawing.way("#1", [(0.1, 0.5), (0.9, 0.5)])
    assert changed(drawing)[237:243].any(axis=0).mean() == pytest.approx(0.8, abs=0.02)


def test_objects_in_a_row_have_colours_of_their_own() -> None:
    box = (0.3, 0.4, 0.4, 0.8)
    sides = []
    for name in ("#1", "#2", "#2", ""):
        drawing = Drawing(grey())
        drawing.detections([person(box)], [name])
        sides.append(tuple(drawing.pixels[300, 192].tolist()))
    assert sides[0] != sides[1] == sides[2]


def test_the_words_of_people_in_a_group_do_not_hide_each_other() -> None:
    both = [person((0.3, 0.4, 0.36, 0.8)), person((0.35, 0.4, 0.41, 0.8))]
    alone = Drawing(grey())
    alone.detections(both[:1], ["#1"])
    together = Drawing(grey())
    together.detections(both, ["#1", "#2"])
    words = np.s_[165:190, 192:300]
    assert (alone.pixels[words] == together.pixels[words]).all()
    assert len(together._taken) == 2


def test_alarms_stand_below_each_other_at_the_top() -> None:
    drawing = Drawing(grey())
    drawing.alarms(["one", "two, which is longer"])
    rows = changed(drawing).sum(axis=1)
    text_px = drawing._text_px
    assert 0 < rows[text_px] < rows[text_px * 2 + text_px // 2]
    assert rows[text_px * 5] == 0
