"""People whom a camera's node found before it blurred them."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from broker import decode_frame
from broker.frames import reword_frame
from broker.messages import Detection, FoundPeople, FoundPerson
from detector.told import with_told
from tests.support.waiting import wait_until
from tests.unit.detector.stand_ins import MODEL, frame
from tests.unit.detector.street import Street
from tests.unit.detector.test_worker import running, scored

Box = tuple[float, float, float, float]

WALKER: Box = (0.2, 0.2, 0.3, 0.6)
FAR: Box = (0.7, 0.2, 0.72, 0.3)


def told(*people: tuple[float, Box]) -> FoundPeople:
    return FoundPeople(model=MODEL, people=tuple(FoundPerson(score=score, box=box) for score, box in people))


def own(label: str, score: float, box: Box) -> Detection:
    return Detection(label=label, score=score, box=box, box_px=(0, 0, 1, 1))


def joined(detections: list[Detection], people: FoundPeople) -> list[tuple[str, float, Box]]:
    both = with_told(detections, people, min_score=0.4, width_px=640, height_px=360)
    return [(one.label, one.score, one.box) for one in both]


def test_whom_the_worker_does_not_see_is_added_the_best_first() -> None:
    car = own("car", 0.7, (0.1, 0.1, 0.5, 0.4))
    assert joined([car], told((0.9, WALKER), (0.5, FAR))) == [
        ("person", 0.9, WALKER),
        ("car", 0.7, car.box),
        ("person", 0.5, FAR),
    ]


@pytest.mark.parametrize("score", [0.45, 0.95])
def test_a_blurred_shape_is_the_person_whom_the_node_saw(score: float) -> None:
    shape = own("person", score, (0.17, 0.17, 0.33, 0.63))
    assert joined([shape], told((0.9, WALKER))) == [("person", 0.9, WALKER)]


def test_somebody_else_and_something_else_in_the_same_place_stay() -> None:
    other = own("person", 0.6, (0.32, 0.2, 0.42, 0.6))
    dog = own("dog", 0.5, WALKER)
    assert [label for label, _, _ in joined([other, dog], told((0.9, WALKER)))] == ["person", "person", "dog"]


def test_weak_ones_are_left_out_and_hide_nobody() -> None:
    mine = own("person", 0.6, WALKER)
    assert joined([mine], told((0.39, WALKER))) == [("person", 0.6, WALKER)]


def test_boxes_are_told_in_pixels_too() -> None:
    (one,) = with_told([], told((0.9, WALKER)), min_score=0.4, width_px=640, height_px=360)
    assert one.box_px == (128.0, 72.0, 192.0, 216.0)


def test_a_worker_takes_them_and_says_whose_they_are(street: Street) -> None:
    people = told((0.9, WALKER))
    with running(street) as at_work:
        dark = decode_frame(frame(1, datetime.now(UTC), person=False))
        street.send(reword_frame(dark, msgspec.structs.replace(dark.meta, people=people)))
        wait_until(lambda: scored(street))
        (scores,) = scored(street)
        assert [(one.label, one.score, one.box) for one in scores.detections] == [("person", 0.9, WALKER)]
        assert scores.people_by == people.model
        assert at_work.figure("counts", "frames_scored") == 1


def test_without_them_nobody_is_told_of(street: Street) -> None:
    with running(street):
        street.send(frame(1, datetime.now(UTC), person=False))
        wait_until(lambda: scored(street))
        (scores,) = scored(street)
        assert scores.detections == ()
        assert scores.people_by is None
