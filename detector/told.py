"""The people whom a camera's node found before it blurred them, among a worker's own detections. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from broker.messages import Detection, FoundPeople, FoundPerson
from detector.sharing import PERSON

__all__ = ["with_told"]

_SAME_MIN = 0.3
"""Intersection over union from which a box of the worker's is the blurred shape of somebody whom the node saw. A shape
without arms and legs gets a looser box than a person."""


def with_told(
    detections: Sequence[Detection], told: FoundPeople, *, min_score: float, width_px: int, height_px: int
) -> tuple[Detection, ...]:
    """Join them: the node saw the people, the worker their blurred shapes and everything else.

    Args:
        detections: what the worker found.
        told: from the frame's metadata.
        min_score: of the told ones, those below it are left out.
        width_px: of the frame.
        height_px: of the frame.

    Returns:
        The best first.
    """
    people = [_detection(person, width_px, height_px) for person in told.people if person.score >= min_score]
    others = [found for found in detections if not (found.label == PERSON and _is_one_of(found, people))]
    return tuple(sorted((*people, *others), key=lambda found: -found.score))


def _detection(person: FoundPerson, width_px: int, height_px: int) -> Detection:
    left, top, right, bottom = person.box
    box_px = (
        round(left * width_px, 1),
        round(top * height_px, 1),
        round(right * width_px, 1),
        round(bottom * height_px, 1),
    )
    return Detection(label=PERSON, score=person.score, box=person.box, box_px=box_px)


def _is_one_of(found: Detection, people: Sequence[Detection]) -> bool:
    return any(_overlap(found, person) >= _SAME_MIN for person in people)


def _overlap(one: Detection, other: Detection) -> float:
    """Intersection over union."""
    wide = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
    high = min(one.box[3], other.box[3]) - max(one.box[1], other.box[1])
    if wide <= 0 or high <= 0:
        return 0.0
    shared = wide * high
    return shared / (_size(one) + _size(other) - shared)


def _size(found: Detection) -> float:
    left, top, right, bottom = found.box
    return (right - left) * (bottom - top)
