from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.backends.hog import HogBackend, HogParameters, margin_to_score, without_inner
from detector.decoding import Found, to_detections
from detector.pictures import Picture
from edge.synthetic.street import SyntheticStreet

Box = tuple[float, float, float, float]


@pytest.fixture(scope="module")
def hog() -> HogBackend:
    return HogBackend(min_score=0.5)


def overlap(first: Box, second: Box) -> float:
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / (areas - width * height)


def people(hog: HogBackend, picture: Picture) -> list[Box]:
    prepared = hog.prepare(picture)
    (outputs,) = hog.infer([prepared])
    found = hog.decode(outputs, prepared)
    return [d.box_px for d in to_detections(found, hog.labels, picture.shape[1], picture.shape[0])]


def test_it_finds_the_people_in_the_street_with_boxes_that_fit_them(hog: HogBackend, shared_data: Path) -> None:
    video = cv2.VideoCapture(str(shared_data / "pedestrians.avi"))
    video.set(cv2.CAP_PROP_POS_FRAMES, 400)
    read, picture = video.read()
    assert read
    boxes = people(hog, np.asarray(picture, np.uint8))
    for person in ((170, 120, 194, 179), (368, 78, 388, 124), (429, 186, 464, 257)):
        assert any(box == pytest.approx(person, abs=20) for box in boxes)


def test_it_sees_the_synthetic_street(hog: HogBackend) -> None:
    street = SyntheticStreet(seed=1)
    seen = in_view = wrong = 0
    for second in range(1, 60, 3):
        truth = [person for person in street.people(second) if person.fully_visible]
        boxes = people(hog, np.ascontiguousarray(street.picture(second)[:, :, ::-1]))
        seen += sum(any(overlap(person.box_xyxy_px, box) > 0.4 for box in boxes) for person in truth)
        in_view += len(truth)
        wrong += len(boxes) if not street.people(second) else 0
    assert in_view >= 10
    assert seen >= 0.7 * in_view
    assert wrong <= 1


@pytest.mark.parametrize(("width", "height"), [(640, 360), (1920, 1080), (1, 1), (40, 30), (30, 400), (2000, 20)])
def test_a_grey_wall_of_any_size_has_nobody(hog: HogBackend, width: int, height: int) -> None:
    assert people(hog, np.full((height, width, 3), 120, np.uint8)) == []


def test_a_margin_at_the_even_point_is_as_likely_a_person_as_not() -> None:
    scores = margin_to_score(np.array([-100, -0.2, 0, 0.47, 1, 2, 100], np.float32))
    assert scores.tolist() == pytest.approx([0, 0.19, 0.26, 0.5, 0.76, 0.97, 1], abs=0.01)
    assert scores.dtype == np.float32


def test_its_identity_is_its_parameters() -> None:
    first, same = HogBackend(min_score=0.35), HogBackend(min_score=0.9)
    other = HogBackend(min_score=0.35, parameters=HogParameters(pyramid=1.3))
    assert first.model == same.model
    assert first.model.sha256 != other.model.sha256
    assert first.model.name == "hog-people"


def test_a_box_inside_another_is_the_same_person() -> None:
    boxes = np.array([(0, 0, 20, 40), (5, 5, 12, 20), (18, 0, 38, 40)], np.float32)
    nested = Found(boxes, np.array([0.8, 0.9, 0.7], np.float32), np.zeros(3, np.int64))
    assert without_inner(nested, 0.4).scores.tolist() == pytest.approx([0.9, 0.7])
    assert len(without_inner(nested[np.zeros(3, np.bool_)], 0.4)) == 0


def test_it_says_how_large_it_looks(hog: HogBackend) -> None:
    assert hog.input_px == (800, 800)
    assert max(hog.prepare(np.zeros((1080, 1920, 3), np.uint8)).pixels.shape) == 800
    hog.close()
