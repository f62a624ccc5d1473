"""What can happen to a camera's picture, made from pictures in which all is well: by night, and when it is not well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["LAMP", "TROUBLES", "WELL", "Change", "Grey", "read_greys", "write_film"]

Grey = NDArray[np.uint8]
"""Brightness, [h, w]."""
Change = Callable[[Grey, np.random.Generator], Grey]


def read_greys(path: Path, every: int = 1, count: int | None = None) -> list[Grey]:
    """Every so many pictures of a video, in grey."""
    video = cv2.VideoCapture(str(path))
    found: list[Grey] = []
    number = 0
    while (read := video.read())[0] and (count is None or len(found) < count):
        if number % every == 0:
            found.append(np.asarray(cv2.cvtColor(read[1], cv2.COLOR_BGR2GRAY), np.uint8))
        number += 1
    video.release()
    return found


def write_film(path: Path, pictures: list[Grey], fps: float = 10.0) -> None:
    """A film of JPEG pictures, which any reader plays."""
    height, width = pictures[0].shape
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    film = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, fps, (width, height))
    for picture in pictures:
        film.write(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR))
    film.release()


def _noisy(picture: NDArray[np.floating], sigma: float, rng: np.random.Generator) -> Grey:
    noise = rng.standard_normal(picture.shape, np.float32) * sigma
    return np.asarray(np.clip(np.rint(picture + noise), 0, 255), np.uint8)


def _light(gain: float, offset: float, sigma: float) -> Change:
    return lambda picture, rng: _noisy(picture.astype(np.float32) * gain + offset, sigma, rng)


def _lamp(picture: Grey, rng: np.random.Generator) -> Grey:
    """At night, and one street lamp."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    height, width = picture.shape
    lit = np.exp(-((((x - 0.3 * width) / (0.25 * width)) ** 2) + ((y - 0.4 * height) / (0.3 * height)) ** 2))
    return _noisy(picture * (0.05 + 0.4 * lit) + 4, 4.0, rng)


def _infrared(picture: Grey, rng: np.random.Generator) -> Grey:
    """By infrared what is dark by day may be light, and the other way round."""
    return _noisy(215.0 - 0.45 * np.clip(picture.astype(np.float32), 20, 255), 5.0, rng)


def _denoised(picture: Grey, rng: np.random.Generator) -> Grey:
    """At night, by a camera that smooths its noise away."""
    return np.asarray(cv2.GaussianBlur(_light(0.2, 6, 4)(picture, rng), (0, 0), 1.0), np.uint8)


def _crowd(picture: Grey, rng: np.random.Generator) -> Grey:
    """People close by: a third of the picture is something else."""
    height, width = picture.shape
    shown = picture.copy()
    for _ in range(4):
        wide, left = width // 12, int(rng.integers(0, width - width // 12))
        shown[height // 6 :, left : left + wide] = rng.integers(30, 90)
    return shown


def _shaken(picture: Grey, rng: np.random.Generator) -> Grey:
    down, right = (int(value) for value in rng.integers(-4, 5, 2))
    return np.roll(picture, (down, right), (0, 1))


def _blurred(share: float) -> Change:
    """Out of focus by so much of the picture's width."""
    return lambda picture, _rng: np.asarray(cv2.GaussianBlur(picture, (0, 0), share * picture.shape[1]), np.uint8)


def _turned(degrees: float) -> Change:
    def turn(picture: Grey, _rng: np.random.Generator) -> Grey:
        height, width = picture.shape
        # Enlarged, so that no corner is empty.
        rotation = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.3)
        return np.asarray(cv2.warpAffine(picture, rotation, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)

    return turn


def _panned(share: float) -> Change:
    return lambda picture, _rng: np.roll(picture, round(picture.shape[1] * share), 1)


def _cover(low: float, high: float, share: float = 1.0) -> Change:
    """Something smooth before the lens, lit from one side; over a part of the picture's width."""

    def cover(picture: Grey, rng: np.random.Generator) -> Grey:
        wide = round(picture.shape[1] * share)
        shown = picture.copy()
        slope = np.linspace(low, high, wide, dtype=np.float32)[None, :].repeat(picture.shape[0], 0)
        shown[:, :wide] = _noisy(slope, 2.0, rng)
        return shown

    return cover


def _black(level: float, sigma: float) -> Change:
    return lambda picture, rng: _noisy(np.full(picture.shape, level, np.float32), sigma, rng)


LAMP = "night, one lamp"
"""Where nights look so much different that they need a reference picture of their own."""

WELL: Mapping[str, Change] = {
    "as it is": lambda picture, _rng: picture,
    "bright sun": _light(1.3, 20, 1),
    "noisy": _light(1.0, 0, 6),
    "dusk": _light(0.4, 6, 3),
    "night": _light(0.15, 6, 4),
    "dark night": _light(0.1, 6, 3),
    LAMP: _lamp,
    "night, smoothed": _denoised,
    "night, infrared": _infrared,
    "fog": _light(0.25, 140, 2),
    "wind shakes it": _shaken,
    "people close by": _crowd,
}
"""In which all is well."""

TROUBLES: Mapping[str, tuple[str, Change]] = {
    "lens cap": ("black", _black(4, 2)),
    "no light": ("black", _black(18, 3)),
    "hand before it": ("covered", _cover(60, 140)),
    "dark cloth": ("covered", _cover(10, 40)),
    "paint, white": ("covered", _cover(240, 250)),
    "four fifths covered": ("covered", _cover(40, 60, 0.8)),
    "turned 8 degrees": ("turned", _turned(8)),
    "turned 25 degrees": ("turned", _turned(25)),
    "panned by 10 %": ("turned", _panned(0.1)),
    "panned by 40 %": ("turned", _panned(0.4)),
    "turned at night": ("turned", lambda picture, rng: _light(0.15, 6, 4)(_turned(20)(picture, rng), rng)),
    "out of focus": ("blurred", _blurred(0.00625)),
    "breath on the lens": ("blurred", _blurred(0.0125)),
}
"""In which something is not well: which check is to say so, and how it looks."""
