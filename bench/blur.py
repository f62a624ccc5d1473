"""How much of the people on a real street `blur: people` hides, with the model of a node.

`pedestrians.avi` at five frames a second, as a camera sends them while something moves. A person of
`pedestrians_reference.csv` counts as hidden when nine tenths of the box are inside the boxes that are blurred. The
same without remembering is beside it: a finder that misses somebody in one picture then shows them.

    python bench/blur.py [--model PATH] [--frames N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bench._site import DATA, read_video
from bench.accuracy import Box, read_reference
from config.cameras import PrivacySettings
from config.settings import DetectorSettings
from detector.models import open_backend
from detector.sharing import PeopleFinder, SharedBackend
from edge.picture import Picture
from edge.privacy import Privacy

EVERY = 2
FPS = 10.0
WHOLE = 0.9
TARGET = 0.97


def to_picture(bgr: NDArray[np.uint8]) -> Picture:
    """The same picture as planes."""
    height, width = bgr.shape[:2]
    packed = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420), np.uint8)
    u, v = packed[height:].reshape(2, height // 2, width // 2)
    return Picture(packed[:height].copy(), u.copy(), v.copy())


def covered(boxes: Sequence[Box], person: Box, size_px: tuple[int, int]) -> float:
    """Part of a person's box that is inside others."""
    width, height = size_px
    hidden = np.zeros((height, width), np.bool_)
    for left, top, right, bottom in boxes:
        rows = slice(max(0, int(top * height)), max(0, round(bottom * height)))
        hidden[rows, max(0, int(left * width)) : max(0, round(right * width))] = True
    left, top, right, bottom = (round(max(0.0, edge)) for edge in person)
    return float(hidden[top:bottom, left:right].mean())


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=DATA / "yolox_nano.onnx")
    parser.add_argument("--frames", type=int, default=795, help="of the video; default all")
    options = parser.parse_args()
    find = PeopleFinder(SharedBackend(open_backend(DetectorSettings(model=options.model))))
    settings = PrivacySettings(blur="people")
    reference = read_reference(DATA / "pedestrians_reference.csv")
    remembering = Privacy(settings, find_people=find)
    shares: dict[str, list[float]] = {"remembered": [], "forgotten": []}
    hidden_area, spent_ms = [], []
    for number, bgr in enumerate(read_video(DATA / "pedestrians.avi")[: options.frames], start=1):
        if number % EVERY:
            continue
        picture = to_picture(bgr)
        started_s = time.process_time()
        remembered = remembering.find(picture, number / FPS).hide_xyxy
        spent_ms.append((time.process_time() - started_s) * 1e3)
        boxes = {
            "remembered": remembered,
            "forgotten": Privacy(settings, find_people=find).find(picture, number / FPS).hide_xyxy,
        }
        size_px = bgr.shape[1], bgr.shape[0]
        for how, where in boxes.items():
            shares[how] += [covered(where, person, size_px) for person in reference.get(number, [])]
        hidden_area.append(covered(boxes["remembered"], (0, 0, *size_px), size_px))
    whole = {how: float(np.mean(np.array(values) >= WHOLE)) for how, values in shares.items()}
    people, pictures = len(shares["remembered"]), len(hidden_area)
    print(f"{people} people in {pictures} pictures; {np.mean(hidden_area):.2f} of the picture blurred")
    print(f"looking for them: {statistics.median(spent_ms):.0f} ms CPU a picture")
    print(f"hidden without remembering: {whole['forgotten']:.4f}")
    print(f"hidden: {whole['remembered']:.4f} of the people; target >= {TARGET}")
    return 0 if whole["remembered"] >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
