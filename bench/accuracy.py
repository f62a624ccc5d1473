"""Precision and recall on a real street: the whole path, then closer looks at parts and objects over time.

First frames of `pedestrians.avi` go over a broker to a detector process that looks at whole frames only, as JPEGs of
quality 80; the people that come back as detections of at least 0.55 are compared with `pedestrians_reference.csv` at
IoU 0.4. The bare model on the same JPEGs: 0.941 and 0.941.

Then every frame (10 a second) goes through what the worker is made of: the plan of parts from the edge's motion boxes
and the objects so far, the model, the merging, the watch. *Objects* are the boxes that belong to an object that counts,
from its first sighting on (its TrackEvent brings those before it counted). An information sign that the model takes for
a person, at 0.5 in the whole frame and 0.7 from near by, stands in a zone that is excluded, as a camera's owner would
do it; without, objects of at least 0.65 have 0.031 less precision. The least score of objects is the one with the
largest sum of precision and recall on frames 1 to 400, of 0.5 to 0.7 in steps of 0.05.

The reference is another detector's opinion. Where two people walk side by side it has often one box around or between
both, and around small people very loose ones, most of all in frames 100 to 300: of 48 boxes of objects without a
partner in it, drawn at random, all 48 showed a person; of 48 boxes of it that nobody found, two in three were around or
between people who had a box. A mirrored second look (precision 0.929, recall 0.950 at 0.55) and 2x2 tiles (0.947,
0.912 at 0.75), both on every other frame, and means of the scores and boxes of all looks (0.931, 0.940 at 0.60) come no
nearer to both targets.

Last, four such streets in one picture of 960x720: a frame that is larger than the model's input, as nearly all are.

    python bench/accuracy.py [--every N]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import queue
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bench._site import (
    DATA,
    JPEG_QUALITY,
    announce_cameras,
    publish_frame,
    read_video,
    running_site,
    wait_owned,
)
from broker import Delivery
from broker.messages import Box as UnitBox
from broker.messages import Detection, Detections, FrameMeta
from broker.topics import CAMERA_DETECTIONS
from config.cameras import CameraSettings, Zone
from config.settings import DetectorSettings, RegionSettings
from detector.backends import Backend
from detector.decoding import Found, to_detections
from detector.merging import merge
from detector.models import open_backend
from detector.regions import Region, RegionPlanner
from detector.watching import CameraWatch
from edge.motion.detector import MotionDetector

TARGET = 0.92
PRECISION_TARGET, RECALL_TARGET = 0.95, 0.96
IOU_MIN = 0.4
SCORE_MIN = 0.55
OBJECT_SCORE_MIN = 0.6
"""The operating point: boxes below it belong to no object here."""
SMALL_PX = 45
SIGN = Zone(points=((0.02, 0.22), (0.08, 0.22), (0.08, 0.27), (0.02, 0.27)), kind="exclude")
FIRST_HALF = range(1, 401)
FPS = 10.0
MOTION_HEIGHT_PX = 100
STREETS = (0, 195, 390, 590)
"""Frames by which the four streets of the large picture are ahead."""
LARGE_FRAMES = range(11, 200, 2)
LARGE_SCORE_MIN = 0.5
WHOLE_FRAMES_ONLY = "detector:\n  regions:\n    per_frame_max: 0\n"
Box = tuple[float, float, float, float]


def read_reference(path: Path) -> dict[int, list[Box]]:
    """Boxes by number of the frame, from 1."""
    boxes: dict[int, list[Box]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            boxes[int(row["frame"])].append((float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"])))
    return boxes


def overlap(first: Box, second: Box) -> float:
    """Intersection over union."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / (areas - width * height)


def match(found: Iterable[Box], reference: Sequence[Box]) -> list[Box]:
    """Reference boxes that are found: each box takes the one that it overlaps most, and each of those counts once."""
    free, taken = list(reference), []
    for box in found:
        best = max(free, key=lambda other: overlap(box, other), default=None)
        if best is not None and overlap(box, best) >= IOU_MIN:
            free.remove(best)
            taken.append(best)
    return taken


@dataclass(frozen=True, slots=True)
class Outcome:
    """How well boxes fit the reference.

    Attributes:
        small: part of the people below 45 px that is found.
    """

    precision: float
    recall: float
    small: float

    def __str__(self) -> str:
        """For the table."""
        return f"{self.precision:.3f} {self.recall:.3f} {self.small:.3f}"


def judge(found: Mapping[int, Sequence[Box]], reference: Mapping[int, Sequence[Box]]) -> Outcome:
    """Compare with the reference, best boxes first, in the frames that were looked at."""
    right = [box for number, boxes in found.items() for box in match(boxes, reference.get(number, ()))]
    there = [box for number in found for box in reference.get(number, ())]
    return Outcome(
        len(right) / max(1, sum(map(len, found.values()))),
        len(right) / max(1, len(there)),
        sum(map(_is_small, right)) / max(1, sum(map(_is_small, there))),
    )


def _is_small(box: Box) -> bool:
    return box[3] - box[1] < SMALL_PX


# --- over the broker --------------------------------------------------------------------------------------------


def score_video(every: int) -> dict[int, list[Box]]:
    """People of at least the least score, best first, by number of the frame."""
    found: dict[int, list[Box]] = {}
    answers: queue.Queue[Detections] = queue.Queue()

    def on_detections(delivery: Delivery) -> None:
        if isinstance(delivery.content, Detections):
            answers.put(delivery.content)

    detector = ("detector", "--model", str(DATA / "yolox_nano.onnx"))
    with tempfile.TemporaryDirectory() as folder, running_site(Path(folder), WHOLE_FRAMES_ONLY, detector) as bus:
        bus.subscribe(CAMERA_DETECTIONS, on_detections)
        announce_cameras(bus, ["street"], FPS)
        wait_owned(bus, ["street"])
        for number, picture in enumerate(read_video(DATA / "pedestrians.avi"), start=1):
            if number % every:
                continue
            publish_frame(bus, "street", number, picture)
            scores = answers.get(timeout=30)
            assert scores.frame_seq == number
            found[number] = _people(scores.detections, SCORE_MIN)
    return found


def _people(detections: Iterable[Detection], score_min: float) -> list[Box]:
    return [one.box_px for one in detections if one.label == "person" and one.score >= score_min]


# --- through what the worker is made of -------------------------------------------------------------------------


class Street:
    """A video as the edge sends it: JPEGs with boxes of what moves.

    Args:
        pictures: uint8 [h, w, 3], blue-green-red.
        motion: boxes in which something moves, a tuple a picture.
        reference: boxes of people by number of the frame, from 1.
        backend: who looks; what it says of one part of one frame is asked for once.
        zones: of the camera.
    """

    def __init__(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        motion: Sequence[tuple[UnitBox, ...]],
        reference: Mapping[int, Sequence[Box]],
        backend: Backend,
        zones: Mapping[str, Zone],
    ) -> None:
        coded = (cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1] for picture in pictures)
        self._pictures = [np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8) for jpeg in coded]
        self._backend = backend
        self._looks: dict[tuple[int, Region | None], Found] = {}
        self.motion = motion
        self.reference = reference
        self.zones = dict(zones)
        self.height_px, self.width_px = pictures[0].shape[:2]

    def meta(self, number: int) -> FrameMeta:
        """What the edge says of a frame."""
        return FrameMeta(
            camera="street",
            node="bench",
            seq=number,
            captured_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number / FPS),
            width=self.width_px,
            height=self.height_px,
            moving=True,
            motion=self.motion[number - 1],
        )

    def look(self, number: int, region: Region | None = None) -> Found:
        """What the model says of a frame or of a part of it."""
        if (number, region) not in self._looks:
            picture = self._pictures[number - 1]
            prepared = self._backend.prepare(picture if region is None else region.cut(picture))
            (outputs,) = self._backend.infer([prepared])
            self._looks[number, region] = self._backend.decode(outputs, prepared)
        return self._looks[number, region]


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a street.

    Attributes:
        detections: by number of the frame.
        objects: boxes of objects, by number of the frame.
        looks: inferences a frame.
    """

    detections: dict[int, tuple[Detection, ...]]
    objects: dict[int, list[Box]]
    looks: float

    def boxes(self, score_min: float) -> dict[int, list[Box]]:
        """People of at least that score."""
        return {number: _people(found, score_min) for number, found in self.detections.items()}


def watch(street: Street, backend: Backend, settings: DetectorSettings, frames: Iterable[int], least: float) -> Seen:
    """Look at frames as the worker does.

    Args:
        street: what is there.
        backend: the model.
        settings: of regions and tracking.
        frames: numbers of the frames.
        least: the score that the watch needs.
    """
    ids = itertools.count(1)
    watched = CameraWatch("street", settings, CameraSettings(zones=street.zones), (), new_id=lambda: str(next(ids)))
    planner = RegionPlanner(settings.regions, detail_min=0.0)  # to measure what it would be without
    detections: dict[int, tuple[Detection, ...]] = {}
    objects: dict[str, dict[int, Box]] = defaultdict(dict)
    looks = 0
    for number in frames:
        meta = street.meta(number)
        size_px = street.width_px, street.height_px
        regions = planner.plan(
            meta.captured_at.timestamp(),
            *size_px,
            motion=meta.motion,
            tracks=watched.tracks,
            input_px=backend.input_px,
            budget=settings.regions.per_frame_max,
        )
        looks += 1 + len(regions)
        parts = [(region, street.look(number, region)) for region in regions]
        found = merge(street.look(number), parts, width_px=size_px[0], height_px=size_px[1], nms_iou=settings.nms_iou)
        detections[number] = to_detections(found, backend.labels, *size_px)
        seen = watched.look(meta, tuple(one for one in detections[number] if one.score >= least))
        for change in seen.changes:
            if change.type == "start" and change.track.label == "person":
                for step in change.track.path:
                    at = round((step.at_s - street.meta(0).captured_at.timestamp()) * FPS)
                    objects[change.track.track_id][at] = _to_px(step.box, *size_px)
        for one in seen.detections:
            if one.track_id and one.label == "person":
                objects[one.track_id][number] = one.box_px
    boxes = {number: [places[number] for places in objects.values() if number in places] for number in detections}
    return Seen(detections, boxes, looks / max(1, len(detections)))


def _to_px(box: Box, width_px: int, height_px: int) -> Box:
    return box[0] * width_px, box[1] * height_px, box[2] * width_px, box[3] * height_px


def find_motion(pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[UnitBox, ...]]:
    """Boxes in which something moves, as the edge finds them."""
    detector = MotionDetector()
    height, width = pictures[0].shape[:2]
    size = round(width * MOTION_HEIGHT_PX / height), MOTION_HEIGHT_PX
    return [
        detector.step(
            np.asarray(
                cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA), np.uint8
            ),
            number / FPS,
        ).boxes_xyxy
        for number, picture in enumerate(pictures)
    ]


def four_streets(
    pictures: Sequence[NDArray[np.uint8]],
    motion: Sequence[tuple[UnitBox, ...]],
    reference: Mapping[int, Sequence[Box]],
    backend: Backend,
) -> Street:
    """Four moments of the street in one picture."""
    height, width = pictures[0].shape[:2]
    places = [(0, 0), (width, 0), (0, height), (width, height)]
    large, moving = [], []
    boxes: dict[int, list[Box]] = {}
    for number in range(1, LARGE_FRAMES.stop):
        four = [pictures[ahead + number - 1] for ahead in STREETS]
        large.append(np.vstack((np.hstack(four[:2]), np.hstack(four[2:]))))
        around = [(x, y, ahead + number) for (x, y), ahead in zip(places, STREETS, strict=True)]
        boxes[number] = [
            (x1 + x, y1 + y, x2 + x, y2 + y) for x, y, one in around for x1, y1, x2, y2 in reference.get(one, ())
        ]
        moving.append(
            tuple(
                ((x1 + x / width) / 2, (y1 + y / height) / 2, (x2 + x / width) / 2, (y2 + y / height) / 2)
                for x, y, one in around
                for x1, y1, x2, y2 in motion[one - 1]
            )
        )
    return Street(large, moving, boxes, backend, {})


def _settings(per_frame_max: int) -> DetectorSettings:
    return DetectorSettings(
        model=DATA / "yolox_nano.onnx", rules={}, regions=RegionSettings(per_frame_max=per_frame_max)
    )


def _say(what: str, boxes: Mapping[int, Sequence[Box]], reference: Mapping[int, Sequence[Box]]) -> Outcome:
    halves = [{n: one for n, one in boxes.items() if (n in FIRST_HALF) == first} for first in (True, False)]
    outcome = judge(boxes, reference)
    print(f"{what:45} {outcome} | {judge(halves[0], reference)} | {judge(halves[1], reference)}")
    return outcome


def compare(street: Street, backend: Backend) -> Outcome:
    """Print what parts and objects gain on the street; returns how well objects fit."""
    print(f"{'precision, recall, recall of small people':45} {'all':17} | {'frames 1-400':17} | frames 401-795")
    outcome = Outcome(0, 0, 0)
    for parts in (0, RegionSettings().per_frame_max):
        seen = watch(street, backend, _settings(parts), range(1, len(street.motion) + 1), OBJECT_SCORE_MIN)
        print(f"up to {parts} parts a frame, {seen.looks:.2f} inferences a frame")
        for score_min in (0.5, 0.55, 0.6, 0.65, 0.7):
            _say(f"  detections of at least {score_min}", seen.boxes(score_min), street.reference)
        outcome = _say(f"  objects, of detections of at least {OBJECT_SCORE_MIN}", seen.objects, street.reference)
    return outcome


def compare_large(street: Street, backend: Backend) -> None:
    """Print what parts gain in a large picture."""
    for parts in (0, 1, 2, 4, 8):
        seen = watch(street, backend, _settings(parts), LARGE_FRAMES, OBJECT_SCORE_MIN)
        outcome = judge(seen.boxes(LARGE_SCORE_MIN), street.reference)
        print(
            f"960x720, up to {parts} parts a frame, {seen.looks:.2f} inferences, detections of at least "
            f"{LARGE_SCORE_MIN}: precision {outcome.precision:.3f}, recall {outcome.recall:.3f}, of people below "
            f"{SMALL_PX} px {outcome.small:.3f}"
        )


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=5, help="send every Nth frame over the broker; default 5")
    options = parser.parse_args()
    reference = read_reference(DATA / "pedestrians_reference.csv")
    whole = judge(score_video(options.every), reference)
    pictures = read_video(DATA / "pedestrians.avi")
    motion = find_motion(pictures)
    backend = open_backend(_settings(0))
    objects = compare(Street(pictures, motion, reference, backend, {"sign": SIGN}), backend)
    compare_large(four_streets(pictures, motion, reference, backend), backend)
    print(
        f"over the broker, every {options.every}th frame, whole, score >= {SCORE_MIN}: precision "
        f"{whole.precision:.3f}, recall {whole.recall:.3f} (target: both >= {TARGET})"
    )
    print(
        f"parts and objects, every frame: precision {objects.precision:.3f} (target >= {PRECISION_TARGET}), recall "
        f"{objects.recall:.3f} (target >= {RECALL_TARGET})"
    )
    fits = objects.precision >= PRECISION_TARGET and objects.recall >= RECALL_TARGET
    return 0 if fits and min(whole.precision, whole.recall) >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
