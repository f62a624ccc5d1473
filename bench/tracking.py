"""MOTA and IDF1 of the tracker and its rivals on a real street, at the rates at which the mesh sends frames.

Boxes are YOLOX-Nano's of `pedestrians.avi`, from JPEGs of quality 80; py-motmetrics compares what the trackers make
of them with `pedestrians_reference.csv` at IoU 0.4. The reference has boxes and no identities. Those are made here,
looking into the future, which no tracker can: boxes of neighbouring frames that overlap are one person, and so are
two pieces of which each, prolonged at its own pace, meets the other within 3 s. That leaves more identities than there
are people, so IDF1 is for comparison only; the most that anybody reaches is about 0.6.

    python bench/tracking.py [--python PATH]...

Each library runs in a process of its own (`bench/_tracker.py`). Those that cannot be installed beside Vigil's own
dependencies run with the Python of another environment: `--python PATH`, as often as there are such.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from statistics import fmean, median

import cv2
import motmetrics
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from bench._site import DATA, read_video
from bench._tracker import RIVALS, SCORE_MIN, VIGIL
from broker.messages import Detection, FrameMeta
from config.cameras import CameraSettings
from config.settings import DetectorSettings
from detector.decoding import to_detections
from detector.models import open_file
from detector.watching import CameraWatch

FPS = 10.0
RATES = {"10 fps": 1, "5 fps": 2, "2 fps": 5, "uneven": 0}
"""Every which frame; 0 takes one of the next 8, by chance."""
TARGETS = {"10 fps": (0.78, 0.50), "5 fps": (0.76, 0.50), "2 fps": (0.68, 0.50), "uneven": (0.70, 0.45)}
"""MOTA and IDF1 that Vigil's tracker reaches."""
IOU_MIN = 0.4
WHOLE = "vigil, whole"
WIDTH, HEIGHT = 480, 360
Box = tuple[float, float, float, float]
Named = Mapping[int, Sequence[tuple[int, Box]]]
"""Boxes with the number of their object, by number of the frame."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one tracker takes: microseconds a frame, and what its import takes."""

    frame_us: float
    import_s: float = 0.0
    import_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """What one tracker makes of the video at one rate."""

    mota: float
    idf1: float
    switches: int
    cost: Cost


# --- the reference --------------------------------------------------------------------------------------------


def overlaps(first: Sequence[Box], second: Sequence[Box]) -> NDArray[np.float64]:
    """Intersection over union of each with each."""
    a, b = (np.asarray(boxes, float).reshape(-1, 4) for boxes in (first, second))
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    result: NDArray[np.float64] = shared / (areas[0][:, None] + areas[1][None] - shared)
    return result


Piece = list[tuple[int, Box]]


def read_reference() -> Named:
    """The reference with identities."""
    boxes: dict[int, list[Box]] = defaultdict(list)
    with (DATA / "pedestrians_reference.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            boxes[int(row["frame"])].append((float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"])))
    named: dict[int, list[tuple[int, Box]]] = defaultdict(list)
    for identity, piece in enumerate(_joined(_pieces(boxes))):
        for number, box in piece:
            named[number].append((identity, box))
    return named


def _pieces(boxes: Mapping[int, Sequence[Box]]) -> list[Piece]:
    """Boxes of neighbouring frames that overlap by 0.3, each with one other."""
    pieces: list[Piece] = []
    for number in sorted(boxes):
        found = boxes[number]
        live = [piece for piece in pieces if number - piece[-1][0] <= 2]
        free = set(range(len(found)))
        if live:
            shared = overlaps([piece[-1][1] for piece in live], found)
            for row, place in zip(*linear_sum_assignment(-shared), strict=True):
                if shared[row, place] >= 0.3:
                    live[row].append((number, found[place]))
                    free.remove(int(place))
        pieces.extend([(number, found[place])] for place in sorted(free))
    return pieces


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Pieces of one person put together, the surest pair first; what is seen in fewer than 5 frames is left out."""
    while pairs := [
        (error, a, b)
        for a, first in enumerate(pieces)
        for b, second in enumerate(pieces)
        if 0 < second[0][0] - first[-1][0] <= 3 * FPS and (error := _error(first, second)) < 0.5
    ]:
        _, a, b = min(pairs)
        pieces[a].extend(pieces[b])
        del pieces[b]
    return [piece for piece in pieces if len(piece) >= 5]


def _error(first: Piece, second: Piece) -> float:
    """By how many heights of a person two pieces miss each other, when each is prolonged at its own pace."""
    gap = second[0][0] - first[-1][0]
    (x1, y1), (vx1, vy1) = _foot(first[-1][1]), _pace(first[-10:])
    (x2, y2), (vx2, vy2) = _foot(second[0][1]), _pace(second[:10])
    there = math.hypot(x1 + vx1 * gap - x2, y1 + vy1 * gap - y2)
    back = math.hypot(x2 - vx2 * gap - x1, y2 - vy2 * gap - y1)
    return (there + back) / 2 / (first[-1][1][3] - first[-1][1][1])


def _foot(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, box[3]


def _pace(piece: Piece) -> tuple[float, float]:
    (start, first), (end, last) = piece[0], piece[-1]
    if start == end:
        return 0.0, 0.0
    (x1, y1), (x2, y2) = _foot(first), _foot(last)
    return (x2 - x1) / (end - start), (y2 - y1) / (end - start)


# --- the trackers ---------------------------------------------------------------------------------------------

Seen = dict[int, list[Detection]]


def detect() -> Seen:
    """People in each frame of the video."""
    backend = open_file(DATA / "yolox_nano.onnx", DetectorSettings(min_score=0.1))
    seen: Seen = {}
    for number, picture in enumerate(read_video(DATA / "pedestrians.avi"), start=1):
        _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])
        prepared = backend.prepare(np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8))
        found = backend.decode(backend.infer([prepared])[0], prepared)
        detections = to_detections(found, backend.labels, WIDTH, HEIGHT)
        seen[number] = [detection for detection in detections if detection.label == "person"]
    return seen


def chosen_frames(rate: str, last: int) -> list[int]:
    """Numbers of the frames that are looked at."""
    if RATES[rate]:
        return list(range(1, last + 1, RATES[rate]))
    steps, numbers = np.random.default_rng(1).choice((1, 1, 2, 3, 5, 8), last), [1]
    for step in steps:
        numbers.append(numbers[-1] + int(step))
    return [number for number in numbers if number <= last]


def run_alone(python: str, name: str, rate: str, seen: Seen, reference: Named) -> Result | str:
    """Run one library; the reason why not, where it cannot."""
    _, _, score_min = RIVALS[name]
    numbers = chosen_frames(rate, max(seen))
    kept = {number: [one for one in seen[number] if one.score >= score_min] for number in numbers}
    # In heights of the picture, as Vigil's tracker has it; thousands of them, for those that count in pixels.
    scale = 1.0 if name == VIGIL else HEIGHT
    frames = [
        (
            number / FPS,
            [[side / HEIGHT * scale for side in one.box_px] for one in kept[number]],
            [one.score for one in kept[number]],
        )
        for number in numbers
    ]
    command = [python, str(Path(__file__).with_name("_tracker.py")), name]
    fps = len(numbers) / (max(seen) / FPS)
    said = subprocess.run(
        command,
        input=json.dumps({"fps": fps, "frames": frames}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if said.returncode:
        return said.stderr.strip().splitlines()[-1]
    answer = json.loads(said.stdout)
    if "missing" in answer:
        return str(answer["missing"])
    named = {
        number: [(who, one.box_px) for who, one in zip(objects, kept[number], strict=True) if who is not None]
        for number, objects in zip(numbers, answer["numbers"], strict=True)
    }
    return judge(named, numbers, reference, Cost(answer["frame_us"], answer["import_s"], answer["import_mb"]))


def run_whole(rate: str, seen: Seen, reference: Named) -> Result:
    """Run all that Vigil does with boxes: objects that count, their paths, zones and speeds."""
    ids = count(1)
    watch = CameraWatch("street", DetectorSettings(), CameraSettings(source="test:"), (), new_id=lambda: str(next(ids)))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    named: dict[int, list[tuple[int, Box]]] = {}
    spent_s: list[float] = []
    numbers = chosen_frames(rate, max(seen))
    for number in numbers:
        at = start + timedelta(seconds=number / FPS)
        meta = FrameMeta(camera="street", node="bench", seq=number, captured_at=at, width=WIDTH, height=HEIGHT)
        found = tuple(one for one in seen[number] if one.score >= SCORE_MIN)
        started_s = time.perf_counter()
        look = watch.look(meta, found)
        spent_s.append(time.perf_counter() - started_s)
        named[number] = [(int(one.track_id), one.box_px) for one in look.detections if one.track_id]
    return judge(named, numbers, reference, Cost(median(spent_s) * 1e6))


def judge(named: Named, numbers: Sequence[int], reference: Named, cost: Cost) -> Result:
    """Compare with the reference."""
    events = motmetrics.MOTAccumulator(auto_id=True)
    for number in numbers:
        wanted, found = reference.get(number, []), named.get(number, [])
        distances = 1 - overlaps([box for _, box in wanted], [box for _, box in found])
        distances[distances > 1 - IOU_MIN] = np.nan
        events.update([who for who, _ in wanted], [who for who, _ in found], distances)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # py-motmetrics and the pandas of today
        scores = motmetrics.metrics.create().compute(events, metrics=["mota", "idf1", "num_switches"]).iloc[0]
    return Result(float(scores["mota"]), float(scores["idf1"]), int(scores["num_switches"]), cost)


# --- the table ------------------------------------------------------------------------------------------------


def show(name: str, rate: str, result: Result) -> None:
    """One line of the table."""
    cost = result.cost
    weight = f"  import {cost.import_s:5.2f} s {cost.import_mb:4.0f} MB" if cost.import_s else ""
    print(
        f"{name:22} {rate:7} MOTA {result.mota:.3f}  IDF1 {result.idf1:.3f}  switches {result.switches:4} "
        f"{cost.frame_us:7.0f} us a frame{weight}",
        flush=True,
    )


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", default=[], help="of an environment with other libraries")
    pythons = [sys.executable, *parser.parse_args().python]
    seen, reference = detect(), read_reference()
    people = {who for boxes in reference.values() for who, _ in boxes}
    print(f"{len(seen)} frames, {sum(map(len, reference.values()))} boxes of {len(people)} identities")
    results: dict[str, dict[str, Result]] = defaultdict(dict)
    for name, (package, _, _) in RIVALS.items():
        for python in pythons:
            first = run_alone(python, name, "10 fps", seen, reference)
            if isinstance(first, str):
                continue
            for rate in RATES:
                result = run_alone(python, name, rate, seen, reference)
                assert isinstance(result, Result)
                results[name][rate] = result
                show(name, rate, result)
            break
        else:
            print(f"{name:22} left out: pip install '{package}' into an environment, and --python its python")
    for rate in RATES:
        results[WHOLE][rate] = run_whole(rate, seen, reference)
        show(WHOLE, rate, results[WHOLE][rate])
    return verdict(results)


def verdict(results: Mapping[str, Mapping[str, Result]]) -> int:
    """The figures beside their targets."""
    missed = 0
    for rate, (mota_min, idf1_min) in TARGETS.items():
        own = results[WHOLE][rate]
        good = own.mota >= mota_min and own.idf1 >= idf1_min
        missed += not good
        print(
            f"{rate}: MOTA {own.mota:.3f} (target >= {mota_min}), IDF1 {own.idf1:.3f} (target >= {idf1_min}): "
            f"{'met' if good else 'MISSED'}"
        )
    averages = {name: fmean(result.mota for result in by_rate.values()) for name, by_rate in results.items()}
    rival = max((name for name in averages if name not in {VIGIL, WHOLE}), key=averages.__getitem__)
    behind = averages[rival] - averages[VIGIL]
    missed += behind > 0
    print(f"MOTA over all rates: {averages[VIGIL]:.3f}, best rival {rival} {averages[rival]:.3f} (target: not behind)")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
