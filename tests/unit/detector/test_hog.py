from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.backends.hog import HogBackend, HogParameters, margin_to_score
from detector.decoding import to_detections
from detector.pictures import Picture


@pytest.fixture(scope="module")
def hog() -> HogBackend:
    return HogBackend(min_score=0.35)


def people(hog: HogBackend, picture: Picture) -> list[tuple[float, float, float, float]]:
    prepared = hog.prepare(picture)
    (outputs,) = hog.infer([prepared])
    found = hog.decode(outputs, prepared)
    return [d.box_px for d in to_detections(found, hog.labels, picture.shape[1], picture.shape[0])]


def test_it_finds_the_people_in_the_street_with_boxes_that_fit_them(hog: HogBackend, shared_data: Path) -> None:
    video = cv2.VideoCapture(str(shared_data / "pedestrians.avi"))
    video.set(cv2.CAP_PROP_POS_FRAMES, 99)
    read, picture = video.read()
    assert read
    boxes = people(hog, np.asarray(picture, np.uint8))
    assert len(boxes) >= 3
    # The person that YOLOX and the reference have at (215, 123, 231, 172).
    assert any(box == pytest.approx((215, 123, 231, 172), abs=8) for box in boxes)


@pytest.mark.parametrize(("width", "height"), [(640, 360), (1920, 1080), (1, 1), (40, 30), (30, 400), (2000, 20)])
def test_a_grey_wall_of_any_size_has_nobody(hog: HogBackend, width: int, height: int) -> None:
    assert people(hog, np.full((height, width, 3), 120, np.uint8)) == []


def test_a_margin_at_the_even_point_is_as_likely_a_person_as_not() -> None:
    scores = margin_to_score(np.array([-100, -0.2, 0, 0.47, 1, 2, 100], np.float32))
    assert scores.tolist() == pytest.approx([0, 0.18, 0.26, 0.5, 0.77, 0.97, 1], abs=0.01)
    assert scores.dtype == np.float32


def test_its_identity_is_its_parameters() -> None:
    first, same = HogBackend(min_score=0.35), HogBackend(min_score=0.9)
    other = HogBackend(min_score=0.35, parameters=HogParameters(pyramid=1.3))
    assert first.model == same.model
    assert first.model.sha256 != other.model.sha256
    assert first.model.name == "hog-people"
