"""One tracking library in a process of its own: `bench/tracking.py` gives it boxes and reads numbers of objects.

It needs nothing but the library, so that one which cannot share Vigil's environment runs in another:

    python bench/_tracker.py NAME < boxes.json > numbers.json
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["RIVALS", "VIGIL"]

Box = tuple[float, float, float, float]
Follow = Callable[[float, Sequence[Box], Sequence[float]], list[int | None]]

VIGIL = "vigil"
LOST_S = 2.0
SCORE_MIN = 0.5
"""With which an object begins; what is below is for those that go on with less (ByteTrack)."""


def _vigil(_fps: float) -> Follow:
    tracking = importlib.import_module("detector.tracking")
    sort = tracking.SortTracker(lost_s=LOST_S)
    last_s: float | None = None
    period_s: float | None = None

    def follow(at_s: float, boxes: Sequence[Box], scores: Sequence[float]) -> list[int | None]:
        nonlocal last_s, period_s
        if last_s is not None:
            period_s = tracking.next_period_s(period_s, at_s - last_s)
        last_s = at_s
        numbers: list[int | None] = sort.follow(at_s, period_s, boxes, scores)
        return numbers

    return follow


def _trackforge(kind: str, **options: object) -> Callable[[float], Follow]:
    """As the library is, without what Vigil does around it."""

    def make(fps: float) -> Follow:
        age = "track_buffer" if kind == "BYTETRACK" else "max_age"
        tracker = getattr(importlib.import_module("trackforge"), kind)(**{age: max(2, round(LOST_S * fps))}, **options)

        def follow(_at_s: float, boxes: Sequence[Box], scores: Sequence[float]) -> list[int | None]:
            found = [([b[0], b[1], b[2] - b[0], b[3] - b[1]], s, 0) for b, s in zip(boxes, scores, strict=True)]
            numbers: list[int | None] = [None] * len(found)
            for number, _, _, _, place in tracker.update(found):
                if place is not None:
                    numbers[place] = number
            return numbers

        return follow

    return make


def _norfair(fps: float) -> Follow:
    norfair, numpy = importlib.import_module("norfair"), importlib.import_module("numpy")
    tracker = norfair.Tracker(
        distance_function="iou",
        distance_threshold=0.7,
        hit_counter_max=max(2, round(LOST_S * fps)),
        initialization_delay=0,
    )

    def follow(at_s: float, boxes: Sequence[Box], scores: Sequence[float]) -> list[int | None]:
        found = [
            norfair.Detection(numpy.array(b).reshape(2, 2), scores=numpy.array([s, s]), data=(at_s, place))
            for place, (b, s) in enumerate(zip(boxes, scores, strict=True))
        ]
        numbers: list[int | None] = [None] * len(found)
        for tracked in tracker.update(found):
            seen_s, place = tracked.last_detection.data
            if seen_s == at_s:
                numbers[place] = tracked.id
        return numbers

    return follow


def _boxes_of(boxes: Sequence[Box], scores: Sequence[float]) -> Any:  # noqa: ANN401  # supervision may not be there
    numpy = importlib.import_module("numpy")
    return importlib.import_module("supervision").Detections(
        xyxy=numpy.array(boxes, float).reshape(-1, 4),
        confidence=numpy.array(scores, float),
        class_id=numpy.arange(len(boxes)),  # the place, since the order changes
    )


def _numbers_of(found: Any, count: int) -> list[int | None]:  # noqa: ANN401
    numbers: list[int | None] = [None] * count
    for place, number in zip(found.class_id, found.tracker_id, strict=True):
        numbers[place] = int(number) if number >= 0 else None
    return numbers


def _supervision(fps: float) -> Follow:
    tracker = importlib.import_module("supervision").ByteTrack(
        track_activation_threshold=SCORE_MIN,
        lost_track_buffer=round(LOST_S * 30),
        minimum_matching_threshold=0.9,
        frame_rate=fps,
        minimum_consecutive_frames=1,
    )

    def follow(_at_s: float, boxes: Sequence[Box], scores: Sequence[float]) -> list[int | None]:
        return _numbers_of(tracker.update_with_detections(_boxes_of(boxes, scores)), len(boxes))

    return follow


def _roboflow(kind: str, **options: object) -> Callable[[float], Follow]:
    def make(fps: float) -> Follow:
        tracker = getattr(importlib.import_module("trackers"), kind)(
            lost_track_buffer=round(LOST_S * 30), frame_rate=fps, minimum_consecutive_frames=1, **options
        )

        def follow(at_s: float, boxes: Sequence[Box], scores: Sequence[float]) -> list[int | None]:
            return _numbers_of(tracker.update(_boxes_of(boxes, scores), timestamp=at_s), len(boxes))

        return follow

    return make


RIVALS: dict[str, tuple[str, Callable[[float], Follow], float]] = {
    # Name: what to install, how it is made, and the least score of the boxes that it wants.
    VIGIL: ("trackforge", _vigil, SCORE_MIN),
    "trackforge-sort": ("trackforge", _trackforge("SORT", min_hits=1, iou_threshold=0.3), SCORE_MIN),
    "trackforge-ocsort": ("trackforge", _trackforge("OCSORT", min_hits=1, iou_threshold=0.3), SCORE_MIN),
    "trackforge-bytetrack": (
        "trackforge",
        _trackforge("BYTETRACK", track_thresh=SCORE_MIN, det_thresh=SCORE_MIN, match_thresh=0.9),
        0.1,
    ),
    "norfair": ("norfair", _norfair, SCORE_MIN),
    "supervision-bytetrack": ("supervision<0.31", _supervision, 0.1),
    "roboflow-sort": ("trackers", _roboflow("SORTTracker", track_activation_threshold=SCORE_MIN), SCORE_MIN),
    "roboflow-bytetrack": (
        "trackers",
        _roboflow("ByteTrackTracker", track_activation_threshold=SCORE_MIN, high_conf_det_threshold=SCORE_MIN),
        0.1,
    ),
    "roboflow-ocsort": ("trackers", _roboflow("OCSORTTracker", high_conf_det_threshold=SCORE_MIN), SCORE_MIN),
    "roboflow-cbiou": (
        "trackers",
        _roboflow("CBIoUTracker", track_activation_threshold=SCORE_MIN, high_conf_det_threshold=SCORE_MIN),
        0.1,
    ),
}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> int:
    """Follow what comes in."""
    warnings.simplefilter("ignore")
    _, make, _ = RIVALS[sys.argv[1]]
    video = json.load(sys.stdin)
    importlib.import_module("numpy")  # which every worker has anyway
    if sys.argv[1] == VIGIL:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        importlib.import_module("detector.scene")
    before_mb, started_s = _resident_mb(), time.perf_counter()
    try:
        follow = make(video["fps"])
    except ImportError as error:
        json.dump({"missing": str(error)}, sys.stdout)
        return 0
    import_s, import_mb = time.perf_counter() - started_s, _resident_mb() - before_mb
    numbers, spent_s = [], []
    for at_s, boxes, scores in video["frames"]:
        started_s = time.perf_counter()
        numbers.append(follow(at_s, boxes, scores))
        spent_s.append(time.perf_counter() - started_s)
    result = {
        "numbers": numbers,
        "frame_us": median(spent_s) * 1e6,
        "import_s": import_s,
        "import_mb": import_mb,
    }
    json.dump(result, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
