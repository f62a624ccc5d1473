"""Motion detection on a real street: CPU a frame, moving people found, area flagged; beside OpenCV's MOG2.

Both look at the same brightness pictures, 100 px high, of `pedestrians.avi`; decoding and scaling are not counted.
Passes alternate, the median one counts. A person of `pedestrians_reference.csv` is *moving* when the centre of the box
gets farther than a third of its own height from half a second before to half a second after: 2,823 of 4,359, of which
2,797 after the first second, in which the background is learnt and nothing counts. The reference has no identities, so
a box is followed to the one in the next frame that overlaps it most (IoU >= 0.3; up to two frames may lack it). A
person is *found* when a motion box covers the centre. The area is that of all motion boxes together.

Frigate's `improved_motion` was measured on the same task elsewhere: 0.46-0.54 ms, 0.999 of 2,845, 0.110 of the area.

    python bench/motion.py [--passes N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bench._site import DATA, read_video
from bench.accuracy import Box, overlap, read_reference
from edge.motion import MotionDetector

Luma = NDArray[np.uint8]

LUMA_HEIGHT_PX = 100
FPS = 10.0
WARM_UP = 10
NEAR_FRAMES = 5
GAP_MAX = 3
IOU_MIN = 0.3
MOVED_MIN = 1 / 3

CPU_MS_TARGET = 0.25
CPU_RATIO_TARGET = 0.5
RECALL_TARGET = 0.999
AREA_TARGET = 0.096


class Outcome(NamedTuple):
    """What one detector achieves.

    Attributes:
        cpu_ms: of one thread, a frame.
        recall: part of the moving people found.
        area: mean part of the picture flagged.
    """

    cpu_ms: float
    recall: float
    area: float


def scale(picture: Luma) -> Luma:
    """Brightness at the height that motion looks at."""
    height, width = picture.shape[:2]
    size = round(width * LUMA_HEIGHT_PX / height), LUMA_HEIGHT_PX
    return np.asarray(
        cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA), np.uint8
    )


def follow(box: Box, frame: int, step: int, reference: dict[int, list[Box]]) -> Box:
    """Where this person is some frames later (step +1) or earlier (step -1), as far as they can be followed."""
    end = frame + step * NEAR_FRAMES
    while frame != end:
        for gap in range(1, min(GAP_MAX, abs(end - frame)) + 1):
            best = max(reference.get(frame + step * gap, []), key=lambda other: overlap(box, other), default=None)
            if best is not None and overlap(box, best) >= IOU_MIN:
                box, frame = best, frame + step * gap
                break
        else:
            return box
    return box


def is_moving(box: Box, frame: int, reference: dict[int, list[Box]]) -> bool:
    """Whether this person walks."""
    before, after = (follow(box, frame, step, reference) for step in (-1, +1))
    moved_x = (after[0] + after[2] - before[0] - before[2]) / 2
    moved_y = (after[1] + after[3] - before[1] - before[3]) / 2
    return bool(np.hypot(moved_x, moved_y) > MOVED_MIN * (box[3] - box[1]))


def run_ours(frames: Sequence[Luma]) -> tuple[float, list[list[Box]]]:
    """CPU seconds, and boxes a frame as fractions of the picture."""
    detector = MotionDetector()
    started_s = time.thread_time()
    results = [detector.step(luma, k / FPS) for k, luma in enumerate(frames)]
    return time.thread_time() - started_s, [list(result.boxes_xyxy) for result in results]


def run_mog2(frames: Sequence[Luma]) -> tuple[float, list[list[Box]]]:
    """The same by OpenCV: background subtraction, shadows dropped, opened, dilated, boxes around contours."""
    height, width = frames[0].shape
    subtractor = cv2.createBackgroundSubtractorMOG2()
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    boxes = []
    started_s = time.thread_time()
    for luma in frames:
        mask = cv2.threshold(subtractor.apply(luma), 200, 255, cv2.THRESH_BINARY)[1]
        mask = cv2.dilate(cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel), kernel)
        contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        boxes.append([cv2.boundingRect(contour) for contour in contours])
    spent_s = time.thread_time() - started_s
    fractions = [
        [(x / width, y / height, (x + w) / width, (y + h) / height) for x, y, w, h in rects] for rects in boxes
    ]
    return spent_s, fractions


def judge(boxes: Sequence[list[Box]], moving: dict[int, list[Box]], size_px: tuple[int, int]) -> tuple[float, float]:
    """Recall of moving people, and mean area."""
    width, height = size_px
    areas, found, wanted = [], 0, 0
    for k in range(WARM_UP, len(boxes)):
        mask = np.zeros((height, width), np.bool_)
        for left, top, right, bottom in boxes[k]:
            mask[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
        areas.append(mask.mean())
        for left, top, right, bottom in moving.get(k + 1, []):
            wanted += 1
            found += bool(mask[min(int((top + bottom) / 2), height - 1), min(int((left + right) / 2), width - 1)])
    return found / wanted, float(np.mean(areas))


def measure(passes: int) -> tuple[Outcome, Outcome]:
    """Ours and MOG2."""
    pictures = read_video(DATA / "pedestrians.avi")
    frames = [scale(picture) for picture in pictures]
    size_px = pictures[0].shape[1], pictures[0].shape[0]
    reference = read_reference(DATA / "pedestrians_reference.csv")
    moving = {
        frame: [box for box in boxes if is_moving(box, frame, reference)] for frame, boxes in list(reference.items())
    }
    counted = sum(len(boxes) for frame, boxes in moving.items() if frame > WARM_UP)
    print(f"{len(frames)} frames, {counted} moving people")
    runners: tuple[Callable[[Sequence[Luma]], tuple[float, list[list[Box]]]], ...] = (run_ours, run_mog2)
    runs = [[run(frames) for run in runners] for _ in range(passes)]
    outcomes = []
    for taken in zip(*runs, strict=True):
        cpu_ms = statistics.median(spent_s for spent_s, _ in taken) / len(frames) * 1e3
        outcomes.append(Outcome(cpu_ms, *judge(taken[0][1], moving, size_px)))
    ours, mog2 = outcomes
    return ours, mog2


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, default=7, help="passes over the video; default 7")
    cv2.setNumThreads(1)
    ours, mog2 = measure(parser.parse_args().passes)
    ratio = ours.cpu_ms / mog2.cpu_ms
    print(f"MOG2  {mog2.cpu_ms:.3f} ms CPU a frame, recall {mog2.recall:.4f}, area {mog2.area:.4f}")
    print(
        f"Vigil {ours.cpu_ms:.3f} ms CPU a frame, recall {ours.recall:.4f}, area {ours.area:.4f}; CPU ratio {ratio:.2f}"
    )
    print(
        f"targets: CPU <= {CPU_MS_TARGET} ms or ratio <= {CPU_RATIO_TARGET}, "
        f"recall >= {RECALL_TARGET}, area <= {AREA_TARGET}"
    )
    fast = ours.cpu_ms <= CPU_MS_TARGET or ratio <= CPU_RATIO_TARGET
    return 0 if fast and ours.recall >= RECALL_TARGET and ours.area <= AREA_TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
