"""Videos of somebody who walks, and a model that sees everything bright as a person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from broker.messages import ModelRef
from detector.backends import Prepared
from detector.decoding import Fit, Found, Outputs
from detector.pictures import Picture

__all__ = ["HEIGHT_PX", "WIDTH_PX", "SpotBackend", "save_video", "scene", "walk"]

WIDTH_PX, HEIGHT_PX = 320, 240


def scene(left: int | None) -> Picture:
    """A dark yard, and somebody in white at this place."""
    rng = np.random.default_rng(3)
    picture = np.repeat(rng.integers(40, 70, (HEIGHT_PX, WIDTH_PX, 1), np.uint8), 3, axis=2)
    if left is not None:
        picture[80:160, left : left + 30] = 250
    return np.asarray(cv2.GaussianBlur(picture, (5, 5), 0), np.uint8)


def walk(pictures: int, step_px: int = 4) -> list[Picture]:
    """Somebody walks to the right, so many pixels a picture."""
    return [scene(20 + step_px * number) for number in range(pictures)]


def save_video(path: Path, pictures: Sequence[Picture], fps: float) -> Path:
    """A video with these pictures."""
    film = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), fps, (WIDTH_PX, HEIGHT_PX))
    assert film.isOpened()
    for picture in pictures:
        film.write(picture)
    film.release()
    return path


class SpotBackend:
    """Finds one person around everything bright."""

    def __init__(self) -> None:
        self.model = ModelRef(name="spot", sha256="cd" * 32)
        self.labels = ("person",)
        self.device = "cpu"
        self.batch_max = 2
        self.input_px = (160, 120)
        self.looks = 0

    def prepare(self, picture: Picture) -> Prepared:
        return Prepared(picture, Fit(picture.shape[1], picture.shape[0]))

    def infer(self, batch: Sequence[Prepared]) -> list[Outputs]:
        self.looks += len(batch)
        return [(_extent(prepared.pixels),) for prepared in batch]

    def decode(self, outputs: Outputs, prepared: Prepared) -> Found:
        count = len(outputs[0])
        return Found(outputs[0], np.full(count, 0.9, np.float32), np.zeros(count, np.int64))

    def close(self) -> None:
        """Nothing is held."""


def _extent(picture: Picture) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The box around what is bright, float32 [1, 4], or [0, 4]."""
    rows, columns = np.nonzero(picture[..., 0] > 180)
    if not rows.size:
        return np.zeros((0, 4), np.float32)
    return np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
