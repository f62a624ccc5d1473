"""The drawn room, from pictures over boxes and tracks to rules: who falls is found, who sits or bends is left alone.

YOLOX-nano is sure of the drawn person standing, sitting and bent over (0.5 to 0.9), and as unsure of one who lies as of
real people who lie (0.1 to 0.2). So the fall is told by the drawing's own boxes, and the rest by the model's too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.synthetic.room import PERIOD_S, SyntheticRoom
from tests.support.room import drawn_eye, fired, model_eye


def test_who_falls_is_found_after_ten_seconds_and_who_sits_is_still() -> None:
    told = list(fired(drawn_eye(SyntheticRoom(1)), 7, 90, 2))
    # Sits from second 9 on, lies from 60.8 on; before that bends over, and stands for 7 s.
    assert [rule for rule, _ in told] == ["still", "fall", "still"]
    assert [second for _, second in told] == pytest.approx([29, 70.7, 81], abs=1.5)


def test_a_model_that_sees_who_sits_and_bends_makes_no_fall_of_it(shared_data: Path) -> None:
    see = model_eye(SyntheticRoom(1), shared_data / "yolox_nano.onnx")
    ((rule, second),) = fired(see, 14, 38, 1)
    assert rule == "still"
    assert second == pytest.approx(34, abs=1)
    assert list(fired(see, 42, 54, 1)) == []


def test_the_same_seconds_show_the_same_and_boxes_are_around_who_is_there() -> None:
    room, again = SyntheticRoom(4), SyntheticRoom(4)
    empty = room.picture(0.5).astype(np.int16)
    for at_s, posture in ((20.0, "seated"), (46.0, "bent"), (55.0, "upright"), (75.0, "fallen")):
        picture, person = room.picture(at_s), room.person(at_s)
        assert np.array_equal(picture, again.picture(at_s))
        assert person == room.person(at_s + PERIOD_S)
        assert person is not None
        assert person.posture == posture
        rows, columns = np.nonzero(np.abs(picture.astype(np.int16) - empty).max(axis=2) > 40)
        x1, y1, x2, y2 = person.box_xyxy
        assert (columns.min(), rows.min()) == pytest.approx((x1 * 640, y1 * 360), abs=5)
        assert (columns.max(), rows.max()) == pytest.approx((x2 * 640, y2 * 360), abs=5)
    assert room.person(0.5) is None
