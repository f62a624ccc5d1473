"""Precision and recall of the whole path on a real street: frames on a broker, a detector process, scores off the bus.

Frames of `pedestrians.avi` go out one at a time as JPEGs of quality 80; the people that come back as detections of at
least 0.55 are compared with `pedestrians_reference.csv` at IoU 0.4. The bare model on the same JPEGs: 0.941 and 0.941.

    python bench/accuracy.py [--every N]
"""

from __future__ import annotations

import argparse
import csv
import queue
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench._site import DATA, publish_frame, read_video, running_site
from broker import Delivery
from broker.messages import Detections
from broker.topics import CAMERA_DETECTIONS

TARGET = 0.92
IOU_MIN = 0.4
SCORE_MIN = 0.55
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


def count_matches(found: Sequence[Box], reference: Sequence[Box]) -> int:
    """Boxes that are right: each takes the reference box that it overlaps most, and each of those counts once."""
    free = list(reference)
    for box in found:
        best = max(free, key=lambda other: overlap(box, other), default=None)
        if best is not None and overlap(box, best) >= IOU_MIN:
            free.remove(best)
    return len(reference) - len(free)


def score_video(every: int) -> dict[int, list[Box]]:
    """People of at least the least score, best first, by number of the frame."""
    found: dict[int, list[Box]] = {}
    answers: queue.Queue[Detections] = queue.Queue()

    def on_detections(delivery: Delivery) -> None:
        if isinstance(delivery.content, Detections):
            answers.put(delivery.content)

    detector = ("detector", "--model", str(DATA / "yolox_nano.onnx"))
    with tempfile.TemporaryDirectory() as folder, running_site(Path(folder), "", detector) as bus:
        bus.subscribe(CAMERA_DETECTIONS, on_detections)
        for number, picture in enumerate(read_video(DATA / "pedestrians.avi"), start=1):
            if number % every:
                continue
            publish_frame(bus, "street", number, picture)
            scores = answers.get(timeout=30)
            assert scores.frame_seq == number
            found[number] = [d.box_px for d in scores.detections if d.label == "person" and d.score >= SCORE_MIN]
    return found


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=5, help="score every Nth frame; default 5")
    options = parser.parse_args()
    found = score_video(options.every)
    reference = read_reference(DATA / "pedestrians_reference.csv")
    right = sum(count_matches(boxes, reference[number]) for number, boxes in found.items())
    precision = right / max(1, sum(map(len, found.values())))
    recall = right / max(1, sum(len(reference[number]) for number in found))
    print(
        f"{len(found)} frames, person, score >= {SCORE_MIN}, IoU >= {IOU_MIN}: precision {precision:.3f}, "
        f"recall {recall:.3f} (target: both >= {TARGET})"
    )
    return 0 if min(precision, recall) >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
